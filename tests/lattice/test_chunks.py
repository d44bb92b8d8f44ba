"""Large payloads in the object store of a lattice: who stores, who reads, who cleans up."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nats
import pytest
from structlog.testing import capture_logs

from lattice import chunks as policy
from lattice.chunks import MAX_AGE, MAX_MSG, Chunks
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized, TooLarge, Unreachable
from tests.support.nats import NatsServer
from tests.support.waiting import eventually

ID = "0123456789abcdef0123456789abcdef"
WHAT = "the argument of Test.Call"


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    yield connection
    await connection.close()


@pytest.fixture
async def chunks(connection: Connection, lattice: str) -> AsyncIterator[Chunks]:
    chunks = Chunks(connection, lattice)
    yield chunks
    await chunks.close()


@pytest.fixture
async def peer(nats_server: NatsServer) -> AsyncIterator[Any]:
    """The JetStream of nats-py."""
    client = await nats.connect(nats_server.url)
    yield client.jetstream()
    await client.close()


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def stored(peer: Any, lattice: str) -> set[str]:
    """The last tokens of what the bucket holds."""
    info = await peer.stream_info(f"OBJ_{lattice}", subjects_filter=">")
    return {subject.rpartition(".")[2] for subject in info.state.subjects or {}}


class Seen:
    """A digest that accepts or refuses whatever it saw."""

    def __init__(self, *, right: bool) -> None:
        self.pieces: list[bytes] = []
        self._right = right

    def update(self, piece: bytes) -> None:
        self.pieces.append(piece)

    def check(self) -> None:
        if not self._right:
            raise NotAuthorized("wrong hash")


def test_payloads_are_large_from_a_byte_above_the_classic_threshold(chunks: Chunks) -> None:
    assert MAX_MSG == 921_600
    assert not chunks.is_large(MAX_MSG)
    assert chunks.is_large(MAX_MSG + 1)


async def test_a_server_that_takes_only_small_messages_gets_smaller_ones(tmp_path: Path, lattice: str) -> None:
    server = NatsServer(tmp_path, config="max_payload: 65536\n").start()
    try:
        connection = await connect(ConnectOptions(url=server.url))
        chunks = Chunks(connection, lattice)
        assert not chunks.is_large(50_000)
        assert chunks.is_large(60_000)
        payload = os.urandom(300_000)
        await chunks.send(ID, payload, what=WHAT)
        assert await chunks.receive(ID, len(payload), what=WHAT, deadline=soon()) == payload
        await chunks.close()
        await connection.close()
    finally:
        server.stop()


async def test_what_was_read_is_gone(chunks: Chunks, peer: Any, lattice: str) -> None:
    payload = os.urandom(3_000_000)
    await chunks.send(ID, payload, what=WHAT)
    assert len(await stored(peer, lattice)) == 3
    digest = Seen(right=True)
    assert await chunks.receive(ID, len(payload), what=WHAT, deadline=soon(), digest=digest) == payload
    assert b"".join(digest.pieces) == payload and len(digest.pieces) == 23
    await chunks.close()
    assert await stored(peer, lattice) == set()


async def test_what_is_not_what_it_should_be_is_refused_and_stays(chunks: Chunks, peer: Any, lattice: str) -> None:
    await chunks.send(ID, b"x" * 1_000_000, what=WHAT)
    with pytest.raises(NotAuthorized, match="wrong hash"):
        await chunks.receive(ID, 1_000_000, what=WHAT, deadline=soon(), digest=Seen(right=False))
    with pytest.raises(MalformedMessage, match="was announced with 999999 bytes; 1000000 are in the object store"):
        await chunks.receive(ID, 999_999, what=WHAT, deadline=soon())
    await chunks.close()
    # Whoever names another's payload must not be able to remove it.
    assert len(await stored(peer, lattice)) == 3


async def test_a_changed_answer_is_refused(chunks: Chunks, peer: Any, lattice: str) -> None:
    info = await chunks.send(f"{ID}-r", os.urandom(1_000_000), what=WHAT)
    await peer.delete_msg(f"OBJ_{lattice}", 8)
    await peer.publish(f"$O.{lattice}.C.{info.nuid}", os.urandom(1_000_000 - 7 * 131072))
    with pytest.raises(MalformedMessage, match=r"1000000 bytes, cannot be read: .* \(SHA-256\)"):
        await chunks.receive(f"{ID}-r", 1_000_000, what=WHAT, deadline=soon())


async def test_a_payload_that_is_not_there_is_named(chunks: Chunks) -> None:
    with pytest.raises(LatticeError, match=r"the argument of Test.Call, 5000000 bytes, is not in") as caught:
        await chunks.receive(ID, 5_000_000, what=WHAT, deadline=soon())
    assert caught.value.code is Code.NOT_FOUND


async def test_reading_ends_at_the_deadline(chunks: Chunks) -> None:
    await chunks.send(ID, b"x" * 8_000_000, what=WHAT)
    with pytest.raises(Unreachable, match="8000000 bytes, could not be read from the object store in time") as caught:
        await chunks.receive(ID, 8_000_000, what=WHAT, deadline=soon(0.0))
    assert caught.value.code is Code.TIMED_OUT


async def test_without_jetstream_size_limit_and_remedy_are_named(tmp_path: Path, lattice: str) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        connection = await connect(ConnectOptions(url=server.url))
        chunks = Chunks(connection, lattice)
        with pytest.raises(TooLarge) as caught:
            await chunks.send(ID, b"x" * 1_000_000, what=WHAT)
        for part in (WHAT, "has 1000000 bytes", "921600", "JetStream is off", server.url, "start the server with -js"):
            assert part in str(caught.value)
        with pytest.raises(LatticeError, match=r"1000000 bytes, cannot be read: .* JetStream is off"):
            await chunks.receive(ID, 1_000_000, what=WHAT, deadline=soon())
        await chunks.close()
        await connection.close()
    finally:
        server.stop()


async def test_a_user_without_jetstream_is_told_so(tmp_path: Path, lattice: str) -> None:
    config = "accounts { plain { users: [{user: u, password: p}] }, js { jetstream: enabled, users: [{user: j}] } }\n"
    server = NatsServer(tmp_path, config=config).start()
    try:
        connection = await connect(ConnectOptions(url=server.url.replace("//", "//u:p@")))
        with pytest.raises(TooLarge, match=r"more than 921600 cannot be sent: .*enable JetStream"):
            await Chunks(connection, lattice).send(ID, b"x" * 1_000_000, what=WHAT)
        await connection.close()
    finally:
        server.stop()


# --- leftovers --------------------------------------------------------------------------------------------------------


async def test_the_server_itself_forgets_what_nobody_reads(chunks: Chunks, peer: Any, lattice: str) -> None:
    await chunks.send(ID, b"x", what=WHAT)
    assert (await peer.stream_info(f"OBJ_{lattice}")).config.max_age == MAX_AGE


async def put_old(peer: Any, bucket: str, key: str, *, age: float = MAX_AGE + 60, name: str = "") -> None:
    """The document of an object that was written so long ago by the clock of its writer."""
    written = datetime.fromtimestamp(time.time() - age, UTC).isoformat()
    document = {"name": name or key, "nuid": f"N{key[:20].replace('.', '')}", "size": 5, "chunks": 1, "mtime": written}
    await peer.publish(f"$O.{bucket}.C.{document['nuid']}", b"chunk")
    await peer.publish(f"$O.{bucket}.M.{key}", json.dumps(document).encode(), headers={"Nats-Rollup": "sub"})


def encoded(name: str) -> str:
    return base64.urlsafe_b64encode(name.encode()).decode()


async def test_in_a_bucket_of_others_old_payloads_are_swept_and_nothing_else(
    connection: Connection, peer: Any, lattice: str
) -> None:
    await peer.create_object_store(lattice)
    uuid = "01234567-89ab-cdef-0123-456789abcdef"
    left = [ID, encoded(f"{ID[::-1]}-r"), encoded(uuid), f"{uuid}-r"]
    for key, age in zip(left, (86_400, MAX_AGE + 60, 0, -86_400), strict=True):
        await put_old(peer, lattice, key, age=age)
    kept = [encoded("holiday.jpg"), encoded("f00f")]
    for key in kept:
        await put_old(peer, lattice, key)
    chunks = Chunks(connection, lattice)
    assert await chunks.sweep() == 0  # by the clock of the server, which is nobody's who wrote or sweeps, none is old
    await chunks.close()
    chunks = Chunks(connection, lattice, unclaimed=0.0)
    assert await chunks.sweep() == len(left)
    documents = {token for token in await stored(peer, lattice) if not token.startswith("N")}
    assert documents == set(kept)
    assert len(await stored(peer, lattice)) == 2 * len(kept)
    await chunks.close()


async def test_chunks_of_a_writer_that_died_are_swept_once_they_are_old(
    connection: Connection, peer: Any, lattice: str
) -> None:
    store = await peer.create_object_store(lattice)
    await store.put("holiday.jpg", b"x" * 10)
    kept = await stored(peer, lattice)
    await peer.publish(f"$O.{lattice}.C.LOST", b"half of a payload")
    chunks = Chunks(connection, lattice)
    assert await chunks.sweep() == 0
    later = Chunks(connection, lattice, unclaimed=0.0)
    assert await later.sweep() == 1
    assert await stored(peer, lattice) == kept
    # With a document that cannot be read, nobody knows whose chunks these are.
    await peer.publish(f"$O.{lattice}.C.LOST", b"half of a payload")
    await peer.publish(f"$O.{lattice}.M.strange", b"?")
    assert await later.sweep() == 0
    await chunks.close()
    await later.close()


async def test_use_of_a_bucket_of_others_sweeps_it_now_and_then(
    connection: Connection, peer: Any, lattice: str
) -> None:
    await peer.create_object_store(lattice)
    await put_old(peer, lattice, ID)
    chunks = Chunks(connection, lattice, unclaimed=0.0)
    with capture_logs() as logs:
        await chunks.send("a" * 32, b"x", what=WHAT)
        await eventually(lambda: logs)
    assert [entry["event"] for entry in logs] == ["chunks.swept"]
    assert ID not in await stored(peer, lattice)
    await chunks.close()


async def test_what_cannot_be_deleted_is_only_logged(connection: Connection, peer: Any, lattice: str) -> None:
    chunks = Chunks(connection, lattice)
    await chunks.send(ID, b"x" * 10, what=WHAT)
    await (await peer.object_store(lattice)).seal()
    with capture_logs() as logs:
        assert await chunks.receive(ID, 10, what=WHAT, deadline=soon()) == b"x" * 10
        await chunks.close()
    assert [entry["event"] for entry in logs] == ["chunks.not_deleted"]


async def test_many_large_payloads_at_once_come_back_whole(chunks: Chunks, peer: Any, lattice: str) -> None:
    payloads = {f"{number:032x}": os.urandom(1_000_000 + number) for number in range(24)}

    async def there_and_back(name: str, payload: bytes) -> bool:
        await chunks.send(name, payload, what=WHAT)
        return await chunks.receive(name, len(payload), what=WHAT, deadline=soon(30)) == payload

    assert all(await asyncio.gather(*(there_and_back(*item) for item in payloads.items())))
    await chunks.close()
    assert await stored(peer, lattice) == set()


def test_names_of_all_generations_are_those_of_payloads() -> None:
    for name in (ID, f"{ID}-r", "9F8C0A5E-9D2B-4C6F-8F0A-0123456789AB", "9f8c0a5e-9d2b-4c6f-8f0a-0123456789ab-r"):
        assert policy._INVOCATION.fullmatch(name)
    for name in ("holiday", ID[:-1], f"{ID}-x", ""):
        assert not policy._INVOCATION.fullmatch(name)
