"""Buckets on a real JetStream, checked against nats-py's own key-value client."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import nats
import pytest

from lattice.connection import Connection, ConnectOptions, Limits, connect
from lattice.errors import Code, LatticeError, MalformedMessage, Unreachable
from lattice.store import Bucket, Change, Conflict, Entry, StoreUnavailable, open_bucket
from lattice.transport import State
from tests.support.nats import NatsServer
from tests.support.proxy import Proxy
from tests.support.waiting import eventually

FAST = Limits(retry_min=0.02, retry_max=0.2)


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test", limits=FAST))
    yield connection
    await connection.close()


@pytest.fixture
async def bucket(connection: Connection, lattice: str) -> Bucket:
    return await open_bucket(connection, lattice, storage="memory")


class Watched:
    """A watch that runs in a task, so that a test can look at what it has yielded."""

    def __init__(self, bucket: Bucket) -> None:
        self.seen: list[Change | None] = []
        self._task = asyncio.create_task(self._run(bucket))

    async def _run(self, bucket: Bucket) -> None:
        async for change in bucket.watch():
            self.seen.append(change)

    async def shows(self, change: Change) -> None:
        """Wait until ``change`` is the last that was yielded."""
        await eventually(lambda: self.seen and self.seen[-1] == change)

    async def stop(self) -> None:
        self._task.cancel()
        await asyncio.wait({self._task}, timeout=5)
        assert self._task.done()


async def test_a_value_is_read_back_with_its_revision(bucket: Bucket) -> None:
    assert await bucket.get("a") is None
    first = await bucket.put("a", b"1")
    second = await bucket.put("a", b"\x00\xff")
    assert second > first
    assert await bucket.get("a") == Entry("a", b"\x00\xff", second)
    empty = await bucket.put("e", b"")
    assert await bucket.get("e") == Entry("e", b"", empty)


async def test_deleted_and_purged_keys_have_no_value(bucket: Bucket) -> None:
    await bucket.put("a", b"1")
    revision = await bucket.delete("a")
    assert await bucket.get("a") is None
    assert await bucket.create("a", b"2") > revision
    await bucket.purge("a")
    assert await bucket.get("a") is None
    assert await bucket.keys() == []


async def test_create_update_and_delete_hold_only_at_the_expected_revision(bucket: Bucket) -> None:
    revision = await bucket.create("a", b"1")
    with pytest.raises(Conflict):
        await bucket.create("a", b"other")
    newer = await bucket.update("a", b"2", revision)
    with pytest.raises(Conflict) as caught:
        await bucket.update("a", b"3", revision)
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(Conflict):
        await bucket.delete("a", revision=revision)
    assert await bucket.get("a") == Entry("a", b"2", newer)
    await bucket.delete("a", revision=newer)
    assert await bucket.get("a") is None


async def test_of_many_who_update_at_once_one_wins(bucket: Bucket) -> None:
    revision = await bucket.put("a", b"0")
    results = await asyncio.gather(
        *(bucket.update("a", b"%d" % number, revision) for number in range(50)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 49


async def test_keys_are_listed_without_deleted_ones(bucket: Bucket) -> None:
    for name in ("LINK_a", "LINK_b", "CLAIMS_a", "x.y/z=-"):
        await bucket.put(name, b"value")
    await bucket.delete("LINK_b")
    assert sorted(await bucket.keys()) == ["CLAIMS_a", "LINK_a", "x.y/z=-"]
    assert await bucket.keys("LINK_") == ["LINK_a"]


@pytest.mark.parametrize("key", ["", "a b", "a.*", ">", ".a", "a.", "a..b", "ä", "a\r\n"])
async def test_a_key_that_would_change_the_subject_is_refused(bucket: Bucket, key: str) -> None:
    with pytest.raises(MalformedMessage):
        await bucket.put(key, b"")
    with pytest.raises(MalformedMessage):
        await bucket.get(key)


async def test_a_bad_bucket_name_is_refused(connection: Connection) -> None:
    with pytest.raises(MalformedMessage):
        await open_bucket(connection, "a.b")


async def test_a_missing_bucket_is_not_found_unless_it_may_be_made(connection: Connection, lattice: str) -> None:
    with pytest.raises(LatticeError) as caught:
        await open_bucket(connection, lattice, create=False)
    assert caught.value.code is Code.NOT_FOUND
    await open_bucket(connection, lattice, storage="memory")
    await open_bucket(connection, lattice, create=False)
    await open_bucket(connection, lattice, history=5)


async def test_hosts_that_open_a_bucket_at_once_share_it(connection: Connection, lattice: str) -> None:
    buckets = await asyncio.gather(
        *(open_bucket(connection, lattice, storage="memory", history=history) for history in (1, 1, 2, 3))
    )
    await buckets[0].put("a", b"1")
    assert {entry.value for entry in await asyncio.gather(*(one.get("a") for one in buckets)) if entry} == {b"1"}


async def test_another_client_reads_ours_and_we_read_its(
    nats_server: NatsServer, connection: Connection, lattice: str
) -> None:
    client = await nats.connect(nats_server.url)
    try:
        bucket = await open_bucket(connection, lattice, storage="memory")
        theirs = await client.jetstream().key_value(lattice)
        revision = await bucket.put("ours", b"1")
        entry = await theirs.get("ours")
        assert (entry.value, entry.revision) == (b"1", revision)
        await theirs.put("theirs", b"2")
        assert (await bucket.get("theirs") or Entry("", b"", 0)).value == b"2"
        await theirs.delete("ours")
        assert await bucket.get("ours") is None
        await theirs.purge("theirs")
        assert await bucket.get("theirs") is None
        assert await bucket.keys() == []
    finally:
        await client.close()


async def test_a_bucket_without_direct_reads_is_read_from_its_leader(
    nats_server: NatsServer, connection: Connection, lattice: str
) -> None:
    client = await nats.connect(nats_server.url)
    try:
        await client.jetstream().create_key_value(bucket=lattice, direct=False, storage="memory")
        bucket = await open_bucket(connection, lattice)
        assert await bucket.get("a") is None
        revision = await bucket.create("a", b"\x00")
        assert await bucket.get("a") == Entry("a", b"\x00", revision)
        await bucket.delete("a")
        assert await bucket.get("a") is None
        assert await bucket.create("a", b"again") > revision
    finally:
        await client.close()


async def test_a_watch_tells_the_present_then_a_mark_then_changes(bucket: Bucket) -> None:
    first = await bucket.put("a", b"1")
    await bucket.put("gone", b"x")
    await bucket.delete("gone")
    watched = Watched(bucket)
    await eventually(lambda: None in watched.seen)
    assert watched.seen == [Change("a", b"1", first), None]
    await watched.shows(Change("b", b"2", await bucket.put("b", b"2")))
    await watched.shows(Change("a", None, await bucket.delete("a")))
    await watched.shows(Change("b", None, await bucket.purge("b")))
    assert len(watched.seen) == 5
    await watched.stop()


async def test_a_watch_of_an_empty_bucket_marks_at_once(bucket: Bucket) -> None:
    async with asyncio.timeout(2):
        async for change in bucket.watch():
            assert change is None
            break


async def test_a_watch_sees_the_last_value_of_every_key_under_load(bucket: Bucket) -> None:
    watched = Watched(bucket)
    await eventually(lambda: None in watched.seen)
    revisions = await asyncio.gather(*(bucket.put(f"k{number % 7}", b"%d" % number) for number in range(500)))
    await eventually(lambda: watched.seen[-1] and watched.seen[-1].revision == max(revisions))
    changes = [change for change in watched.seen if change is not None]
    assert [change.revision for change in changes] == sorted({change.revision for change in changes})
    for key in await bucket.keys():
        entry = await bucket.get(key)
        assert entry is not None
        assert Change(key, entry.value, entry.revision) in changes
    await watched.stop()


async def test_without_jetstream_opening_says_so_at_once(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        connection = await connect(ConnectOptions(url=server.url, name="test", limits=FAST))
        with pytest.raises(StoreUnavailable, match=r"JetStream is off .* -js"):
            await open_bucket(connection, "b")
        await connection.close()
    finally:
        server.stop()


async def test_a_watch_survives_restarts_and_tells_what_changed_meanwhile(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    other = NatsServer(tmp_path / "unused")
    assert other.port != server.port
    try:
        connection = await connect(ConnectOptions(url=server.url, name="test", limits=FAST))
        bucket = await open_bucket(connection, "b")
        await bucket.put("stays", b"1")
        await bucket.put("changes", b"1")
        await bucket.put("goes", b"1")
        watched = Watched(bucket)
        await eventually(lambda: None in watched.seen)
        del watched.seen[:]

        await asyncio.to_thread(server.stop)
        await eventually(lambda: connection.state is State.RECONNECTING)
        with pytest.raises(Unreachable) as caught:
            await bucket.put("stays", b"lost")
        assert caught.value.code is Code.DISCONNECTED
        # Changed behind the back of the watch: at another address, on the same store.
        elsewhere = NatsServer(tmp_path, port=other.port).start()
        changer = await connect(ConnectOptions(url=elsewhere.url, name="test", limits=FAST))
        behind = await open_bucket(changer, "b")
        await behind.put("changes", b"2")
        revision = await behind.put("changes", b"3")
        deleted = await behind.delete("goes")
        created = await behind.put("comes", b"1")
        await changer.close()
        await asyncio.to_thread(elsewhere.stop)

        await asyncio.to_thread(server.start)
        await eventually(lambda: len(watched.seen) == 3, timeout=10)
        expected = [Change("changes", b"3", revision), Change("goes", None, deleted), Change("comes", b"1", created)]
        assert watched.seen == expected
        latest = await bucket.put("stays", b"2")
        await eventually(lambda: len(watched.seen) == 4)
        assert watched.seen[3] == Change("stays", b"2", latest)
        await watched.stop()
        await connection.close()
    finally:
        server.stop()


async def test_what_is_written_while_a_watch_reads_again_does_not_show_as_deleted(
    connection: Connection, bucket: Bucket, nats_server: NatsServer
) -> None:
    """An entry that is overwritten before it was read comes late, as its key is at the end of the stream then."""
    keys = [f"k{number}" for number in range(400)]
    await asyncio.gather(*(bucket.put(key, b"before") for key in keys))
    writing = True

    async def overwrite(offset: int) -> None:
        turn = offset
        while writing:
            some = [keys[(turn * 37 + step * 11) % 400] for step in range(20)]
            await asyncio.gather(*(bucket.put(key, b"after") for key in some), bucket.put(f"new{turn}", b"x"))
            turn += 2

    with Proxy(nats_server.port) as proxy:
        far = await connect(ConnectOptions(url=proxy.url, name="watching", limits=FAST))
        watched = Watched(await open_bucket(far, bucket.name))
        await eventually(lambda: None in watched.seen)
        writers = [asyncio.create_task(overwrite(offset)) for offset in range(2)]
        for turn in range(4):
            await asyncio.to_thread(proxy.cut)
            await eventually(lambda turn=turn: far.state is State.CONNECTED and proxy.connections > turn + 1)
            revision = await bucket.put("mark", b"%d" % turn)
            await eventually(lambda revision=revision: any(c and c.revision >= revision for c in watched.seen[-300:]))
            listed = await bucket.keys("k")
            assert sorted(listed) == sorted(keys)
        writing = False
        await asyncio.gather(*writers)
        assert [change for change in watched.seen if change is not None and change.value is None] == []
        await watched.stop()
        await far.close()


async def test_a_bucket_lost_with_its_storage_is_made_again(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    try:
        connection = await connect(ConnectOptions(url=server.url, name="test", limits=FAST))
        bucket = await open_bucket(connection, "b")
        await bucket.put("a", b"1")
        watched = Watched(bucket)
        await eventually(lambda: None in watched.seen)
        await asyncio.to_thread(server.stop)
        shutil.rmtree(tmp_path / "jetstream")
        await asyncio.to_thread(server.start)
        await connection.wait_connected()
        assert await bucket.get("a") is None
        await eventually(lambda: watched.seen[-1] is not None and watched.seen[-1].value is None, timeout=10)
        await bucket.put("b", b"2")
        assert await bucket.keys() == ["b"]
        await eventually(lambda: watched.seen[-1] is not None and watched.seen[-1].key == "b", timeout=10)
        await watched.stop()
        await connection.close()
    finally:
        server.stop()


async def test_a_watch_ends_with_a_named_error_when_the_connection_is_closed(
    nats_server: NatsServer, lattice: str
) -> None:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test", limits=FAST))
    bucket = await open_bucket(connection, lattice, storage="memory")
    ended = asyncio.Event()

    async def follow() -> None:
        with pytest.raises(Unreachable, match="was closed"):
            async for _ in bucket.watch():
                ended.set()

    task = asyncio.create_task(follow())
    await ended.wait()
    await connection.close()
    await asyncio.wait_for(task, 5)
