"""Pieces of something large on their way through a function that is slow for an event loop, as hashing is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

_TOGETHER: Final = 8
"""Pieces that one worker thread gets at a time: handing one over costs as much as hashing it may."""


class Passing:
    """Hands pieces to a function on worker threads, one after the other in their order, while the next ones arrive."""

    def __init__(self, take: Callable[[bytes], object]) -> None:
        """``take`` never raises, and runs in one thread at a time."""
        self._take = take
        self._pieces: list[bytes] = []
        self._last: asyncio.Future[None] | None = None

    async def add(self, piece: bytes) -> None:
        """Take one more; waits while the ones before are behind."""
        self._pieces.append(piece)
        if len(self._pieces) >= _TOGETHER:
            await self._pass_on()

    async def end(self) -> None:
        """Return when all of them have passed."""
        if self._pieces:
            await self._pass_on()
        if self._last is not None:
            await self._last

    async def _pass_on(self) -> None:
        if self._last is not None:
            await self._last
        pieces, self._pieces = self._pieces, []
        self._last = asyncio.get_running_loop().run_in_executor(None, self._pass, pieces)

    def _pass(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._take(piece)
