"""Calls of an actor to a provider that wait while the provider is told the actor's link anew.

Between the two messages by which a classic provider learns of a changed link it refuses the actor. Nobody must notice:
calls that arrive meanwhile wait, and the calls in flight are let finish first.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from lattice.errors import Code, Unreachable

Path = tuple[str, str, str]
"""Actor key, provider key, link name."""


@dataclass(slots=True)
class _Hold:
    holders: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Holding:
    """Which calls of this host are in flight to providers, and which have to wait."""

    def __init__(self) -> None:
        self._active: dict[Path, int] = {}
        self._holds: dict[Path, _Hold] = {}
        self._idle: dict[Path, asyncio.Event] = {}

    def is_held(self, path: Path) -> bool:
        return path in self._holds

    async def wait(self, path: Path, timeout: float) -> None:
        """Return when calls may pass; raises Unreachable when that takes longer than ``timeout`` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while (hold := self._holds.get(path)) is not None:
                    await hold.over.wait()
        except TimeoutError:
            raise Unreachable("the link is being changed and the provider is not ready", code=Code.TIMED_OUT) from None

    def enter(self, path: Path) -> None:
        """A call begins; :meth:`leave` must follow."""
        self._active[path] = self._active.get(path, 0) + 1

    def leave(self, path: Path) -> None:
        left = self._active[path] - 1
        if left:
            self._active[path] = left
            return
        del self._active[path]
        if (idle := self._idle.pop(path, None)) is not None:
            idle.set()

    @contextlib.asynccontextmanager
    async def held(self, path: Path, *, patience: float) -> AsyncIterator[None]:
        """Let no new call pass inside; begins when those in flight have ended, after ``patience`` seconds at most."""
        hold = self._holds.setdefault(path, _Hold())
        hold.holders += 1
        try:
            if path in self._active:
                idle = self._idle.setdefault(path, asyncio.Event())
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(idle.wait(), patience)
            yield
        finally:
            hold.holders -= 1
            if not hold.holders:
                del self._holds[path]
                hold.over.set()
