"""A store for backends that keep a key's value in one piece: they read it and replace it, nothing else."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from providers.keyvalue import values
from providers.keyvalue.store import Store
from providers.keyvalue.values import Change, Stored

Result = TypeVar("Result")


class ValueStore(Store):
    """The operations, as changes of whole values (:mod:`providers.keyvalue.values`)."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock

    @abstractmethod
    async def read(self, key: str) -> Stored:
        """The value of ``key``; None when there is none or it expired."""

    @abstractmethod
    async def change(self, key: str, change: Callable[[Stored], Change[Result]]) -> Result:
        """Replace the value of ``key`` by what ``change`` makes of it and return its answer, as one step.

        ``change`` is a pure function and may be called several times. What it raises is raised here and nothing is
        stored.
        """

    async def get(self, key: str) -> str | None:
        return values.text(await self.read(key), key)

    async def set(self, key: str, value: str, expires: int) -> None:
        after = values.set_text(value, expires, self.clock())
        await self.change(key, lambda stored: (after, None))

    async def contains(self, key: str) -> bool:
        return await self.read(key) is not None

    async def delete(self, key: str) -> bool:
        return await self.change(key, lambda stored: (None, stored is not None))

    async def increment(self, key: str, amount: int) -> int:
        return await self.change(key, partial(values.increment, key=key, amount=amount))

    async def list_add(self, key: str, value: str) -> int:
        return await self.change(key, partial(values.list_add, key=key, value=value))

    async def list_del(self, key: str, value: str) -> bool:
        return await self.change(key, partial(values.list_del, key=key, value=value))

    async def list_range(self, key: str, start: int, stop: int) -> Sequence[str]:
        return values.list_range(await self.read(key), key, start, stop)

    async def list_clear(self, key: str) -> bool:
        return await self.change(key, partial(values.list_clear, key=key))

    async def set_add(self, key: str, value: str) -> int:
        return await self.change(key, partial(values.set_add, key=key, value=value))

    async def set_del(self, key: str, value: str) -> int:
        return await self.change(key, partial(values.set_del, key=key, value=value))

    async def set_members(self, key: str) -> Iterable[str]:
        return values.members(await self.read(key), key)

    async def set_intersection(self, keys: Sequence[str]) -> Iterable[str]:
        return frozenset.intersection(*await self._all_members(keys))

    async def set_union(self, keys: Sequence[str]) -> Iterable[str]:
        return frozenset[str]().union(*await self._all_members(keys))

    async def set_clear(self, key: str) -> bool:
        return await self.change(key, partial(values.set_clear, key=key))

    async def _all_members(self, keys: Sequence[str]) -> list[frozenset[str]]:
        stored = await asyncio.gather(*(self.read(key) for key in keys))
        return [values.members(value, key) for value, key in zip(stored, keys, strict=True)]
