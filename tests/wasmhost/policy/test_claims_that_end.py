"""Claims that end while something runs under them, on a whole host."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import structlog

from lattice import subjects
from lattice.claims import read_actor
from lattice.connection import Connection
from lattice.errors import Code, LatticeError
from lattice.invocation import Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from tests.support import actors
from tests.support.archives import pack
from tests.support.nats import NatsServer
from tests.support.waiting import eventually
from tests.wasmhost.control.waiting import EventLog, alive
from tests.wasmhost.policy.calling import call
from wasmhost.cli.entry import run
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

CONTRACT = "test:slow"
SLOW = actors.caller(namespace=CONTRACT, operation="Slow.Do", binding="default")


def soon(seconds: int = 3) -> int:
    """A time in whole seconds, at least ``seconds`` minus one ahead."""
    return int(time.time()) + seconds


@dataclass
class Held:
    """A provider that answers when the test says so."""

    client: Connection
    key: str
    waiting: tuple[str, str] = ("", "")

    @classmethod
    async def serve(cls, client: Connection, lattice: str) -> Held:
        held = cls(client, KeyPair.generate(Role.SERVICE).public)

        def on_call(subject: str, reply: str, headers: object, payload: bytes) -> None:
            held.waiting = reply, Invocation.decode(payload).id

        await client.subscribe(subjects.provider_rpc(lattice, held.key, "default"), on_call, queue="rpc")
        return held

    def answer(self) -> None:
        reply, invocation = self.waiting
        self.client.publish(reply, InvocationResponse(msg=b"done", invocation_id=invocation).encode())


async def refusal(host: Host, client: Connection, actor: str) -> LatticeError:
    with pytest.raises(LatticeError) as caught:
        await call(host, client, actor)
    return caught.value


@pytest.fixture
def command_line(
    nats_server: NatsServer, lattice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """Commands run in this process work in the test's lattice."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WASMHOST_NATS_URL", nats_server.url)
    monkeypatch.setenv("WASMCLOUD_LATTICE", lattice)
    yield
    structlog.reset_defaults()


@pytest.mark.usefixtures("command_line")
async def test_new_calls_are_refused_those_in_flight_finish_and_then_it_is_stopped_and_shown(
    config: HostConfig,
    client: Connection,
    events: EventLog,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    async with Host(config) as host:
        held = await Held.serve(client, config.lattice)
        wasm = actors.signed(SLOW, name="Slow", capabilities=[CONTRACT], expires=soon())
        actor = read_actor(wasm).subject
        await host.linking.put(LinkDefinition(actor_id=actor, provider_id=held.key, contract_id=CONTRACT))
        await host.actors.launch(actors.write(tmp_path, wasm), 2)
        in_flight = asyncio.create_task(call(host, client, actor, timeout=10))
        await eventually(lambda: held.waiting[0])

        warned = await events.wait("claims_expiring", public_key=actor)
        told = await events.wait("claims_refused", public_key=actor)
        assert warned.data["seconds_left"] <= 1 and warned.data["name"] == "Slow"
        assert told.data["problem"] == "expired" and f"the claims of {actor} expired at" in told.data["error"]
        assert events.named("actors_stopped") == []  # one call goes on
        (description,) = host.actors.descriptions()
        assert "expired at" in description.error
        refused = await refusal(host, client, actor)
        assert refused.code in (Code.NOT_AUTHORIZED, Code.NO_RESPONDERS)
        assert not in_flight.done()

        held.answer()
        assert await in_flight == b"done"
        stopped = await events.wait("actors_stopped", public_key=actor)
        assert (stopped.data["count"], stopped.data["remaining"]) == (2, 0)
        (halted,) = host.facts.inventory().halted
        assert (halted.id, halted.name, halted.state) == (actor, "Slow", "expired")

        for name in (actor, "Slow"):
            assert await asyncio.to_thread(run, ["call", name, "Test.Call"]) == 8
            assert f"the claims of {actor} expired at" in capfd.readouterr().err
        assert await asyncio.to_thread(run, ["get", "actors"]) == 0
        assert "expired: Slow" in capfd.readouterr().out
        with pytest.raises(LatticeError, match="expired at"):
            await host.actors.launch(actors.write(tmp_path, wasm))


@pytest.mark.usefixtures("command_line")
async def test_renewed_claims_take_over_live_with_the_same_revision(
    config: HostConfig, client: Connection, events: EventLog, tmp_path: Path
) -> None:
    async with Host(config) as host:
        module = KeyPair.generate(Role.MODULE)
        wasm = actors.signed(actors.ECHO, module=module, revision=4, expires=soon(8))
        reference = actors.write(tmp_path, wasm)
        await host.actors.launch(reference, 2)
        with pytest.raises(LatticeError, match="not newer than the running 4"):
            await host.actors.update(reference)  # the very same token renews nothing
        other_code = actors.signed(actors.COUNTING, module=module, revision=4, expires=soon(3600))
        with pytest.raises(LatticeError, match="not newer than the running 4"):
            await host.actors.update(actors.write(tmp_path, other_code, "other.wasm"))

        answered = 0

        async def keep_calling() -> None:
            nonlocal answered
            while True:
                assert await call(host, client, module.public) == b"x"
                answered += 1
                await asyncio.sleep(0.01)

        calling = asyncio.create_task(keep_calling())
        actors.write(tmp_path, actors.signed(actors.ECHO, module=module, revision=4, expires=soon(3600)))
        path = str(tmp_path / "actor_s.wasm")
        assert await asyncio.to_thread(run, ["update", "actor", module.public, path]) == 0
        assert host.actors.running_claims()[0].expires is not None
        ended = read_actor(wasm).expires
        assert ended is not None
        await asyncio.sleep(max(0.0, ended + 1 - time.time()))
        assert not calling.done() and answered > 10
        calling.cancel()
        assert events.named("claims_refused") == []
        assert host.actors.counts() == {module.public: 2}


async def test_a_provider_whose_claims_end_is_stopped_and_shown(
    config: HostConfig, events: EventLog, tmp_path: Path
) -> None:
    async with Host(config) as host:
        reference = pack(tmp_path, b"#!/bin/sh\nexec sleep 60\n", name="short.par", expires=soon(5))
        provider = await host.providers.start(reference)
        await eventually(lambda: provider.pid is not None)
        pid = provider.pid
        assert pid is not None
        told = await events.wait("claims_refused", public_key=provider.image.public_key)
        assert told.data["problem"] == "expired"
        stopped = await events.wait("provider_stopped", public_key=provider.image.public_key)
        assert "expired at" in stopped.data["reason"]
        await eventually(lambda: not alive(pid))
        (halted,) = host.facts.inventory().halted
        assert (halted.id, halted.link_name, halted.state) == (provider.image.public_key, "default", "expired")
        with pytest.raises(LatticeError, match="expired at"):
            await host.providers.start(reference)


async def test_a_downgrade_is_refused_after_all_hosts_were_restarted(config: HostConfig, tmp_path: Path) -> None:
    module = KeyPair.generate(Role.MODULE)
    newer = actors.write(tmp_path, actors.signed(actors.ECHO, module=module, revision=3), "3.wasm")
    older = actors.write(tmp_path, actors.signed(actors.ECHO, module=module, revision=2), "2.wasm")
    guarded = replace(config, refuse_downgrades=True, restore=False)
    async with Host(guarded) as host:
        await host.actors.launch(newer)
    async with Host(guarded) as host:
        with pytest.raises(LatticeError, match="older than revision 3, which has run in this lattice") as refused:
            await host.actors.launch(older)
        assert refused.value.code is Code.CONFLICT
