"""Wait for a condition with a deadline; a plain sleep is a guess."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 the conditions are facts about other processes, which set no event
            await asyncio.sleep(0.01)
