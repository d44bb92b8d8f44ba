"""How much of something may happen per second: keeps a flood from filling the log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

LOG_LINE: Final = 256
"""What one line of the log counts, beside its characters: writing a short one costs as much as writing a longer one."""


class Budget:
    """A token bucket. What does not fit is refused and counted."""

    def __init__(self, *, per_second: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = per_second
        self._burst = burst
        self._left = burst
        self._clock = clock
        self._filled = clock()
        self._refused = 0

    def take(self, amount: float = 1.0) -> bool:
        """True when ``amount`` may be spent now."""
        now = self._clock()
        self._left = min(self._burst, self._left + (now - self._filled) * self._rate)
        self._filled = now
        if amount > self._left:
            self._refused += 1
            return False
        self._left -= amount
        return True

    def refused(self) -> int:
        """How often ``take`` said no since this was asked last."""
        refused, self._refused = self._refused, 0
        return refused


def log_budget() -> Budget:
    """What one actor may log: about a thousand lines a second, and four times as many at once."""
    return Budget(per_second=256 * 1024, burst=1024 * 1024)
