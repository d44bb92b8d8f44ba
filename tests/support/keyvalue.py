"""The operations of the key-value contract, as an actor calls them."""

from __future__ import annotations

from typing import Any

from lattice import wire
from lattice.contracts import keyvalue as kv
from tests.support.providers import ProviderProcess


class Store:
    """A provider process as one actor sees it. Errors are RemoteError, with the text that the actor gets."""

    def __init__(self, process: ProviderProcess, actor: str, *, timeout: float = 2) -> None:
        self._process = process
        self._actor = actor
        self._timeout = timeout

    async def do(self, operation: str, argument: Any) -> Any:
        """``argument`` is packed as it is, or encodes itself."""
        own = isinstance(argument, kv.SetRequest | kv.IncrementRequest | kv.ListItem | kv.ListRangeRequest | kv.SetItem)
        payload = argument.encode() if own else wire.pack(argument)
        answer = await self._process.call(self._actor, operation, payload, contract=kv.CONTRACT, timeout=self._timeout)
        return wire.unpack_value(answer) if answer else None

    async def increment(self, key: str, amount: int = 1) -> int:
        return int(await self.do(kv.INCREMENT, kv.IncrementRequest(key=key, value=amount)))

    async def set(self, key: str, value: str, expires: int = 0) -> None:
        assert await self.do(kv.SET, kv.SetRequest(key=key, value=value, expires=expires)) is None

    async def get(self, key: str) -> str | None:
        found = await self.do(kv.GET, key)
        assert set(found) == {"value", "exists"}
        return found["value"] if found["exists"] else None

    async def list_add(self, name: str, value: str) -> int:
        return int(await self.do(kv.LIST_ADD, kv.ListItem(list_name=name, value=value)))

    async def list_range(self, name: str, start: int = 0, stop: int = -1) -> list[str]:
        found = await self.do(kv.LIST_RANGE, kv.ListRangeRequest(list_name=name, start=start, stop=stop))
        assert isinstance(found, list)
        return found

    async def set_add(self, name: str, value: str) -> int:
        return int(await self.do(kv.SET_ADD, kv.SetItem(set_name=name, value=value)))
