"""Did this process stand still just now (SIGSTOP, a suspended machine, no processor for it)?

What arrived meanwhile waited unread, and how long its senders go on waiting is counted from its sending. Nothing in a
message says when that was, as clocks differ. So all that the server had sent before it answers a first question after
the standstill counts as being as late as that lasted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import structlog

from lattice.background import begin
from lattice.errors import LatticeError, Overloaded

log = structlog.get_logger(__name__)

NOTICEABLE: Final = 1.0
"""Seconds without a turn of the loop that count as a standstill."""
_TICK: Final = 0.25
_CATCH_UP: Final = 5.0


class Standstill:
    """Watches the loop between ``start`` and ``stop``; ``flush`` returns when all that the server sent was handled."""

    def __init__(self, flush: Callable[[float], Awaitable[None]]) -> None:
        self._loop = asyncio.get_running_loop()
        self._flush = flush
        self._ticked = self._loop.time()
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._catching_up: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._ticked = self._loop.time()
        self._timer = self._loop.call_later(_TICK, self._tick)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._catching_up is not None:
            self._catching_up.cancel()

    def behind(self) -> float:
        """Seconds for which a message that is handled now may have waited unread; 0 unless the process stood still."""
        late = self._loop.time() - self._ticked
        return max(late, self._seconds) if late > NOTICEABLE else self._seconds

    def _tick(self) -> None:
        now = self._loop.time()
        late, self._ticked = now - self._ticked, now
        self._timer = self._loop.call_later(_TICK, self._tick)
        if late > NOTICEABLE:
            log.warning("process.stood_still", seconds=round(late, 1))
            self._seconds = max(self._seconds, late)
            if self._catching_up is None:
                self._catching_up = begin(self._catch_up(), "catching up")

    async def _catch_up(self) -> None:
        try:
            with suppress(LatticeError):
                await self._flush(_CATCH_UP)
        finally:
            self._seconds, self._catching_up = 0.0, None


def stood_still(who: str, seconds: float) -> Overloaded:
    """How a call is refused whose caller may have given up meanwhile: executed, it could count a second time."""
    return Overloaded(
        f"{who} stood still for {seconds:.1f} s, and this call may be as old: nothing was done; call again"
    )
