"""Takes the messages of one read apart in one go.

nats-py's parser tries one kind of line after the other at the front of a buffer, which it shifts twice per message, and
awaits a coroutine for each. Nearly all that arrives are whole messages; they are handed on from here. The parser gets
the rest: all other lines, and a message that a read has cut in two.
"""

from __future__ import annotations

import re
from typing import Final, Protocol

_MESSAGE: Final = re.compile(rb"(?:MSG (\S+) (\d+) (?:(\S+) )?|HMSG (\S+) (\d+) (?:(\S+) )?(\d+) )(\d+)\r\n")
_END: Final = len(b"\r\n")


class Parser(Protocol):
    """What is used of nats-py's."""

    buf: bytearray
    """What a read has cut off."""
    needed: int
    """Bytes of the message whose line was read."""
    state: int

    async def parse(self, data: bytes = b"") -> None: ...

    def reset(self) -> None: ...


class Receiver(Protocol):
    """Who the messages are for."""

    def deliver(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> bool:
        """Hand one message on; True when others should have their turn before the next one."""

    async def yield_turn(self) -> None: ...


class BatchParser:
    """Stands in for nats-py's parser where the client reads."""

    def __init__(self, parser: Parser, receiver: Receiver, *, in_payload: int) -> None:
        """``in_payload`` is the state of ``parser`` after the line of a message."""
        self._parser = parser
        self._receiver = receiver
        self._in_payload = in_payload

    def reset(self) -> None:
        self._parser.reset()

    async def parse(self, data: bytes = b"") -> None:
        """Take in what was read."""
        at = await self._complete(data) if self._parser.buf or self._parser.state == self._in_payload else 0
        size, deliver = len(data), self._receiver.deliver
        while (line := _MESSAGE.match(data, at)) is not None:
            subject, sid, reply, h_subject, h_sid, h_reply, head, length = line.groups()
            start = line.end()
            at_end = start + int(length)
            if at_end + _END > size:
                break
            at = at_end + _END
            if head is None:
                pause = deliver(int(sid), subject, reply or b"", data[start:at_end], b"")
            else:
                body = start + int(head)
                pause = deliver(int(h_sid), h_subject, h_reply or b"", data[body:at_end], data[start:body])
            if pause:
                await self._receiver.yield_turn()
        if at < size:
            await self._parser.parse(data[at:])

    async def _complete(self, data: bytes) -> int:
        """Give the parser what it lacks of a line or message that was cut, and no more; how much that is."""
        parser, at = self._parser, 0
        while at < len(data) and (parser.buf or parser.state == self._in_payload):
            if parser.state == self._in_payload:
                end = at + parser.needed + _END - len(parser.buf)
            else:
                end = data.find(b"\n", at) + 1 or len(data)
            await parser.parse(data[at:end])
            at = end
        return at
