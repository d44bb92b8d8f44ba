"""How much of something may happen per second: keeps a flood from filling the log."""

from __future__ import annotations

import time
from collections.abc import Callable


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
