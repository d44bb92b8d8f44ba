"""Messages on their way to whichever server there is: kept while there is none, sent together, bounded."""

from __future__ import annotations

import asyncio

from lattice.background import begin
from lattice.wires import Outgoing, Wire

_FRAME = 64
"""Bytes counted for the control line of a queued message."""
_BATCH = 32
"""Messages that leave at once: with hundreds in one turn of the loop, the peer can begin meanwhile."""


class Outbox:
    """All messages of two turns of the loop leave in one write, in their order, over :attr:`wire`."""

    def __init__(self) -> None:
        self.wire: Wire | None = None
        """Where they leave; None while they have to wait."""
        self.size = 0
        """Bytes that wait, their frames included."""
        self._loop = asyncio.get_running_loop()
        self._messages: list[Outgoing] = []
        self._due = False
        self._released = asyncio.Event()
        self._released.set()
        self._unblocking: asyncio.Task[None] | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: Outgoing, size: int) -> None:
        """Queue a message of so many bytes of headers and payload; it leaves after the next turn of the loop."""
        self._messages.append(message)
        self.size += size + _FRAME
        if not self._due:
            self._due = True
            # Not at once, but when what is read meanwhile has been dealt with: half the writes, and half the reads of
            # the server, for a turn of the loop, which is short when there is nothing to read.
            self._loop.call_soon(self._loop.call_soon, self.flush)
        elif len(self._messages) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Send what waits, now or as soon as the server takes more."""
        self._due = False
        wire = self.wire
        if wire is None or not self._messages or not self._released.is_set():
            return
        if not wire.congested:
            self.write()
        elif self._unblocking is None:
            self._unblocking = begin(self._flush_when_writable(wire), "nats outbox")

    async def _flush_when_writable(self, wire: Wire) -> None:
        await wire.writable()
        self._unblocking = None
        self.flush()

    def write(self) -> None:
        """Send what waits without asking whether the server takes it."""
        if self._messages and self.wire is not None and not self.wire.lost.done() and self._released.is_set():
            messages, self._messages = self._messages, []
            self.size = 0
            self.wire.write(messages)

    def hold(self) -> None:
        """Send what waits, and nothing more until :meth:`release`."""
        self.write()
        self._released.clear()

    def release(self) -> None:
        """The end of :meth:`hold`."""
        self._released.set()
        self.flush()

    async def wait_released(self) -> None:
        """Return when nothing is held back; that takes as long as a server needs to answer."""
        await self._released.wait()

    def drop_requests(self) -> None:
        """Forget the requests that wait: their callers hear of a failure now."""
        self._messages = [message for message in self._messages if not message.is_request]
        self.size = sum(len(m.headers) + len(m.payload) + _FRAME for m in self._messages)

    async def close(self, timeout: float) -> tuple[int, int]:
        """Forget everything; messages and bytes that were still waiting."""
        self.wire = None
        if self._unblocking is not None:
            self._unblocking.cancel()
            await asyncio.wait({self._unblocking}, timeout=timeout)
        left = len(self._messages), self.size
        self._messages.clear()
        self.size = 0
        return left
