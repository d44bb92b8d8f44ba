"""The provider of ``wasmcloud:keyvalue`` on a JetStream KV bucket: all 15 operations."""

from __future__ import annotations

import asyncio
import re
import time
from functools import partial
from typing import Final

from lattice.contracts.keyvalue import (
    CONTAINS,
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
from lattice.errors import Code
from lattice.links import LinkDefinition
from lattice.store import open_bucket
from providers.keyvalue import values
from providers.keyvalue.cells import Cells
from providers.provider import Call, LinkFailed, Provider, operation

_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")


def default_bucket(lattice: str) -> str:
    """The bucket of links without a value ``bucket``: one per lattice, shared by all its actors."""
    return f"KEYVALUE_{lattice}"


class KeyValue(Provider):
    """Links with the same bucket share their data, as actors with one Redis address do."""

    contract_id = "wasmcloud:keyvalue"

    def __init__(self) -> None:
        self._buckets: dict[str, Cells] = {}
        self._opening = asyncio.Lock()

    async def link_added(self, link: LinkDefinition) -> None:
        await self._open(self._bucket_of(link))

    async def link_changed(self, old: LinkDefinition, new: LinkDefinition) -> None:
        await self.link_added(new)

    async def stopped(self) -> None:
        for cells in self._buckets.values():
            await cells.close()

    def _bucket_of(self, link: LinkDefinition) -> str:
        named = {key.lower(): value for key, value in link.values.items()}.get("bucket", "")
        if not named:
            return default_bucket(self.host_data.lattice_rpc_prefix)
        if not _BUCKET.match(named):
            raise LinkFailed(
                f"invalid parameter: bucket {named!r} is not made of letters, digits, '_' and '-'", code=Code.INVALID
            )
        return named

    async def _open(self, name: str) -> Cells:
        async with self._opening:
            cells = self._buckets.get(name)
            if cells is None:
                cells = self._buckets[name] = Cells(
                    await open_bucket(self.connection, name, domain=self.host_data.js_domain or "")
                )
            return cells

    def _cells(self, call: Call) -> Cells:
        # By the link as it was when the call came in: a link that is removed meanwhile lets its calls finish.
        return self._buckets[self._bucket_of(call.link)]

    # --- text and counters ---

    @operation(GET)
    async def get(self, call: Call, key: str) -> GetResponse:
        text = values.text(await self._cells(call).read(key), key)
        return GetResponse() if text is None else GetResponse(value=text, exists=True)

    @operation(SET)
    async def set(self, call: Call, request: SetRequest) -> None:
        value = values.set_text(request.value, request.expires, time.time())
        await self._cells(call).change(request.key, lambda stored: (value, None))

    @operation(CONTAINS)
    async def contains(self, call: Call, key: str) -> bool:
        return await self._cells(call).read(key) is not None

    @operation(DEL)
    async def delete(self, call: Call, key: str) -> bool:
        return await self._cells(call).change(key, lambda stored: (None, stored is not None))

    @operation(INCREMENT)
    async def increment(self, call: Call, request: IncrementRequest) -> int:
        change = partial(values.increment, key=request.key, amount=request.value)
        return await self._cells(call).change(request.key, change)

    # --- lists ---

    @operation(LIST_ADD)
    async def list_add(self, call: Call, item: ListItem) -> int:
        change = partial(values.list_add, key=item.list_name, value=item.value)
        return await self._cells(call).change(item.list_name, change)

    @operation(LIST_DEL)
    async def list_del(self, call: Call, item: ListItem) -> bool:
        change = partial(values.list_del, key=item.list_name, value=item.value)
        return await self._cells(call).change(item.list_name, change)

    @operation(LIST_RANGE)
    async def list_range(self, call: Call, request: ListRangeRequest) -> list[str]:
        stored = await self._cells(call).read(request.list_name)
        return list(values.list_range(stored, request.list_name, request.start, request.stop))

    @operation(LIST_CLEAR)
    async def list_clear(self, call: Call, name: str) -> bool:
        return await self._cells(call).change(name, partial(values.list_clear, key=name))

    # --- sets ---

    @operation(SET_ADD)
    async def set_add(self, call: Call, item: SetItem) -> int:
        change = partial(values.set_add, key=item.set_name, value=item.value)
        return await self._cells(call).change(item.set_name, change)

    @operation(SET_DEL)
    async def set_del(self, call: Call, item: SetItem) -> int:
        change = partial(values.set_del, key=item.set_name, value=item.value)
        return await self._cells(call).change(item.set_name, change)

    @operation(SET_QUERY)
    async def set_query(self, call: Call, name: str) -> list[str]:
        return sorted(values.members(await self._cells(call).read(name), name))

    @operation(SET_INTERSECTION)
    async def set_intersection(self, call: Call, names: list[str]) -> list[str]:
        found = await self._members(call, names)
        return sorted(frozenset.intersection(*found)) if found else []

    @operation(SET_UNION)
    async def set_union(self, call: Call, names: list[str]) -> list[str]:
        return sorted(frozenset().union(*await self._members(call, names)))

    @operation(SET_CLEAR)
    async def set_clear(self, call: Call, name: str) -> bool:
        return await self._cells(call).change(name, partial(values.set_clear, key=name))

    async def _members(self, call: Call, names: list[str]) -> list[frozenset[str]]:
        cells = self._cells(call)
        stored = await asyncio.gather(*(cells.read(name) for name in names))
        return [values.members(value, name) for value, name in zip(stored, names, strict=True)]
