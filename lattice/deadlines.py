"""Time-outs of many tasks that share one timer.

``asyncio.timeout_at`` makes a timer of its own for each, which for a call that ends long before its deadline costs as
much as all else that is noted about it.
"""

from __future__ import annotations

import asyncio
from heapq import heapify, heappop, heappush
from itertools import count
from types import TracebackType
from typing import Final

_FEW: Final = 64
"""Entries among which those that are over are not looked for."""


class Deadline:
    """One block of one task, as ``with deadlines.at(when):``; TimeoutError leaves it when its time is up.

    What ``asyncio.timeout_at`` promises holds here, too: a cancellation from elsewhere passes as such, also one that
    comes at the same time.
    """

    __slots__ = ("_cancelled_before", "_deadlines", "_expired", "_task", "_when")

    def __init__(self, deadlines: Deadlines, when: float) -> None:
        self._deadlines = deadlines
        self._when = when
        self._task: asyncio.Task[object] | None = None
        self._cancelled_before = 0
        self._expired = False

    @property
    def over(self) -> bool:
        """The block has ended, or is about to."""
        return self._task is None or self._expired

    def __enter__(self) -> Deadline:
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("a deadline is for the block of a task")
        self._task = task
        self._cancelled_before = task.cancelling()
        self._deadlines.watch(self, self._when)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        self._deadlines.ended()
        if self._expired and task is not None:
            left = task.uncancel()
            if left <= self._cancelled_before and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def expire(self) -> None:
        """End the block now. Nothing happens when it is over."""
        if self._task is not None and not self._expired:
            self._expired = True
            self._task.cancel()


class Deadlines:
    """The blocks of one event loop that have a deadline, by the loop's clock."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._order: list[tuple[float, int, Deadline]] = []
        self._numbers = count()
        self._open = 0
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0.0

    def __len__(self) -> int:
        """Entries that are kept, those of blocks that are over included."""
        return len(self._order)

    def at(self, when: float) -> Deadline:
        """Enter it with ``with``, once; ``when`` is ``loop.time()`` at which the block is ended."""
        return Deadline(self, when)

    def watch(self, deadline: Deadline, when: float) -> None:
        """A block begins."""
        self._open += 1
        heappush(self._order, (when, next(self._numbers), deadline))
        if self._timer is None or when < self._armed_for:
            self._arm()

    def ended(self) -> None:
        """A block has ended."""
        self._open -= 1
        if len(self._order) > _FEW and len(self._order) > 2 * self._open:
            self._order = [entry for entry in self._order if not entry[2].over]
            heapify(self._order)

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = self._order[0][0]
        self._timer = self._loop.call_at(self._armed_for, self._expire)

    def _expire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._order and (self._order[0][2].over or self._order[0][0] <= now):
            heappop(self._order)[2].expire()
        if self._order:
            self._arm()
