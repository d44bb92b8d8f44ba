"""Messages that are taken apart a read at a time: the same ones, in the same order, wherever reads are cut."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.errors import ProtocolError
from nats.protocol.parser import AWAITING_MSG_PAYLOAD, Parser

from lattice.reading import BatchParser

Heard = list[tuple[Any, ...]]


class Client:
    """Notes what it is told, as a client of nats-py's parser and as a receiver."""

    def __init__(self) -> None:
        self.heard: Heard = []
        self.turns = 0

    def deliver(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> bool:
        self.heard.append((sid, subject, reply, payload, headers))
        return len(self.heard) % 2 == 0

    async def yield_turn(self) -> None:
        self.turns += 1

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes | None) -> None:
        self.deliver(sid, subject, reply, data, headers or b"")

    async def _process_ping(self) -> None:
        self.heard.append(("ping",))

    async def _process_pong(self) -> None:
        self.heard.append(("pong",))

    async def _process_err(self, text: str) -> None:
        self.heard.append((text,))

    async def _process_info(self, info: dict[str, Any]) -> None:
        self.heard.append(tuple(info))


def read(pieces: list[bytes], *, batched: bool) -> tuple[Heard, str]:
    client = Client()
    parser: Any = Parser(client)
    if batched:
        parser = BatchParser(parser, client, in_payload=AWAITING_MSG_PAYLOAD)

    async def run() -> str:
        try:
            for piece in pieces:
                await parser.parse(piece)
        except ProtocolError as error:
            return type(error).__name__
        return ""

    return client.heard, asyncio.run(run())


def message(payload: bytes, reply: bytes, headers: bytes | None) -> bytes:
    asked = reply + b" " if reply else b""
    if headers is None:
        return b"MSG a.b 7 %b%d\r\n%b\r\n" % (asked, len(payload), payload)
    head = b"NATS/1.0\r\nk: " + headers + b"\r\n\r\n"
    return b"HMSG a.b 12 %b%d %d\r\n%b%b\r\n" % (asked, len(head), len(head) + len(payload), head, payload)


payloads = st.binary(max_size=40) | st.sampled_from([b"MSG a.b 7 3\r\nabc\r\n", b"PING\r\n", b"\r\n"])
frames = st.one_of(
    st.builds(message, payloads, st.sampled_from([b"", b"_INBOX.x", b"5"]), st.none() | st.just(b"v")),
    st.sampled_from([b"PING\r\n", b"PONG\r\n", b"+OK\r\n", b"-ERR 'Slow'\r\n", b'INFO {"ldm":true}\r\n']),
)


@given(st.lists(frames, max_size=8), st.lists(st.integers(0, 400), max_size=6))
def test_the_messages_are_the_same_wherever_reads_are_cut(session: list[bytes], cuts: list[int]) -> None:
    data = b"".join(session)
    places = sorted({0, len(data), *(min(cut, len(data)) for cut in cuts)})
    pieces = [data[start:end] for start, end in itertools.pairwise(places)]
    alone = read([data], batched=False)
    assert len(alone[0]) == len([frame for frame in session if frame != b"+OK\r\n"])
    assert read(pieces, batched=True) == alone


@pytest.mark.parametrize("line", [b"MSG a.b x 3\r\nabc\r\n", b"HMSG a.b 7 3\r\n", b"MSG a.b\r\n", b"NONSENSE\r\n"])
def test_what_is_no_message_is_left_to_the_parser_of_the_library(line: bytes) -> None:
    data = message(b"first", b"", None) + line
    heard, error = read([data], batched=True)
    assert heard == [(7, b"a.b", b"", b"first", b"")]
    assert (heard, error) == read([data], batched=False) and error
