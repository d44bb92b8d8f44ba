"""Who watches what on this host, and until when: nobody is served whose lease was not renewed."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Final

from lattice.encoding import Encoding
from lattice.errors import Overloaded

MOST_LEASES: Final = 64
"""Watchers of one kind at one time."""


@dataclass(frozen=True, slots=True)
class Watcher:
    """Where the messages go, and in which encoding."""

    inbox: str
    encoding: Encoding


class Leases:
    """Watchers of actors and providers by public key."""

    def __init__(self) -> None:
        self.active = False
        """Somebody watches something: the one thing that the path of a call looks at."""
        self._until: dict[str, dict[Watcher, float]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def grant(self, key: str, watcher: Watcher, seconds: float) -> None:
        """Serve ``watcher`` for so long from now; 0 ends it. Raises Overloaded when there are too many."""
        loop = asyncio.get_running_loop()
        self._prune(loop.time())
        watchers = self._until.get(key, {})
        if seconds <= 0:
            watchers.pop(watcher, None)
        else:
            if watcher not in watchers and sum(map(len, self._until.values())) >= MOST_LEASES:
                raise Overloaded(f"this host has {MOST_LEASES} watchers; end one of them, or try later")
            self._until.setdefault(key, {})[watcher] = loop.time() + seconds
        self._arm(loop)

    def watchers(self, key: str) -> list[Watcher]:
        return list(self._until.get(key, ()))

    def close(self) -> None:
        """End all leases."""
        self._until.clear()
        self._arm(asyncio.get_running_loop())

    def _arm(self, loop: asyncio.AbstractEventLoop) -> None:
        self._until = {key: watchers for key, watchers in self._until.items() if watchers}
        self.active = bool(self._until)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._until:
            first = min(until for watchers in self._until.values() for until in watchers.values())
            self._timer = loop.call_at(first, self._expire, loop)

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._prune(loop.time() + 0.001)
        self._arm(loop)

    def _prune(self, now: float) -> None:
        for watchers in self._until.values():
            for watcher in [watcher for watcher, until in watchers.items() if until <= now]:
                del watchers[watcher]
