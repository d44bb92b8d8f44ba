"""Values in a dictionary; what expired is forgotten with the next change of any key."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from typing import TypeVar

from providers.keyvalue.values import Change, Stored, Value
from providers.keyvalue.valuestore import ValueStore

Result = TypeVar("Result")


class Shelf(ValueStore):
    """One store. Nothing here waits, so that changes need no lock."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.name = name
        self._values: dict[str, Value] = {}
        self._endings: list[tuple[int, str]] = []
        """When keys may expire, a heap. Entries of values that were written over are passed by."""

    def __len__(self) -> int:
        return len(self._values)

    async def read(self, key: str) -> Stored:
        value = self._values.get(key)
        return None if value is None or value.ended(self.clock()) else value

    async def change(self, key: str, change: Callable[[Stored], Change[Result]]) -> Result:
        self._forget_ended()
        before = self._values.get(key)
        after, answer = change(before)
        if after is None:
            self._values.pop(key, None)
        elif after is not before:
            self._values[key] = after
            if after.expires and (before is None or before.expires != after.expires):
                self._note_ending(after.expires, key)
        return answer

    async def close(self) -> None:
        self._values.clear()
        self._endings.clear()

    def _note_ending(self, expires: int, key: str) -> None:
        heapq.heappush(self._endings, (expires, key))
        if len(self._endings) > 2 * len(self._values) + 64:  # most are of values written over since
            self._endings = [(value.expires, key) for key, value in self._values.items() if value.expires]
            heapq.heapify(self._endings)

    def _forget_ended(self) -> None:
        now = self.clock()
        while self._endings and self._endings[0][0] <= now * 1000:
            _, key = heapq.heappop(self._endings)
            value = self._values.get(key)
            if value is not None and value.ended(now):
                del self._values[key]
