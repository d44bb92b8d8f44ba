"""What the key-value contract promises, on every backend: the provider as a process, its data where they really are."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

import pytest

from lattice import bundled
from lattice.contracts import keyvalue as kv
from lattice.errors import RemoteError
from lattice.keys import KeyPair, Role
from tests.support.keyvalue import Store
from tests.support.providers import HostSide
from tests.support.redis import RedisServer


@dataclass(frozen=True)
class Backend:
    """One of the providers, and its words for what all of them refuse."""

    provider: bundled.BundledProvider
    values: dict[str, str]
    """Of a link that shares its data with other links of the test, and with nobody else."""
    wrong_kind: str = "key 'k' holds a (list|set), not (text|a list|a set)|key 'k' holds text, not a (list|set)"
    not_an_integer: str = "key 'c' holds a text that is not an integer"

    async def stores(self, host: HostSide, *actors: str) -> list[Store]:
        """One process, and a link to it for each actor."""
        own = self.provider
        links = [host.link(actor, own.public_key, own.contract_id, **self.values) for actor in actors]
        process = await host.start(own.module, host.host_data(own.public_key, *links))
        return [Store(process, actor) for actor in actors]


@pytest.fixture(params=["keyvalue", "keyvalue-redis", "keyvalue-memory"])
def backend(request: pytest.FixtureRequest, lattice: str) -> Backend:
    provider = bundled.BUNDLED[request.param]
    if request.param == "keyvalue-redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        return Backend(
            provider,
            {"URL": server.database()},
            wrong_kind="^redis error: WRONGTYPE",
            not_an_integer="^redis error: value is not an integer or out of range",
        )
    return Backend(provider, {"store": lattice} if request.param == "keyvalue-memory" else {})


@pytest.fixture
async def store(backend: Backend, host: HostSide, actor: str) -> Store:
    return (await backend.stores(host, actor))[0]


async def test_text_is_set_read_found_and_deleted(store: Store) -> None:
    assert await store.get("k") is None
    assert await store.do(kv.CONTAINS, "k") is False
    await store.set("k", "väl ue")
    assert await store.get("k") == "väl ue"
    assert await store.do(kv.CONTAINS, "k") is True
    await store.set("k", "")
    assert await store.get("k") == ""
    assert await store.do(kv.DEL, "k") is True
    assert await store.do(kv.DEL, "k") is False
    assert await store.get("k") is None
    await store.set("k", "again")
    assert await store.get("k") == "again"


async def test_any_text_is_a_key_and_a_value(store: Store) -> None:
    for n, text in enumerate(["", "counter:/a b", "*", ">", "a.b..", "ключ", "\r\n$3", "nul \0", "x" * 2048]):
        assert await store.increment(text, n) == n
        assert await store.get(text) == str(n)
        await store.set("k", text)
        assert await store.get("k") == text


async def test_large_values_are_kept_whole(store: Store) -> None:
    large = "lärge " * 50_000
    await store.set("k", large)
    assert await store.get("k") == large
    assert await store.list_add("l", large) == 1
    assert await store.list_range("l") == [large]


async def test_counters_count_in_both_directions_and_refuse_overflow(backend: Backend, store: Store) -> None:
    assert [await store.increment("c", amount) for amount in (1, 5, -10, 0)] == [1, 6, -4, -4]
    for limit, step in ((kv.I32_MAX, 1), (kv.I32_MIN, -1)):
        await store.set("c", str(limit - step))
        assert await store.increment("c", step) == limit
        for amount in (step, limit):
            with pytest.raises(RemoteError, match="32-bit range; the key was not changed"):
                await store.increment("c", amount)
        assert await store.get("c") == str(limit)
    await store.set("c", "5000000000")
    with pytest.raises(RemoteError, match="32-bit range; the key was not changed"):
        await store.increment("c", 0)
    for text in (
        "seven",
        "",
        " 1",
        "1_0",
        "007",
        "-0",
        "1.5",
        "inf",
        "nan",
        "9e9",
        "0x7fffffff",
        "03000000000",
        "9" * 30,
    ):
        await store.set("c", text)
        with pytest.raises(RemoteError, match=backend.not_an_integer):
            await store.increment("c")
        assert await store.get("c") == text


async def test_lists(store: Store) -> None:
    assert [await store.list_add("l", value) for value in "abca"] == [1, 2, 3, 4]
    assert await store.list_range("l") == ["a", "b", "c", "a"]
    assert await store.list_range("l", -2, 9) == ["c", "a"]
    assert await store.list_range("l", 1, 1) == ["b"]
    assert await store.list_range("l", 2, 1) == []
    assert await store.list_range("l", -9, -9) == []
    assert await store.do(kv.LIST_DEL, kv.ListItem(list_name="l", value="a")) is True
    assert await store.do(kv.LIST_DEL, kv.ListItem(list_name="l", value="z")) is False
    assert await store.list_range("l") == ["b", "c", "a"]
    assert await store.do(kv.LIST_CLEAR, "l") is True
    assert await store.do(kv.LIST_CLEAR, "l") is False
    assert await store.list_range("l") == []


async def test_sets(store: Store) -> None:
    for name, members in (("s", "abc"), ("t", "bcd")):
        for member in members:
            assert await store.set_add(name, member) == 1
    assert await store.set_add("s", "a") == 0
    assert await store.do(kv.SET_QUERY, "s") == ["a", "b", "c"]
    assert await store.do(kv.SET_QUERY, "none") == []
    assert await store.do(kv.SET_INTERSECTION, ["s", "t"]) == ["b", "c"]
    assert await store.do(kv.SET_INTERSECTION, ["s"]) == ["a", "b", "c"]
    assert await store.do(kv.SET_INTERSECTION, ["s", "none"]) == []
    assert await store.do(kv.SET_INTERSECTION, []) == []
    assert await store.do(kv.SET_UNION, ["s", "t", "none"]) == ["a", "b", "c", "d"]
    assert await store.do(kv.SET_UNION, []) == []
    assert await store.do(kv.SET_DEL, kv.SetItem(set_name="s", value="a")) == 1
    assert await store.do(kv.SET_DEL, kv.SetItem(set_name="s", value="a")) == 0
    assert await store.do(kv.SET_CLEAR, "s") is True
    assert await store.do(kv.SET_CLEAR, "s") is False
    assert await store.do(kv.SET_QUERY, "s") == []


async def test_empty_lists_and_sets_do_not_exist(store: Store) -> None:
    await store.list_add("k", "a")
    assert await store.do(kv.CONTAINS, "k") is True
    assert await store.do(kv.LIST_DEL, kv.ListItem(list_name="k", value="a")) is True
    assert await store.do(kv.CONTAINS, "k") is False
    assert await store.set_add("k", "a") == 1, "of another kind than before"
    assert await store.do(kv.SET_DEL, kv.SetItem(set_name="k", value="a")) == 1
    assert await store.do(kv.DEL, "k") is False


async def test_every_operation_of_the_contract_is_there(store: Store) -> None:
    for name in kv.OPERATIONS:
        with pytest.raises(RemoteError) as caught:
            await store.do(name, 1.5)
        assert "method not handled" not in str(caught.value)
    with pytest.raises(RemoteError, match=r"method not handled KeyValue\.Sort"):
        await store.do("KeyValue.Sort", "k")


async def test_another_kind_of_value_is_refused_and_left_alone(backend: Backend, store: Store) -> None:
    on_text: list[tuple[str, Any]] = [
        (kv.GET, "k"),
        (kv.INCREMENT, kv.IncrementRequest(key="k", value=1)),
    ]
    on_lists: list[tuple[str, Any]] = [
        (kv.LIST_ADD, kv.ListItem(list_name="k", value="a")),
        (kv.LIST_DEL, kv.ListItem(list_name="k", value="a")),
        (kv.LIST_RANGE, kv.ListRangeRequest(list_name="k", start=0, stop=-1)),
        (kv.LIST_CLEAR, "k"),
    ]
    on_sets: list[tuple[str, Any]] = [
        (kv.SET_ADD, kv.SetItem(set_name="k", value="a")),
        (kv.SET_DEL, kv.SetItem(set_name="k", value="a")),
        (kv.SET_QUERY, "k"),
        (kv.SET_UNION, ["k"]),
        (kv.SET_INTERSECTION, ["k"]),
        (kv.SET_CLEAR, "k"),
    ]
    await store.list_add("k", "a")
    for operation, argument in on_text + on_sets:
        with pytest.raises(RemoteError, match=backend.wrong_kind):
            await store.do(operation, argument)
    assert await store.list_range("k") == ["a"]
    await store.set("k", "set replaces any kind")
    for operation, argument in on_lists + on_sets:
        with pytest.raises(RemoteError, match=backend.wrong_kind):
            await store.do(operation, argument)
    assert await store.get("k") == "set replaces any kind"


async def test_an_expired_value_is_gone(store: Store) -> None:
    await store.set("short", "1", expires=1)
    await store.set("lifted", "1", expires=1)
    await store.set("lifted", "2")
    await store.set("long", "1", expires=kv.U32_MAX)
    assert await store.increment("short") == 2, "which keeps the expiry"
    await asyncio.sleep(1.2)
    assert await store.get("short") is None
    assert await store.do(kv.CONTAINS, "short") is False
    assert await store.do(kv.DEL, "short") is False
    assert await store.get("lifted") == "2"
    assert await store.get("long") == "1"
    assert await store.increment("short") == 1


async def test_increments_at_the_same_time_all_count(backend: Backend, host: HostSide) -> None:
    stores = await backend.stores(host, *(KeyPair.generate(Role.MODULE).public for _ in range(2)))
    seen = await asyncio.gather(*(store.increment("hot") for store in stores for _ in range(150)))
    assert sorted(seen) == list(range(1, 301))


async def test_links_to_one_place_share_their_data_until_one_is_removed(backend: Backend, host: HostSide) -> None:
    own = backend.provider
    actors = [KeyPair.generate(Role.MODULE).public for _ in range(2)]
    links = [host.link(actor, own.public_key, own.contract_id, **backend.values) for actor in actors]
    process = await host.start(own.module, host.host_data(own.public_key, *links))
    first, second = (Store(process, actor) for actor in actors)
    await first.set("k", "v")
    assert await second.get("k") == "v"
    assert (await process.delete(links[0]))["state"] == "removed"
    assert await second.increment("c") == 1
    with pytest.raises(RemoteError, match="unlinked actor"):
        await first.get("k")
    assert (await process.put(links[0]))["state"] == "ready"
    assert await first.get("k") == "v"
    assert await process.shut_down() == b"shutting down"
    assert await process.ended() == 0
    assert all(event["level"] in ("info", "debug") for event in process.events if "unlinked" not in str(event))
