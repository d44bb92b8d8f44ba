"""The last events of the lattice, for who asks what happened: whoever published them, this host or another one."""

from __future__ import annotations

import collections
import time
from collections.abc import Iterator
from typing import Any, Final

import structlog

from lattice import document, subjects
from lattice.errors import LatticeError, MalformedMessage
from lattice.transport import Headers, Subscription, Transport

log = structlog.get_logger(__name__)

MOST_EVENTS: Final = 2000
MOST_BYTES: Final = 2 * 1024 * 1024
_BYTES_PER_MESSAGE: Final = 256 * 1024


class EventBook:
    """Remembers events as they were published, with the moment of their arrival."""

    def __init__(self, transport: Transport, lattice: str) -> None:
        self._transport = transport
        self._subject = subjects.events(lattice)
        self._events: collections.deque[tuple[float, bytes]] = collections.deque()
        self._bytes = 0
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Listen from now on."""
        self._subscription = await self._transport.subscribe(self._subject, self._on_event)

    async def close(self) -> None:
        if self._subscription is not None:
            try:
                await self._subscription.unsubscribe()
            except LatticeError as error:
                log.debug("events.unsubscribe_failed", reason=str(error))

    def since(self, age: float) -> Iterator[list[dict[str, Any]]]:
        """The events of the last ``age`` seconds, oldest first, in portions that fit into one message each."""
        oldest = time.monotonic() - age
        portion: list[dict[str, Any]] = []
        size = 0
        for moment, payload in self._events:
            if moment < oldest:
                continue
            try:
                event = document.parse("event", payload)
            except MalformedMessage:
                continue
            if not isinstance(event, dict):
                continue
            if portion and size + len(payload) > _BYTES_PER_MESSAGE:
                yield portion
                portion, size = [], 0
            portion.append(event)
            size += len(payload)
        if portion:
            yield portion

    def _on_event(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        if len(payload) > _BYTES_PER_MESSAGE:
            return
        self._events.append((time.monotonic(), payload))
        self._bytes += len(payload)
        while self._bytes > MOST_BYTES or len(self._events) > MOST_EVENTS:
            self._bytes -= len(self._events.popleft()[1])
