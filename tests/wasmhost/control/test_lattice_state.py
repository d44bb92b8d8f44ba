"""What hosts agree on: through the bucket, and without JetStream in each host's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lattice import subjects
from lattice.connection import ConnectOptions, connect
from lattice.errors import MalformedMessage
from lattice.store import open_bucket
from tests.support.nats import NatsServer, with_limited_user
from tests.wasmhost.control.waiting import until
from wasmhost.knowledge.lattice_state import LatticeState

Open = Callable[..., Awaitable[LatticeState]]


@pytest.fixture
async def opened(lattice: str, nats_server: NatsServer) -> AsyncIterator[Open]:
    """``await opened(url)`` is the state as one more host sees it; all are closed at the end."""
    closing: list[Callable[[], Awaitable[None]]] = []

    async def at(url: str = nats_server.url) -> LatticeState:
        connection = await connect(ConnectOptions(url=url))
        state = LatticeState(connection, lattice)
        await state.open()
        closing.extend([connection.drain, state.close])
        return state

    yield at
    for close in reversed(closing):
        await close()


async def test_what_one_host_puts_the_others_are_told_and_a_new_one_finds(opened: Open) -> None:
    one, two = await opened(), await opened()
    told: list[tuple[str, bytes | None]] = []
    await one.put("kind.a", b"1")
    assert one.get("kind.a") == b"1"  # known when put returns
    await until(lambda: two.get("kind.a") == b"1")
    stop = two.on_change("kind.", lambda key, value: told.append((key, value)))
    assert told == [("kind.a", b"1")]  # what is there already is told at once
    await one.put("other.a", b"x")
    await one.put("kind.b", b"2")
    await one.delete("kind.a")
    await until(lambda: told[1:] == [("kind.b", b"2"), ("kind.a", None)])
    late = await opened()
    assert dict(late.entries()) == {"other.a": b"x", "kind.b": b"2"}
    assert dict(late.entries("kind.")) == {"kind.b": b"2"}
    stop()
    await one.put("kind.c", b"3")
    await until(lambda: two.get("kind.c") == b"3")
    assert len(told) == 3


async def test_changes_of_one_key_by_several_hosts_at_once_are_all_counted(opened: Open) -> None:
    hosts = [await opened() for _ in range(3)]
    await asyncio.gather(*(host.change("n", lambda old: b"%d" % (int(old or 0) + 1)) for host in hosts * 3))
    await until(lambda: all(host.get("n") == b"9" for host in hosts))


async def test_a_lost_bucket_is_filled_again_from_what_the_hosts_know(opened: Open, lattice: str) -> None:
    one, two = await opened(), await opened()
    told: list[tuple[str, bytes | None]] = []
    await one.put("revoked.a", b"1")
    await one.put("revoked.b", b"2")
    await one.delete("revoked.b")
    await until(lambda: dict(two.entries()) == {"revoked.a": b"1"})
    two.on_change("", lambda key, value: told.append((key, value)))
    connection = one._connection
    await connection.request(f"$JS.API.STREAM.DELETE.KV_{subjects.state_bucket(lattice)}", b"", timeout=5)
    await one.put("revoked.c", b"3")  # makes the bucket again
    await until(lambda: dict(two.entries()) == {"revoked.a": b"1", "revoked.c": b"3"}, timeout=20)
    late = await opened()
    await until(lambda: dict(late.entries()) == {"revoked.a": b"1", "revoked.c": b"3"}, timeout=20)
    assert told == [("revoked.a", b"1"), ("revoked.c", b"3")], "nothing was ever told as deleted"


async def test_a_callback_that_breaks_neither_ends_the_watch_nor_keeps_others_from_hearing(opened: Open) -> None:
    one, two = await opened(), await opened()
    heard: list[str] = []

    def broken(key: str, value: bytes | None) -> None:
        raise RuntimeError(key)

    two.on_change("", broken)
    two.on_change("", lambda key, value: heard.append(key))
    await one.put("a", b"1")
    await one.put("b", b"2")
    await until(lambda: heard == ["a", "b"])


async def test_a_key_that_no_bucket_can_hold_is_refused_with_and_without_jetstream(
    opened: Open, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    try:
        for state in (await opened(), await opened(server.url)):
            with pytest.raises(MalformedMessage, match="only letters"):
                await state.put("a b", b"")
    finally:
        server.stop()


async def test_without_jetstream_entries_stay_here_and_move_into_the_bucket_when_it_comes(
    opened: Open, lattice: str, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "plain", jetstream=False).start()
    try:
        one, two = await opened(server.url), await opened(server.url)
        assert one.degraded is not None and "JetStream" in one.degraded
        await one.put("kind.a", b"1")
        assert await one.change("kind.b", lambda old: b"new" if old is None else b"old") == b"new"
        await one.put("kind.gone", b"1")
        await one.delete("kind.gone")
        assert one.get("kind.a") == b"1" and two.get("kind.a") is None
        server.stop()
        server = NatsServer(tmp_path / "full", port=server.port).start()
        await until(lambda: one.degraded is None and two.degraded is None, timeout=20)
        await until(lambda: dict(two.entries()) == {"kind.a": b"1", "kind.b": b"new"}, timeout=20)

        # a restart of the server loses nothing, and changes go on
        server.restart()
        client = await connect(ConnectOptions(url=server.url))
        bucket = await open_bucket(client, subjects.state_bucket(lattice))
        await bucket.put("kind.a", b"2")
        await until(lambda: one.get("kind.a") == two.get("kind.a") == b"2", timeout=20)
        await client.drain()
    finally:
        server.stop()


async def test_a_bucket_that_may_not_be_watched_at_first_is_watched_later(opened: Open, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", config=with_limited_user("$JS.API.CONSUMER.>")).start()
    try:
        one = await opened(server.login_url("full"))
        await one.put("kind.a", b"1")
        async with asyncio.timeout(5):
            two = await opened(server.login_url("limited"))  # the start does not wait for what is not permitted
        assert two.degraded is not None and "cannot be watched" in two.degraded and two.get("kind.a") is None
        await asyncio.to_thread(server.reload, with_limited_user())
        await until(lambda: two.degraded is None and two.get("kind.a") == b"1", timeout=20)
    finally:
        server.stop()
