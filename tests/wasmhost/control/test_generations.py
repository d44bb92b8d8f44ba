"""Generations of provider keys: agreed in the lattice, never forgotten, never lowered."""

from __future__ import annotations

import json
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from lattice import subjects
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Code, LatticeError
from lattice.keys import KeyPair, Role
from lattice.store import check_key, open_bucket
from tests.support.nats import NatsServer
from tests.wasmhost.control.waiting import until
from wasmhost.keys.generations import Generations, key_of
from wasmhost.knowledge.lattice_state import LatticeState

PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public
Open = Callable[..., Awaitable[Generations]]


@pytest.fixture
async def opened(lattice: str, nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[Open]:
    """``await opened("one", url)`` are the generations as that host knows them."""
    closing: list[Callable[[], Awaitable[None]]] = []

    async def at(host: str, url: str = nats_server.url) -> Generations:
        connection = await connect(ConnectOptions(url=url))
        state = LatticeState(connection, lattice)
        await state.open()
        generations = Generations(state, tmp_path / f"{host}.json")
        await generations.open()
        closing.extend([connection.drain, state.close])
        return generations

    yield at
    for close in reversed(closing):
        await close()


async def test_a_revocation_reaches_every_host_and_outlives_the_bucket(
    opened: Open, client: Connection, lattice: str, tmp_path: Path
) -> None:
    one, two = await opened("one"), await opened("two")
    raised: list[tuple[str, str]] = []
    two.on_raised = lambda provider, link_name: raised.append((provider, link_name))
    assert await one.raise_for(PROVIDER, "default") == 1
    assert one.of(PROVIDER, "default") == 1  # at once, here
    await until(lambda: two.of(PROVIDER, "default") == 1)
    assert await two.raise_for(PROVIDER, "default") == 2
    await until(lambda: one.of(PROVIDER, "default") == 2)
    assert raised == [(PROVIDER, "default")] * 2 and one.of(PROVIDER, "other") == 0
    assert stat.S_IMODE((tmp_path / "one.json").stat().st_mode) == 0o600

    await client.request(f"$JS.API.STREAM.DELETE.KV_{subjects.state_bucket(lattice)}", b"", timeout=5)
    again = await opened("one")  # a restarted host tells the others what it has kept
    assert again.of(PROVIDER, "default") == 2
    third = await opened("three")
    await until(lambda: third.of(PROVIDER, "default") == 2)
    assert two.of(PROVIDER, "default") == 2


async def test_nobody_lowers_a_generation_or_writes_nonsense(opened: Open, client: Connection, lattice: str) -> None:
    one = await opened("one")
    await one.raise_for(PROVIDER, "default")
    bucket = await open_bucket(client, subjects.state_bucket(lattice))
    key = key_of(PROVIDER, "default")
    entry = {"provider": PROVIDER, "link_name": "default"}
    for value in (b"", b"{", b"[]", json.dumps({**entry, "generation": 0}).encode(), json.dumps(entry).encode()):
        await bucket.put(key, value)
    await bucket.put(key_of(PROVIDER, "other"), json.dumps({**entry, "generation": 7}).encode())
    await bucket.put(key_of(PROVIDER, "huge"), json.dumps({**entry, "link_name": "huge", "generation": 2**60}).encode())
    await bucket.put(key_of(PROVIDER, "last"), json.dumps({**entry, "link_name": "last", "generation": 1}).encode())
    await until(lambda: one.of(PROVIDER, "last") == 1)
    assert [one.of(PROVIDER, name) for name in ("default", "other", "huge")] == [1, 0, 0]
    assert await one.raise_for(PROVIDER, "default") == 2


async def test_without_jetstream_nothing_is_revoked_and_the_reason_is_said(opened: Open, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    try:
        one = await opened("one", server.url)
        with pytest.raises(LatticeError, match="nothing was revoked") as caught:
            await one.raise_for(PROVIDER, "default")
        assert caught.value.code is Code.UNSUPPORTED and one.of(PROVIDER, "default") == 0
    finally:
        server.stop()


def test_any_link_name_makes_a_key_of_its_own() -> None:
    names = ("default", "with.dot", "ä", "under_score", "a b", "=")
    assert len({check_key(key_of(PROVIDER, name)) for name in names}) == len(names)
