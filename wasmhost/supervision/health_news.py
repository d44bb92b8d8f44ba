"""Which event tells what a health check found: a change at once, the rest in the slow rhythm of classic hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lattice import events


class HealthNews:
    """What was last said about one provider's health."""

    def __init__(self, rhythm: float) -> None:
        """``rhythm``: seconds between the events of a provider that stays well."""
        self.healthy = False
        self._reason = ""
        self._rhythm = rhythm
        self._said_at = float("-inf")

    def forget(self) -> None:
        """Its process ended: the next one that is well is news."""
        self.healthy = False

    def of(
        self, failure: str, now: float, *, answered: bool = True
    ) -> tuple[Callable[..., events.Built], dict[str, Any]] | None:
        """The event for a check that found ``failure`` (empty: all well) at ``now``, a ``loop.time()``, or none.

        ``answered``: the process has ever answered; one that never does is told of in every rhythm, as managers wait.
        """
        was_healthy, self.healthy = self.healthy, not failure
        same, self._reason = failure == self._reason, failure
        if failure:
            if was_healthy or not same:
                return events.health_check_failed, {"error": failure}
            return None if answered else self._status(now)
        if not was_healthy:
            self._said_at = now
            return events.health_check_passed, {}
        return self._status(now)

    def _status(self, now: float) -> tuple[Callable[..., events.Built], dict[str, Any]] | None:
        if now - self._said_at < 0.9 * self._rhythm:  # checks come a little early or late
            return None
        self._said_at = now
        return events.health_check_status, {}
