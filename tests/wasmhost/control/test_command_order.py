"""Commands on the heels of a start, which is acknowledged before it is done and answers calls before it is over."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace
from pathlib import Path

import pytest

from lattice.antiforgery import Signer
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, Unreachable
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.rpc import RpcClient
from tests.support.actors import ACCOUNT, ECHO, signed, write
from tests.support.archives import SERVICE, pack
from tests.support.foreign import classic
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host
from wasmhost.starts import Starts
from wasmhost.state import Keyring

MODULE = KeyPair.from_raw(Role.MODULE, bytes([45]) * 32)
ACTOR = MODULE.public
PROVIDER = SERVICE.public


@pytest.fixture
def trusting(config: HostConfig) -> HostConfig:
    return replace(config, trusted_issuers=frozenset({ACCOUNT.public}))


def actor(folder: Path, revision: int = 1) -> str:
    wasm = signed(ECHO, module=MODULE, revision=revision)
    return write(folder, wasm, f"echo{revision}.wasm")


async def answered(client: Connection, config: HostConfig) -> None:
    """Return with the first answer of the actor."""
    rpc = RpcClient(client, config.lattice, Signer(Keyring(config.paths).cluster(), KeyPair.generate(Role.HOST).public))
    async with asyncio.timeout(20):
        while True:
            with contextlib.suppress(Unreachable):
                await rpc.call(origin=Entity("test"), target=Entity.actor(ACTOR), operation="E.E", msg=b"x", timeout=2)
                return
            await asyncio.sleep(0)


async def test_a_stop_is_understood_from_the_acknowledgement_of_the_start_on(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        control = ControlClient(client, trusting.lattice)
        reference = actor(tmp_path)
        for verb in ("la", "scale"):
            events = await EventLog.open(client, trusting.lattice)
            if verb == "la":
                await control.launch_actor(host.host_id, reference, 2, {})
            else:
                await control.scale_actor(host.host_id, reference, count=2)
            await control.stop_actor(host.host_id, ACTOR, 0, {})
            stopped = await events.wait("actors_stopped", public_key=ACTOR)
            assert (stopped.data["count"], stopped.data["remaining"]) == (2, 0)
            assert host.actors.counts() == {}


async def test_a_provider_that_is_told_to_stop_while_it_is_being_started_does_not_run_on(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        control = ControlClient(client, trusting.lattice)
        events = await EventLog.open(client, trusting.lattice)
        reference = pack(tmp_path, classic() + b"\n#" * 4_000_000)  # reading it takes a moment
        for count in (1, 2):
            await control.start_provider(host.host_id, reference)
            await control.stop_provider(host.host_id, PROVIDER)
            await events.wait("provider_stopped", public_key=PROVIDER, count=count)
            assert list(host.providers) == []


async def test_a_stop_is_understood_from_the_first_answer_of_the_actor_on(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        control = ControlClient(client, trusting.lattice)
        reference = actor(tmp_path)
        for _ in range(5):
            await control.launch_actor(host.host_id, reference, 1, {})
            await answered(client, trusting)
            await control.stop_actor(host.host_id, ACTOR, 0, {})
            await until(lambda: not host.actors.counts())


async def test_an_update_may_follow_a_start_at_once_and_a_stop_the_update(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        control = ControlClient(client, trusting.lattice)
        events = await EventLog.open(client, trusting.lattice)
        await control.launch_actor(host.host_id, actor(tmp_path), 1, {})
        await control.update_actor(host.host_id, ACTOR, actor(tmp_path, revision=2), {})
        await control.stop_actor(host.host_id, ACTOR, 0, {})
        updated = await events.wait("actor_updated", public_key=ACTOR)
        assert updated.data["revision"] == 2
        await until(lambda: not host.actors.counts())


async def test_what_does_not_run_is_refused_at_once_when_nothing_is_being_started(
    trusting: HostConfig, client: Connection
) -> None:
    async with Host(trusting) as host:
        control = ControlClient(client, trusting.lattice)
        async with asyncio.timeout(1):
            with pytest.raises(LatticeError, match="actor is not running on this host") as caught:
                await control.stop_actor(host.host_id, ACTOR, 0, {})
        assert caught.value.code is Code.NOT_RUNNING


async def test_starts_are_waited_for_that_may_be_of_the_actor_meant() -> None:
    starts, running = Starts(), set[str]()

    def asked(key: str, timeout: float = 5) -> asyncio.Task[bool]:
        return asyncio.create_task(starts.wait_for(key, lambda: key in running, timeout))

    assert not await asked("a")
    async with starts.begin() as unknown, starts.begin("b"):
        waiting, late = asked("a"), asked("a", timeout=0.01)
        assert not await late
        running.add("b")
        assert await asked("b")
        assert not waiting.done()
        running.add("a")
        unknown.key = "a"
    assert await waiting
    async with starts.begin("b"):
        assert not await asked("c")
