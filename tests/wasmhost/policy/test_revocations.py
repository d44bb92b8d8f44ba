"""Revocations, on two hosts of one lattice and more: what they stop, what they outlive, how they end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lattice import bundled, subjects
from lattice.claims import ClaimsRefused, Problem, read_actor
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, RemoteError, Unreachable
from lattice.keys import KeyPair, Role
from lattice.revocation import Revocation
from lattice.store import open_bucket
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.waiting import eventually
from tests.wasmhost.control.waiting import EventLog
from tests.wasmhost.policy.calling import call
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host

STORE = bundled.find("bundled:keyvalue-memory")
Another = Callable[[str], HostConfig]


@pytest.fixture
def another(config: HostConfig, tmp_path: Path) -> Another:
    """Another host of the same user in the same lattice, or the same one again."""

    def make(name: str, **settings: Any) -> HostConfig:
        return replace(config, paths=replace(config.paths, host=tmp_path / name), **settings)

    return make


@pytest.fixture
async def hosts(another: Another) -> AsyncIterator[tuple[Host, Host]]:
    async with AsyncExitStack() as opened:
        yield (
            await opened.enter_async_context(Host(another("one"))),
            await opened.enter_async_context(Host(another("two"))),
        )


@pytest.fixture
def control(client: Connection, lattice: str) -> ControlClient:
    return ControlClient(client, lattice)


class Actor:
    """Signed files of one actor."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.module = KeyPair.generate(Role.MODULE)
        self.key = self.module.public

    def write(self, wat: str = actors.ECHO, **claims: Any) -> tuple[str, str]:
        """Reference and token id."""
        wasm = actors.signed(wat, module=self.module, **claims)
        read = read_actor(wasm)
        return actors.write(self.folder, wasm, f"{self.key}-{read.token_id}.wasm"), read.token_id


async def refused(host: Host, reference: str) -> str:
    with pytest.raises(ClaimsRefused) as caught:
        await host.actors.launch(reference)
    assert caught.value.problem is Problem.REVOKED and caught.value.code is Code.NOT_AUTHORIZED
    return str(caught.value)


async def test_a_revoked_actor_is_stopped_at_once_on_every_host_until_it_is_lifted(
    hosts: tuple[Host, Host], control: ControlClient, client: Connection, events: EventLog, tmp_path: Path
) -> None:
    actor = Actor(tmp_path)
    reference, _ = actor.write(actors.SPINNING, name="Leaky")
    for host in hosts:
        await host.actors.launch(reference, 2)
    in_flight = asyncio.create_task(call(hosts[0], client, actor.key, timeout=15))
    await eventually(lambda: any(host.actors.active_calls for host in hosts))

    await control.revoke(hosts[0].host_id, Revocation(id=actor.key, reason="leaks requests", at=1))
    for host in hosts:
        told = await events.wait("claims_refused", public_key=actor.key, host_id=host.host_id)
        assert told.data["problem"] == "revoked" and "leaks requests" in told.data["error"]
        await events.wait("actors_stopped", public_key=actor.key, host_id=host.host_id)
    with pytest.raises(LatticeError):  # it is not waited for
        await in_flight
    with pytest.raises(Unreachable) as nobody:  # they have left the queue group
        await call(hosts[0], client, actor.key)
    assert nobody.value.code is Code.NO_RESPONDERS
    for host in hosts:
        assert host.actors.counts() == {}
        (halted,) = host.facts.inventory().halted
        assert (halted.id, halted.state) == (actor.key, "revoked")
        assert "leaks requests" in await refused(host, reference)
        (listed,) = await control.revoked(host.host_id)
        assert (listed.id, listed.kind, listed.reason) == (actor.key, "actor", "leaks requests")

    await control.revoke(hosts[1].host_id, Revocation(id=actor.key, at=2, lifted=True))
    await eventually(lambda: not hosts[0].policy.revocations.all())
    assert await hosts[0].actors.launch(reference) == actor.key
    assert hosts[0].facts.inventory().halted == ()
    assert await control.revoked(hosts[1].host_id) == []


async def test_revisions_tokens_accounts_and_providers_can_be_revoked(
    hosts: tuple[Host, Host], control: ControlClient, events: EventLog, tmp_path: Path
) -> None:
    here, there = hosts
    actor, bystander = Actor(tmp_path), Actor(tmp_path)
    one, _ = actor.write(revision=1)
    two, token = actor.write(revision=2)
    again, _ = actor.write(revision=2)
    unaffected, _ = bystander.write()
    await there.actors.launch(one)
    await there.actors.launch(unaffected)

    await control.revoke(here.host_id, Revocation(id=actor.key, revision=1))
    await events.wait("claims_refused", public_key=actor.key)
    await refused(there, one)
    await there.actors.launch(two)

    events.events.clear()
    await control.revoke(here.host_id, Revocation(id=token))
    told = await events.wait("claims_refused", public_key=actor.key)
    assert token in told.data["error"]
    await eventually(lambda: actor.key not in there.actors.counts())
    await refused(there, two)
    await there.actors.launch(again)
    with pytest.raises(LatticeError, match="was revoked"):
        await there.actors.update(two)

    await there.providers.start(STORE.reference)
    await events.wait("provider_started", public_key=STORE.public_key)
    await control.revoke(here.host_id, Revocation(id=STORE.public_key))
    await events.wait("provider_stopped", public_key=STORE.public_key)
    assert list(there.providers) == []
    with pytest.raises(ClaimsRefused, match="was revoked"):
        await here.providers.start(STORE.reference)

    assert set(there.actors.counts()) == {actor.key, bystander.key}
    await control.revoke(here.host_id, Revocation(id=actors.ACCOUNT.public))
    await eventually(lambda: there.actors.counts() == {})
    assert f"its account {actors.ACCOUNT.public} was revoked" in await refused(there, unaffected)


async def test_a_host_that_was_down_hears_of_it_and_one_without_jetstream_remembers_it(
    another: Another, control: ControlClient, tmp_path: Path
) -> None:
    actor = Actor(tmp_path)
    reference, _ = actor.write()
    async with Host(another("one")) as host:
        await control.revoke(host.host_id, Revocation(id=actor.key))
    async with Host(another("two")) as host:
        await refused(host, reference)
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    try:
        endpoint = NatsEndpoint(url=server.url)
        bare = another("two", rpc=endpoint, control=endpoint, providers=endpoint)
        async with Host(bare) as host:
            assert host.lattice_state.degraded
            await refused(host, reference)
    finally:
        server.stop()


async def test_without_jetstream_a_host_that_is_told_refuses_too(another: Another, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    try:
        endpoint = NatsEndpoint(url=server.url)
        actor = Actor(tmp_path)
        reference, _ = actor.write()
        bare = another("bare", rpc=endpoint, control=endpoint, providers=endpoint)
        async with Host(bare) as host:
            await host.actors.launch(reference)
            await host.policy.revocations.put(Revocation(id=actor.key))
            await eventually(lambda: host.actors.counts() == {})
            await refused(host, reference)
        async with Host(bare) as host:
            await refused(host, reference)
    finally:
        server.stop()


async def test_an_entry_that_vanished_from_the_bucket_is_put_back_and_rubbish_in_it_ignored(
    hosts: tuple[Host, Host], control: ControlClient, client: Connection, lattice: str, tmp_path: Path
) -> None:
    actor = Actor(tmp_path)
    reference, _ = actor.write()
    entry = Revocation(id=actor.key)
    await control.revoke(hosts[0].host_id, entry)
    bucket = await open_bucket(client, subjects.state_bucket(lattice), create=False)
    await eventually(hosts[1].policy.revocations.all)
    await bucket.purge(entry.key)
    async with asyncio.timeout(10):
        while await bucket.get(entry.key) is None:  # noqa: ASYNC110 only the bucket knows
            await asyncio.sleep(0.02)
    await refused(hosts[1], reference)

    other = Actor(tmp_path)
    running, _ = other.write()
    await hosts[1].actors.launch(running)
    await bucket.put(f"revoked.{other.key}", b"{}")
    await bucket.put(f"revoked.{other.key}.x", entry.encode())
    marker = Revocation(id=KeyPair.generate(Role.MODULE).public)
    await control.revoke(hosts[1].host_id, marker)
    assert {each.id for each in hosts[1].policy.revocations.all()} == {actor.key, marker.id}
    assert hosts[1].actors.counts() == {other.key: 1}


async def test_what_the_settings_revoke_nobody_lifts(another: Another, control: ControlClient, tmp_path: Path) -> None:
    actor = Actor(tmp_path)
    reference, _ = actor.write()
    async with Host(another("strict", revoked=(actor.key,))) as host:
        assert "setting of this host" in await refused(host, reference)
        with pytest.raises(RemoteError, match="remove it there") as conflict:
            await control.revoke(host.host_id, Revocation(id=actor.key, lifted=True))
        assert conflict.value.code is Code.CONFLICT
        with pytest.raises(RemoteError, match="neither a public key nor the id of a token"):
            await control.revoke(host.host_id, Revocation(id="nothing"))
