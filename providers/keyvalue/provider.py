"""The provider of ``wasmcloud:keyvalue``: all 15 operations, on whatever store a backend opens for a link."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from lattice.contracts.keyvalue import (
    CONTAINS,
    CONTRACT,
    DEL,
    GET,
    INCREMENT,
    LIST_ADD,
    LIST_CLEAR,
    LIST_DEL,
    LIST_RANGE,
    SET,
    SET_ADD,
    SET_CLEAR,
    SET_DEL,
    SET_INTERSECTION,
    SET_QUERY,
    SET_UNION,
    GetResponse,
    IncrementRequest,
    ListItem,
    ListRangeRequest,
    SetItem,
    SetRequest,
)
from lattice.errors import Code, LatticeError, NotLinked, Unreachable
from lattice.links import LinkDefinition
from providers.keyvalue.store import Store
from providers.provider import Call, Provider, operation

Place = TypeVar("Place", bound=Hashable)
"""Where the data of a link are; links with the same place share them."""


@dataclass(slots=True, eq=False)
class _Opened:
    store: Store
    actors: set[str] = field(default_factory=set)
    """Those whose links use it."""


class KeyValue(Provider, ABC, Generic[Place]):
    """A backend says where the data of a link are, and opens them; the rest is here."""

    contract_id = CONTRACT

    def __init__(self) -> None:
        self._opened: dict[Place, _Opened] = {}
        self._opening = asyncio.Lock()
        self._stores: dict[str, Store] = {}
        """By actor."""

    @abstractmethod
    def place(self, link: LinkDefinition) -> Place:
        """Where the data of a link are. Raises LinkFailed for values that make no sense."""

    @abstractmethod
    async def open(self, place: Place) -> Store:
        """The store there. Raises LatticeError when there can be none."""

    # --- links ---

    async def link_added(self, link: LinkDefinition) -> None:
        place = self.place(link)
        async with self._opening:
            opened = self._opened.get(place)
            if opened is None:
                opened = self._opened[place] = _Opened(await self.open(place))
            opened.actors.add(link.actor_id)
        self._stores[link.actor_id] = opened.store.for_actor(link.actor_id)
        await opened.store.settled()

    async def link_changed(self, old: LinkDefinition, new: LinkDefinition) -> None:
        await self.link_added(new)
        if self.place(old) != self.place(new):
            await self._release(self.place(old), old.actor_id)

    async def link_removed(self, link: LinkDefinition) -> None:
        self._stores.pop(link.actor_id, None)
        await self._release(self.place(link), link.actor_id)

    async def stopped(self) -> None:
        await asyncio.gather(*(opened.store.close() for opened in self._opened.values()))

    async def _release(self, place: Place, actor: str) -> None:
        opened = self._opened[place]
        opened.actors.discard(actor)
        if not opened.actors:
            del self._opened[place]
            await opened.store.close()

    def link_trouble(self, link: LinkDefinition) -> str:
        store = self._stores.get(link.actor_id)
        return store.trouble if store is not None else ""

    def late(self, call: Call) -> LatticeError:
        return Unreachable(
            f"timeout: {self._store(call).name}: no answer within {call.seconds:.1f} s; "
            "a change may have been stored or not",
            code=Code.TIMED_OUT,
        )

    def _store(self, call: Call) -> Store:
        try:
            return self._stores[call.actor]
        except KeyError:
            raise NotLinked(f"invalid parameter: actor not linked:{call.actor}") from None

    # --- text and counters ---

    @operation(GET)
    async def get(self, call: Call, key: str) -> GetResponse:
        text = await self._store(call).get(key)
        return GetResponse() if text is None else GetResponse(value=text, exists=True)

    @operation(SET)
    async def set(self, call: Call, request: SetRequest) -> None:
        await self._store(call).set(request.key, request.value, request.expires)

    @operation(CONTAINS)
    async def contains(self, call: Call, key: str) -> bool:
        return await self._store(call).contains(key)

    @operation(DEL)
    async def delete(self, call: Call, key: str) -> bool:
        return await self._store(call).delete(key)

    @operation(INCREMENT)
    async def increment(self, call: Call, request: IncrementRequest) -> int:
        return await self._store(call).increment(request.key, request.value)

    # --- lists ---

    @operation(LIST_ADD)
    async def list_add(self, call: Call, item: ListItem) -> int:
        return await self._store(call).list_add(item.list_name, item.value)

    @operation(LIST_DEL)
    async def list_del(self, call: Call, item: ListItem) -> bool:
        return await self._store(call).list_del(item.list_name, item.value)

    @operation(LIST_RANGE)
    async def list_range(self, call: Call, request: ListRangeRequest) -> list[str]:
        return list(await self._store(call).list_range(request.list_name, request.start, request.stop))

    @operation(LIST_CLEAR)
    async def list_clear(self, call: Call, name: str) -> bool:
        return await self._store(call).list_clear(name)

    # --- sets: members in order, so that equal sets give equal answers ---

    @operation(SET_ADD)
    async def set_add(self, call: Call, item: SetItem) -> int:
        return await self._store(call).set_add(item.set_name, item.value)

    @operation(SET_DEL)
    async def set_del(self, call: Call, item: SetItem) -> int:
        return await self._store(call).set_del(item.set_name, item.value)

    @operation(SET_QUERY)
    async def set_query(self, call: Call, name: str) -> list[str]:
        return sorted(await self._store(call).set_members(name))

    @operation(SET_INTERSECTION)
    async def set_intersection(self, call: Call, names: list[str]) -> list[str]:
        return sorted(await self._store(call).set_intersection(names)) if names else []

    @operation(SET_UNION)
    async def set_union(self, call: Call, names: list[str]) -> list[str]:
        return sorted(await self._store(call).set_union(names)) if names else []

    @operation(SET_CLEAR)
    async def set_clear(self, call: Call, name: str) -> bool:
        return await self._store(call).set_clear(name)
