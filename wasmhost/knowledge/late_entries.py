"""What a host has made known while the bucket could not be written: stored as soon as it can be."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from lattice.errors import LatticeError

log = structlog.get_logger(__name__)

_FIRST_PAUSE: Final = 5.0
_LONGEST_PAUSE: Final = 60.0
"""Seconds between attempts; a bucket that may not be written is reported by the server each time."""


class LateEntries:
    """Entries by key, only the last value of each; tried again until they are stored."""

    def __init__(self, put: Callable[[str, bytes], Awaitable[object]]) -> None:
        """``put`` stores one entry, or raises LatticeError."""
        self._put = put
        self._entries: dict[str, bytes] = {}
        self._soon = asyncio.Event()
        self._storing: asyncio.Task[None] | None = None

    def add(self, key: str, value: bytes) -> None:
        """Store this later."""
        self._entries[key] = value
        if self._storing is None:
            self._storing = asyncio.create_task(self._store(), name="late entries")

    def drop(self, key: str) -> None:
        """Somebody has written a newer value, or is about to."""
        self._entries.pop(key, None)

    def try_soon(self) -> None:
        """The bucket works again, as far as is known."""
        self._soon.set()

    async def close(self) -> None:
        if self._storing is not None:
            self._storing.cancel()
            await asyncio.wait({self._storing})

    async def _store(self) -> None:
        pause = _FIRST_PAUSE
        self._soon.clear()
        while self._entries:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._soon.wait(), pause)
            pause = _FIRST_PAUSE if self._soon.is_set() else min(2 * pause, _LONGEST_PAUSE)
            self._soon.clear()
            try:
                await self._store_all()
            except LatticeError as error:
                log.debug("metadata.still_not_stored", entries=len(self._entries), reason=str(error))
        self._storing = None

    async def _store_all(self) -> None:
        for key, value in list(self._entries.items()):
            if self._entries.get(key) is value:
                await self._put(key, value)
                log.info("metadata.stored_late", key=key)
                if self._entries.get(key) is value:
                    del self._entries[key]
