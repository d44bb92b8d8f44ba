"""The starts under way: a command that stops an actor or provider may come on the heels of the one that starts it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Start:
    """One command that starts instances."""

    key: str = ""
    """What is started, as soon as that is known: an image has to be read first."""
    over: asyncio.Event = field(default_factory=asyncio.Event)


class Starts:
    """Those of one host."""

    def __init__(self) -> None:
        self._begun: dict[Start, None] = {}

    @contextlib.asynccontextmanager
    async def begin(self, key: str = "") -> AsyncIterator[Start]:
        start = Start(key)
        self._begun[start] = None
        try:
            yield start
        finally:
            del self._begun[start]
            start.over.set()

    async def wait_for(self, key: str, condition: Callable[[], bool], timeout: float) -> bool:
        """Whether ``condition()`` is true, now or once those starts are over that may be of ``key``.

        Waits for ``timeout`` seconds at most.
        """
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while not condition():
                    start = next((start for start in self._begun if start.key in ("", key)), None)
                    if start is None:
                        break
                    await start.over.wait()
        return condition()
