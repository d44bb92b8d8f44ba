"""The key-value provider as a process on a real JetStream."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from lattice import bundled, wire
from lattice.contracts import keyvalue as kv
from lattice.errors import LatticeError, RemoteError
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.store import open_bucket
from providers.keyvalue import keys
from tests.support.nats import NatsServer
from tests.support.providers import HostSide, ProviderProcess

KEYVALUE = bundled.find("bundled:keyvalue")


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


@pytest.fixture
def actor() -> str:
    return KeyPair.generate(Role.MODULE).public


def link(host: HostSide, actor: str, **values: str) -> LinkDefinition:
    return host.link(actor, KEYVALUE.public_key, KEYVALUE.contract_id, **values)


async def start(host: HostSide, *links: LinkDefinition) -> ProviderProcess:
    return await host.start(KEYVALUE.module, host.host_data(KEYVALUE.public_key, *links))


class Store:
    """The operations of the contract, as an actor calls them."""

    def __init__(self, process: ProviderProcess, actor: str) -> None:
        self._process = process
        self._actor = actor

    async def do(self, operation: str, argument: Any) -> Any:
        """``argument`` is packed as it is, or encodes itself."""
        payload = argument.encode() if hasattr(argument, "list_name") or hasattr(argument, "set_name") else None
        if payload is None:
            payload = argument.encode() if hasattr(argument, "key") else wire.pack(argument)
        answer = await self._process.call(self._actor, operation, payload, contract=KEYVALUE.contract_id, timeout=2)
        return wire.unpack_value(answer) if answer else None

    async def increment(self, key: str, amount: int = 1) -> int:
        return int(await self.do(kv.INCREMENT, kv.IncrementRequest(key=key, value=amount)))

    async def set(self, key: str, value: str, expires: int = 0) -> None:
        assert await self.do(kv.SET, kv.SetRequest(key=key, value=value, expires=expires)) is None

    async def get(self, key: str) -> str | None:
        found = await self.do(kv.GET, key)
        assert set(found) == {"value", "exists"}
        return found["value"] if found["exists"] else None


@pytest.fixture
async def store(host: HostSide, actor: str) -> Store:
    return Store(await start(host, link(host, actor)), actor)


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


async def test_any_text_is_a_key(store: Store) -> None:
    for n, key in enumerate(["", "counter:/a b", "*", ">", "a.b..", "ключ", "x" * 2048]):
        assert await store.increment(key, n) == n
        assert await store.get(key) == str(n)
    with pytest.raises(RemoteError, match="too long"):
        await store.increment("x" * 2049)


async def test_counters_count_in_both_directions_and_refuse_overflow(store: Store) -> None:
    assert [await store.increment("c", amount) for amount in (1, 5, -10)] == [1, 6, -4]
    await store.set("c", str(kv.I32_MAX - 1))
    assert await store.increment("c") == kv.I32_MAX
    with pytest.raises(RemoteError, match="32-bit range; the key was not changed"):
        await store.increment("c")
    assert await store.get("c") == str(kv.I32_MAX)
    await store.set("c", "seven")
    with pytest.raises(RemoteError, match="not an integer"):
        await store.increment("c")


async def test_lists(store: Store) -> None:
    for n, value in enumerate("abca", 1):
        assert await store.do(kv.LIST_ADD, kv.ListItem(list_name="l", value=value)) == n

    async def part(start: int, stop: int) -> Any:
        return await store.do(kv.LIST_RANGE, kv.ListRangeRequest(list_name="l", start=start, stop=stop))

    assert await part(0, -1) == ["a", "b", "c", "a"]
    assert await part(-2, 9) == ["c", "a"]
    assert await part(2, 1) == []
    assert await store.do(kv.LIST_DEL, kv.ListItem(list_name="l", value="a")) is True
    assert await store.do(kv.LIST_DEL, kv.ListItem(list_name="l", value="z")) is False
    assert await part(0, -1) == ["b", "c", "a"]
    assert await store.do(kv.LIST_CLEAR, "l") is True
    assert await store.do(kv.LIST_CLEAR, "l") is False
    assert await part(0, -1) == []


async def test_sets(store: Store) -> None:
    for name, members in (("s", "abc"), ("t", "bcd")):
        for member in members:
            assert await store.do(kv.SET_ADD, kv.SetItem(set_name=name, value=member)) == 1
    assert await store.do(kv.SET_ADD, kv.SetItem(set_name="s", value="a")) == 0
    assert sorted(await store.do(kv.SET_QUERY, "s")) == ["a", "b", "c"]
    assert sorted(await store.do(kv.SET_INTERSECTION, ["s", "t"])) == ["b", "c"]
    assert sorted(await store.do(kv.SET_UNION, ["s", "t", "none"])) == ["a", "b", "c", "d"]
    assert await store.do(kv.SET_INTERSECTION, ["s", "none"]) == []
    assert await store.do(kv.SET_INTERSECTION, []) == []
    assert await store.do(kv.SET_UNION, []) == []
    assert await store.do(kv.SET_DEL, kv.SetItem(set_name="s", value="a")) == 1
    assert await store.do(kv.SET_DEL, kv.SetItem(set_name="s", value="a")) == 0
    assert await store.do(kv.SET_CLEAR, "s") is True
    assert await store.do(kv.SET_QUERY, "s") == []


async def test_every_operation_of_the_contract_is_there(store: Store) -> None:
    for name in kv.OPERATIONS:
        with pytest.raises(RemoteError) as caught:
            await store.do(name, 1.5)
        assert "method not handled" not in str(caught.value)


async def test_another_kind_of_value_is_refused_by_name(store: Store) -> None:
    await store.do(kv.LIST_ADD, kv.ListItem(list_name="l", value="a"))
    with pytest.raises(RemoteError, match="key 'l' holds a list, not text"):
        await store.get("l")
    with pytest.raises(RemoteError, match="key 'l' holds a list, not a set"):
        await store.do(kv.SET_ADD, kv.SetItem(set_name="l", value="a"))


async def test_an_expired_value_is_gone(store: Store) -> None:
    await store.set("short", "1", expires=1)
    await store.set("lifted", "1", expires=1)
    await store.set("lifted", "2")
    assert await store.increment("short") == 2
    await asyncio.sleep(1.1)
    assert await store.get("short") is None
    assert await store.do(kv.DEL, "short") is False
    assert await store.get("lifted") == "2"
    assert await store.increment("short") == 1


async def test_increments_of_two_processes_all_count(host: HostSide, actor: str) -> None:
    stores = [Store(await start(host, link(host, actor)), actor) for _ in range(2)]
    seen = await asyncio.gather(*(store.increment("hot") for store in stores for _ in range(150)))
    assert sorted(seen) == list(range(1, 301))


async def test_what_one_process_remembers_never_hides_what_another_wrote(host: HostSide, actor: str) -> None:
    other = KeyPair.generate(Role.SERVICE).public  # a key of its own, or the two would take turns in one queue group
    one = Store(await start(host, link(host, actor)), actor)
    elsewhere = host.host_data(other, host.link(actor, other, KEYVALUE.contract_id))
    two = Store(await host.start(KEYVALUE.module, elsewhere), actor)
    for n in range(5):
        item = kv.ListItem(list_name="l", value=f"two {n}")
        assert await one.do(kv.LIST_ADD, kv.ListItem(list_name="l", value=f"one {n}")) == n + 1
        assert await two.do(kv.LIST_ADD, item) == n + 2
        assert await one.do(kv.LIST_DEL, item) is True
        assert await two.do(kv.LIST_DEL, item) is False
    await one.set("c", "5")
    await two.set("c", "wörd")
    with pytest.raises(RemoteError, match="not an integer"):
        await one.increment("c")
    assert await two.do(kv.DEL, "c") is True
    assert await one.increment("c") == 1


async def test_links_share_a_bucket_unless_they_name_another(host: HostSide) -> None:
    actors = [KeyPair.generate(Role.MODULE).public for _ in range(3)]
    other = f"other_{host.name}"
    process = await start(host, link(host, actors[0]), link(host, actors[1]), link(host, actors[2], Bucket=other))
    first, second, third = (Store(process, actor) for actor in actors)
    await first.set("k", "v")
    assert await second.get("k") == "v"
    assert await third.get("k") is None
    # the layout that docs/providers.md describes
    bucket = await open_bucket(host.connection, f"KEYVALUE_{host.name}", create=False)
    entry = await bucket.get(keys.encode("k"))
    assert entry is not None
    assert wire.unpack_value(entry.value) == {"text": "v"}
    failed = await process.put(link(host, actors[0], bucket="a.b"))
    assert failed["state"] == "degraded"
    assert "bucket 'a.b'" in failed["reason"]
    assert await first.get("k") == "v"


async def test_a_foreign_value_in_the_bucket_is_an_error_and_no_crash(host: HostSide, store: Store) -> None:
    bucket = await open_bucket(host.connection, f"KEYVALUE_{host.name}", create=False)
    await bucket.put(keys.encode("odd"), b"plain text")
    with pytest.raises(RemoteError, match="stored value"):
        await store.get("odd")
    await store.set("fine", "1")
    assert await store.get("fine") == "1"


async def test_a_killed_provider_loses_nothing_that_was_answered(host: HostSide, actor: str) -> None:
    process = await start(host, link(host, actor))
    store = Store(process, actor)
    answered = 0

    async def count() -> None:
        nonlocal answered
        while True:
            try:
                await store.increment("load")
            except LatticeError:
                return
            answered += 1

    clients = [asyncio.create_task(count()) for _ in range(8)]
    await asyncio.sleep(0.5)
    assert process.process is not None
    process.process.send_signal(signal.SIGKILL)
    await asyncio.gather(*clients)
    again = Store(await start(host, link(host, actor)), actor)
    assert answered > 0
    assert answered <= await again.increment("load", 0) <= answered + len(clients)


async def test_without_jetstream_the_link_fails_with_the_reason(tmp_path: Path, lattice: str, actor: str) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    try:
        host = await HostSide.open(server.url, lattice)
        process = await start(host, link(host, actor))
        health = await process.health()
        assert health["links"][actor]["state"] == "failed"
        assert "JetStream" in health["links"][actor]["reason"]
        with pytest.raises(RemoteError, match="JetStream"):
            await Store(process, actor).get("k")
        await host.close()
    finally:
        server.stop()


async def test_a_restarted_server_is_used_again_and_the_data_is_there(tmp_path: Path, lattice: str, actor: str) -> None:
    server = NatsServer(tmp_path / "nats").start()
    try:
        host = await HostSide.open(server.url, lattice)
        process = await start(host, link(host, actor))
        store = Store(process, actor)
        assert await store.increment("k") == 1
        await asyncio.to_thread(server.restart, signal.SIGKILL)
        async with asyncio.timeout(10):
            while True:
                try:
                    value = await store.increment("k", 0)
                    break
                except LatticeError:
                    await asyncio.sleep(0.1)
        assert value == 1
        await host.close()
    finally:
        server.stop()
