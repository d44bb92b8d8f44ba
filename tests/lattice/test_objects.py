"""Objects on a real JetStream, checked against nats-py's own object store and what the first Rust clients write."""

from __future__ import annotations

import asyncio
import base64
import json
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import nats
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.js.errors import ObjectNotFoundError

from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import MalformedMessage, Unreachable
from lattice.objects import BATCH, CHUNK, ObjectBucket, ObjectInfo, WrongObject
from lattice.transport import Headers
from tests.support.nats import NatsServer
from tests.support.waiting import eventually


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    yield connection
    await connection.close()


@pytest.fixture
async def bucket(connection: Connection, lattice: str) -> AsyncIterator[ObjectBucket]:
    bucket = ObjectBucket(connection, lattice, max_age=600)
    yield bucket
    await bucket.close()


@pytest.fixture
async def peer(nats_server: NatsServer) -> AsyncIterator[Any]:
    """The JetStream of nats-py."""
    client = await nats.connect(nats_server.url)
    yield client.jetstream()
    await client.close()


async def read(bucket: ObjectBucket, name: str) -> bytes:
    info = await bucket.find(name)
    assert info is not None
    return await bucket.read(info)


async def subjects_of(bucket: ObjectBucket) -> dict[str, int]:
    """Messages by subject."""
    info = await bucket.jetstream.ask(f"STREAM.INFO.{bucket.stream}", {"subjects_filter": ">"})
    return dict(info["state"].get("subjects") or {})


SIZES = (0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 9 * CHUNK, (BATCH + 1) * CHUNK + 5)


@pytest.mark.parametrize("size", SIZES)
async def test_what_we_write_is_read_by_us_and_by_nats_py(bucket: ObjectBucket, peer: Any, size: int) -> None:
    data = os.urandom(size)
    written = await bucket.put("name", data)
    assert written.chunks == -(-size // CHUNK)
    found = await bucket.find("name")
    assert found is not None and replace(found, modified=written.modified) == written
    assert await read(bucket, "name") == data
    if size <= 9 * CHUNK:  # nats-py takes half a second for more
        store = await peer.object_store(bucket.name)
        result = await store.get("name")
        assert (result.data or b"") == data
        assert (result.info.name, result.info.size, result.info.deleted) == ("name", size, False)


@pytest.mark.parametrize("size", SIZES)
async def test_what_nats_py_writes_is_read_by_us(bucket: ObjectBucket, peer: Any, size: int) -> None:
    data = os.urandom(size)
    store = await peer.create_object_store(bucket.name)
    await store.put("0f/other name-r", data)
    assert await read(bucket, "0f/other name-r") == data


async def test_an_object_of_the_first_rust_clients_is_read_and_ours_has_what_they_demand(
    bucket: ObjectBucket, peer: Any
) -> None:
    await bucket.ensure()
    prefix = f"$O.{bucket.name}"
    data = os.urandom(CHUNK + 7)
    for part in (data[:CHUNK], data[CHUNK:]):
        await peer.publish(f"{prefix}.C.K9ABCDEFGHIJKLMNOPQRST", part)
    document = {
        "name": "id-r",
        "description": None,
        "link": None,
        "bucket": bucket.name,
        "nuid": "K9ABCDEFGHIJKLMNOPQRST",
        "size": len(data),
        "chunks": 2,
        "modified": "2023-05-06T07:08:09.123456789Z",
        "digest": "",
        "deleted": False,
    }
    await peer.publish(f"{prefix}.M.id-r", json.dumps(document).encode(), headers={"Nats-Rollup": "sub"})
    info = await bucket.find("id-r")
    assert info is not None and info.digest is None and info.modified == pytest.approx(1683356889.123456)
    assert await bucket.read(info) == data
    await bucket.delete(info)
    assert await subjects_of(bucket) == {}

    await bucket.put("other", b"x")
    message = await peer.get_last_msg(bucket.stream, f"{prefix}.M.other")
    ours = json.loads(message.data)
    for member, kind in {"modified": str, "digest": str, "deleted": bool, "size": int, "chunks": int}.items():
        assert type(ours[member]) is kind, member
    assert ours["mtime"] == ours["modified"] and ours["modified"].endswith("Z") and "link" not in ours


async def test_few_chunks_are_on_their_way_at_a_time_however_many_objects_are_read(
    bucket: ObjectBucket, nats_server: NatsServer
) -> None:
    """What was asked for comes ahead of every small message on the same connection."""
    data = [os.urandom(40 * CHUNK + number) for number in range(4)]
    written = [await bucket.put(f"object{number}", each) for number, each in enumerate(data)]
    inboxes: set[str] = set()
    asked = arrived = most = 0

    def on_message(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        nonlocal asked, arrived, most
        if subject.startswith("$JS.API.DIRECT.GET."):
            inboxes.add(reply)
            asked += json.loads(payload)["batch"]
            most = max(most, asked - arrived)
        elif subject in inboxes and headers is not None and "Nats-Sequence" in headers:
            arrived += 1

    watcher = await connect(ConnectOptions(url=nats_server.url, name="watcher"))
    try:
        await watcher.subscribe(f"$JS.API.DIRECT.GET.{bucket.stream}", on_message)
        await watcher.subscribe("_INBOX.>", on_message)
        assert await asyncio.gather(*(bucket.read(info) for info in written)) == data
        await eventually(lambda: arrived == 163)  # the first has 40 chunks, the others one more
    finally:
        await watcher.close()
    assert asked == 163
    assert BATCH * CHUNK <= most * CHUNK <= 4 * 1024 * 1024


@pytest.mark.parametrize("direct", [True, False])
async def test_a_bucket_of_others_is_used_as_it_is(bucket: ObjectBucket, peer: Any, lattice: str, direct: bool) -> None:
    await peer.add_stream(
        name=f"OBJ_{lattice}",
        subjects=[f"$O.{lattice}.C.>", f"$O.{lattice}.M.>"],
        allow_rollup_hdrs=True,
        allow_direct=direct,
        storage="memory",
    )
    data = os.urandom((BATCH + 3) * CHUNK + 1)
    await bucket.put("big", data)
    assert await read(bucket, "big") == data
    assert (await peer.stream_info(f"OBJ_{lattice}")).config.storage == "memory"
    assert (await peer.stream_info(f"OBJ_{lattice}")).state.consumer_count == 0
    assert bucket.max_age == 0


async def test_a_bucket_of_ours_is_made_like_any_other_and_forgets(bucket: ObjectBucket, peer: Any) -> None:
    await bucket.put("a", b"b")
    config = (await peer.stream_info(bucket.stream)).config
    assert config.subjects == [f"$O.{bucket.name}.C.>", f"$O.{bucket.name}.M.>"]
    assert (config.storage, config.discard, config.allow_direct, config.allow_rollup_hdrs) == (
        "file",
        "new",
        True,
        True,
    )
    assert config.max_age == 600


async def test_a_deleted_object_leaves_nothing(bucket: ObjectBucket, peer: Any) -> None:
    await bucket.put("kept", b"kept")
    info = await bucket.put("gone", os.urandom(3 * CHUNK))
    await bucket.delete(info)
    assert await bucket.find("gone") is None
    assert len(await subjects_of(bucket)) == 3
    store = await peer.object_store(bucket.name)
    with pytest.raises(ObjectNotFoundError):
        await store.get("gone")
    await store.put("theirs", b"x")
    await store.delete("theirs")
    assert await bucket.find("theirs") is None
    with pytest.raises(WrongObject, match=f"{3 * CHUNK} of its {3 * CHUNK} bytes are missing"):
        await bucket.read(info)


@pytest.mark.parametrize("name", ["", "a b", "a.b", "*", ">", "ä", "x" * 201, "a\r\n"])
async def test_a_name_that_some_client_could_not_look_up_is_refused(bucket: ObjectBucket, name: str) -> None:
    with pytest.raises(MalformedMessage):
        await bucket.put(name, b"")


async def test_objects_written_and_read_at_once_do_not_mix(bucket: ObjectBucket) -> None:
    many = {f"n{number}": os.urandom(number * 100_000) for number in range(20)}
    await asyncio.gather(*(bucket.put(name, data) for name, data in many.items()))
    found = await asyncio.gather(*(read(bucket, name) for name in many))
    assert found == list(many.values())


async def tampered(bucket: ObjectBucket, peer: Any, case: str) -> ObjectInfo:
    """An object of four chunks that somebody changed afterwards."""
    info = await bucket.put("object", os.urandom(4 * CHUNK))
    chunks = f"$O.{bucket.name}.C.{info.nuid}"
    match case:
        case "a chunk more":
            await peer.publish(chunks, b"x")
        case "a chunk less":
            await peer.delete_msg(bucket.stream, 2)
        case "another chunk":
            await peer.delete_msg(bucket.stream, 4)
            await peer.publish(chunks, os.urandom(CHUNK))
        case "no chunk":
            await peer.purge_stream(bucket.stream, subject=chunks)
    return info


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize(
    ("case", "told"),
    [
        ("a chunk less", "131072 of its 524288 bytes are missing"),
        ("another chunk", "not those that were written"),
        ("no chunk", "524288 of its 524288 bytes are missing"),
    ],
)
async def test_a_changed_object_is_noticed(bucket: ObjectBucket, peer: Any, case: str, told: str, direct: bool) -> None:
    await peer.create_object_store(bucket.name)
    if not direct:
        config = (await peer.stream_info(bucket.stream)).config
        config.allow_direct = False
        await peer.update_stream(config)
    info = await tampered(bucket, peer, case)
    with pytest.raises(WrongObject, match=told):
        await bucket.read(info)


async def test_whoever_knows_a_better_digest_is_handed_every_byte(bucket: ObjectBucket, peer: Any) -> None:
    info = await tampered(bucket, peer, "another chunk")
    seen: list[bytes] = []
    assert await bucket.read(info, seen.append) == b"".join(seen)
    assert len(seen) == 4


async def test_a_bucket_lost_with_the_storage_of_the_server_is_made_again(bucket: ObjectBucket, peer: Any) -> None:
    await bucket.put("a", b"1")
    await peer.delete_object_store(bucket.name)
    await bucket.put("b", b"2")
    assert await read(bucket, "b") == b"2"
    assert await bucket.find("a") is None


async def test_a_lost_server_ends_writing_and_reading_at_once(tmp_path: Any, lattice: str) -> None:
    server = NatsServer(tmp_path).start()
    connection = await connect(ConnectOptions(url=server.url))
    bucket = ObjectBucket(connection, lattice)
    try:
        data = os.urandom(16 * 1024 * 1024)
        info = await bucket.put("a", data)
        halfway = asyncio.Event()
        reading = asyncio.create_task(bucket.read(info, lambda part: halfway.set()))
        writing = asyncio.create_task(bucket.put("b", data * 4))
        await halfway.wait()
        server.stop(9)
        async with asyncio.timeout(4):
            results = await asyncio.gather(reading, writing, return_exceptions=True)
        assert all(isinstance(result, Unreachable) for result in results), results
        server.start()
        await connection.wait_connected()
        assert await read(bucket, "a") == data
    finally:
        await bucket.close()
        await connection.close()
        server.stop()


@pytest.mark.parametrize("sent", [0, 1, 20])
async def test_cancelled_writing_leaves_no_chunks(bucket: ObjectBucket, connection: Connection, sent: int) -> None:
    await bucket.ensure()
    chunks: asyncio.Queue[str] = asyncio.Queue()
    await connection.subscribe(f"$O.{bucket.name}.C.>", lambda subject, *_: chunks.put_nowait(subject))
    task = asyncio.create_task(bucket.put("half", os.urandom(16 * 1024 * 1024)))
    await asyncio.sleep(0)
    for _ in range(sent):
        await chunks.get()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await bucket.close()  # it waits for what is being cleaned up
    assert await subjects_of(bucket) == {}


documents = st.one_of(
    st.binary(),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
        lambda inner: st.dictionaries(
            st.sampled_from(["nuid", "size", "chunks", "digest", "mtime", "options", "link", "deleted"]), inner
        ),
    ).map(lambda value: json.dumps(value).encode()),
)


@given(documents)
def test_garbage_about_an_object_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        ObjectInfo.decode(data, name="x")


@pytest.mark.parametrize("nuid", [">", "*", "a.b", "", "a b", 7, None, ["a"]])
def test_a_nuid_that_names_other_chunks_is_malformed(nuid: object) -> None:
    with pytest.raises(MalformedMessage):
        ObjectInfo.decode(json.dumps({"nuid": nuid, "size": 1}).encode(), name="x")


def test_a_link_is_not_followed() -> None:
    for document in ({"link": {"name": "y"}}, {"options": {"link": {"bucket": "b", "name": "y"}}}):
        with pytest.raises(MalformedMessage, match="link"):
            ObjectInfo.decode(json.dumps({"nuid": "a", **document}).encode(), name="x")


def test_digests_are_read_with_and_without_padding() -> None:
    digest = bytes(range(32))
    for text in (base64.urlsafe_b64encode(digest).decode(), base64.urlsafe_b64encode(digest).decode().rstrip("=")):
        data = json.dumps({"nuid": "a", "digest": f"SHA-256={text}"}).encode()
        assert ObjectInfo.decode(data, name="x").digest == digest
