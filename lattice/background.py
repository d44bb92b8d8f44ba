"""Work beside the caller: tasks that somebody owns, and whose failure is told when it happens.

A task that nobody awaits keeps what it raised to itself until it is collected, and what it did is missed long before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

log = structlog.get_logger(__name__)

T = TypeVar("T")


def begin(work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
    """Do ``work`` in a task, which the caller keeps and ends. What it raises is logged under ``name``."""
    task = asyncio.get_running_loop().create_task(work, name=name)
    task.add_done_callback(_tell)
    return task


class Background:
    """The tasks of one owner, which ends them with itself."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def begin(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """As the function of this name; the task is kept here."""
        task = begin(work, name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def cancel(self) -> None:
        """Have all of them end soon."""
        for task in self._tasks:
            task.cancel()

    async def end(self, patience: float = 0.0) -> int:
        """Return when all have ended; what is under way after ``patience`` seconds is cancelled: how many that were."""
        if self._tasks and patience:
            await asyncio.wait(self._tasks, timeout=patience)
        late = list(self._tasks)
        self.cancel()
        if late:
            await asyncio.wait(late)
        return len(late)


def _tell(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("task.failed", task=task.get_name(), exc_info=error)
