"""What a JetStream stream holds now and gets later, in order and without gaps, or an error that says to read again."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Self

from lattice import headers as header_block
from lattice.connection import Connection
from lattice.errors import Code, LatticeError
from lattice.transport import Headers, State, Subscription

HEARTBEAT: Final = 2.0
"""Seconds after which the server says that it is still there when nothing changes."""
MOST_WAITING: Final = 100_000
"""Messages kept for a reader that does not keep up; beyond it, it reads again."""

DELETED: Final[Mapping[str, str]] = {"KV-Operation": "DEL"}


def is_deletion(headers: Headers) -> bool:
    """Whether a message marks its key as deleted: by a client (DEL, PURGE) or by the server (expiry, limits)."""
    return headers is not None and (
        headers.get("KV-Operation") in ("DEL", "PURGE") or headers.get("Nats-Marker-Reason") is not None
    )


class Stale(Exception):
    """Something may be missing from the feed; begin another one."""


@dataclass(frozen=True, slots=True)
class Item:
    """The last message of one key."""

    key: str
    value: bytes
    revision: int
    deleted: bool
    pending: int
    """How many messages the server had still to send when it sent this one."""
    stored: float = 0.0
    """Unix time at which the server stored it, by its clock."""


Ask = Callable[[str, Mapping[str, Any] | None], Awaitable[Mapping[str, Any]]]


class Feed:
    """An ephemeral push consumer of the last message per subject. Use with ``async with``."""

    def __init__(
        self, connection: Connection, ask: Ask, api: str, stream: str, prefix: str, *, headers_only: bool = False
    ) -> None:
        self._connection = connection
        self._ask = ask
        self._api = api
        self._stream = stream
        self._prefix = prefix
        self._headers_only = headers_only
        self._waiting: deque[Item] = deque()
        self._arrived = asyncio.Event()
        self._stale = ""
        self._idle = False
        self._last_sequence = 0
        self._alive_at = 0.0
        self._initial = 0
        self._consumer = ""
        self.began: float | None = None
        """Unix time at which it began, by the server's clock; None where the server does not tell."""
        self._subscription: Subscription | None = None
        self._end_watch: Callable[[], None] = lambda: None

    async def __aenter__(self) -> Self:
        """Raises Stale when there is no connection, and what the JetStream API request raises."""
        if self._connection.state is not State.CONNECTED:
            raise Stale("no connection")
        self._end_watch = self._connection.on_state(self._on_state)
        try:
            inbox = self._connection.new_inbox()
            self._subscription = await self._connection.subscribe(inbox, self._on_message)
            config = {
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "ack_policy": "none",
                "max_deliver": 1,
                "filter_subject": f"{self._prefix}>",
                "headers_only": self._headers_only,
                "idle_heartbeat": int(HEARTBEAT * 1e9),
                "inactive_threshold": int(30e9),
                "mem_storage": True,
                "num_replicas": 1,
            }
            answer = await self._ask(f"CONSUMER.CREATE.{self._stream}", {"stream_name": self._stream, "config": config})
            self._consumer = str(answer.get("name", ""))
            self._initial = int(answer.get("num_pending", 0))
            self.began = seconds(answer.get("created"))
            self._alive_at = asyncio.get_running_loop().time()
        except BaseException as error:
            await self._end()
            if isinstance(error, LatticeError) and error.code is Code.DISCONNECTED:
                raise Stale(str(error)) from error
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end()

    async def initial(self) -> AsyncIterator[Item]:
        """The last message of every key at the moment when the feed began (and maybe later ones).

        A key that is overwritten before it was sent may be left out: it is then the first thing of what follows.
        """
        left = self._initial
        while left > 0:
            item = await self._next(until_idle=True)
            if item is None:
                return  # what was pending has been removed from the stream
            left = min(left - 1, item.pending)
            yield item

    async def following(self) -> AsyncIterator[Item]:
        """What comes after; without end."""
        while (item := await self._next()) is not None:
            yield item

    async def _next(self, *, until_idle: bool = False) -> Item | None:
        loop = asyncio.get_running_loop()
        while not self._waiting:
            if self._stale:
                raise Stale(self._stale)
            if until_idle and self._idle:
                return None
            left = self._alive_at + 2.5 * HEARTBEAT - loop.time()
            if left <= 0:
                raise Stale("the server has stopped sending")
            self._arrived.clear()
            try:
                async with asyncio.timeout(left):
                    await self._arrived.wait()
            except TimeoutError:
                continue
        return self._waiting.popleft()

    async def _end(self) -> None:
        self._end_watch()
        try:
            if self._consumer:
                # Nobody waits for the answer: the server drops a consumer without listener by itself as well.
                self._connection.publish(f"{self._api}.CONSUMER.DELETE.{self._stream}.{self._consumer}", b"")
            if self._subscription is not None:
                await self._subscription.unsubscribe()
        except LatticeError:
            pass

    def _fail(self, reason: str) -> None:
        self._stale = self._stale or reason
        self._arrived.set()

    def _on_state(self, state: State) -> None:
        if state is not State.CONNECTED:
            self._fail("the connection was lost")

    def _on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self._alive_at = asyncio.get_running_loop().time()
        if self._stale:
            return
        if headers is not None and header_block.STATUS in headers:
            if headers.get("Nats-Last-Consumer", str(self._last_sequence)) != str(self._last_sequence):
                self._fail("messages were lost")
            elif headers[header_block.STATUS] != "100":
                self._fail(f"the consumer ended: {headers.get(header_block.DESCRIPTION, 'no reason given')}")
            else:
                self._idle = True
                self._arrived.set()
            return
        try:
            revision, sequence, pending = positions(reply)
        except ValueError:
            self._fail(f"a message without its position: {reply[:200]}")
            return
        if sequence != self._last_sequence + 1:
            self._fail("messages were lost")
            return
        self._last_sequence = sequence
        self._idle = False
        if len(self._waiting) >= MOST_WAITING:
            self._fail("the reader does not keep up")
            return
        key = subject.removeprefix(self._prefix)
        self._waiting.append(Item(key, payload, revision, is_deletion(headers), pending, stored_at(reply)))
        self._arrived.set()


def positions(reply: str) -> tuple[int, int, int]:
    """Sequence in the stream, sequence in the consumer and messages pending, from a message's reply subject.

    ``$JS.ACK.<stream>.<consumer>.<deliveries>.<stream seq>.<consumer seq>.<time>.<pending>``; newer servers may put a
    domain and an account hash after ``ACK`` and a random token at the end. Raises ValueError.
    """
    tokens = _tokens(reply)
    return int(tokens[5]), int(tokens[6]), int(tokens[8])


def stored_at(reply: str) -> float:
    """Unix time at which a message was stored, by the server's clock, from the same. Raises ValueError."""
    return int(_tokens(reply)[7]) / 1e9


def seconds(value: object) -> float | None:
    """Unix time of an RFC 3339 text; None for anything else."""
    try:
        # Nanoseconds, as servers and some clients write them, are more digits than Python reads.
        text = re.sub(r"(\.\d{6})\d+", r"\1", str(value))
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return None


def _tokens(reply: str) -> list[str]:
    tokens = reply.split(".")
    if len(tokens) >= 11:
        tokens = tokens[2:11]
    if len(tokens) != 9:
        raise ValueError(reply)
    return tokens
