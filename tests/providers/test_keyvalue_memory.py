"""The key-value provider in memory: whose data are where, and for how long."""

from __future__ import annotations

import pytest

from lattice import bundled
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from providers.keyvalue.memory.shelf import Shelf
from tests.support.keyvalue import Store
from tests.support.providers import HostSide

MEMORY = bundled.find("bundled:keyvalue-memory")


def link(host: HostSide, actor: str, **values: str) -> LinkDefinition:
    return host.link(actor, MEMORY.public_key, MEMORY.contract_id, **values)


async def test_an_actor_has_data_of_its_own_unless_its_link_names_a_store(host: HostSide) -> None:
    actors = [KeyPair.generate(Role.MODULE).public for _ in range(4)]
    named = [{}, {}, {"store": "shared"}, {"STORE": "shared"}]
    links = [link(host, actor, **values) for actor, values in zip(actors, named, strict=True)]
    process = await host.start(MEMORY.module, host.host_data(MEMORY.public_key, *links))
    stores = [Store(process, actor) for actor in actors]
    for store, value in zip(stores, "abc", strict=False):
        await store.set("k", value)
    assert [await store.get("k") for store in stores] == ["a", "b", "c", "c"]


async def test_data_last_as_long_as_a_link_to_them(host: HostSide, actor: str) -> None:
    process = await host.start(MEMORY.module, host.host_data(MEMORY.public_key, link(host, actor)))
    store = Store(process, actor)
    assert await store.increment("k") == 1
    assert (await process.put(link(host, actor)))["state"] == "ready"
    assert await store.increment("k") == 2
    await process.delete(link(host, actor))
    await process.put(link(host, actor))
    assert await store.increment("k") == 1


@pytest.mark.parametrize("expires", [1, 1000])
async def test_values_that_expire_are_forgotten_though_nobody_asks_for_them(expires: int) -> None:
    now = 1000.0
    shelf = Shelf("test", clock=lambda: now)
    for n in range(10_000):
        await shelf.set(f"once {n}", "v", expires)
        await shelf.set("again and again", "v", expires + n)
    assert len(shelf._endings) <= 2 * len(shelf) + 64
    now += 20_000
    await shelf.set("k", "v", 0)
    assert len(shelf) == 1
