"""The key-value provider on JetStream: several processes, the bucket's layout, and servers that fail."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from lattice import bundled, wire
from lattice.contracts import keyvalue as kv
from lattice.errors import Code, LatticeError, RemoteError
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.store import open_bucket
from providers.keyvalue.jetstream import keys
from tests.support.keyvalue import Store
from tests.support.nats import NatsServer
from tests.support.providers import HostSide, ProviderProcess

KEYVALUE = bundled.find("bundled:keyvalue")


def link(host: HostSide, actor: str, **values: str) -> LinkDefinition:
    return host.link(actor, KEYVALUE.public_key, KEYVALUE.contract_id, **values)


async def start(host: HostSide, *links: LinkDefinition) -> ProviderProcess:
    return await host.start(KEYVALUE.module, host.host_data(KEYVALUE.public_key, *links))


@pytest.fixture
async def store(host: HostSide, actor: str) -> Store:
    return Store(await start(host, link(host, actor)), actor)


async def test_a_key_that_fits_no_subject_is_refused(store: Store) -> None:
    with pytest.raises(RemoteError, match="too long"):
        await store.increment("x" * 2049)


async def test_a_value_above_what_the_server_takes_is_refused_by_the_name_of_its_key(store: Store) -> None:
    await store.set("k", "before")
    with pytest.raises(RemoteError, match="key 'k' would hold 1200011 bytes") as refused:
        await store.set("k", "x" * 1_200_000)
    assert refused.value.code == Code.TOO_LARGE and "$KV" not in str(refused.value)
    assert await store.get("k") == "before"


async def test_another_kind_of_value_is_refused_by_name(store: Store) -> None:
    await store.list_add("l", "a")
    with pytest.raises(RemoteError, match="key 'l' holds a list, not text"):
        await store.get("l")
    with pytest.raises(RemoteError, match="key 'l' holds a list, not a set"):
        await store.set_add("l", "a")


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
