"""Classic providers and actors of our hosts: changed links cost no call, wherever the provider runs."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from lattice.antiforgery import Signer
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.errors import Code, RemoteError, Unreachable
from lattice.hostdata import HostData
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role, derive
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from lattice.subjects import actor_rpc
from lattice.transport import Headers
from tests.support.actors import ACCOUNT, caller, signed, write
from tests.support.archives import SERVICE, pack
from tests.support.foreign import SOURCES, classic
from tests.wasmhost.control.room import TIMING, opened
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.calls.holding import Holding
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host
from wasmhost.state import Keyring

PROVIDER = SERVICE.public
CONTRACT = "test:contract"
MODULE = KeyPair.from_raw(Role.MODULE, bytes([41]) * 32)
ACTOR = MODULE.public
OTHER_ACTOR = KeyPair.from_raw(Role.MODULE, bytes([42]) * 32).public


@pytest.fixture
def trusting(config: HostConfig) -> HostConfig:
    return replace(config, trusted_issuers=frozenset({ACCOUNT.public}))


def link(**values: str) -> LinkDefinition:
    return LinkDefinition(actor_id=ACTOR, provider_id=PROVIDER, contract_id=CONTRACT, values=values)


class Lattice:
    """A client of the lattice, and load on an actor that passes its calls on to the provider."""

    def __init__(self, client: Connection, config: HostConfig) -> None:
        self._client = client
        self._config = config
        self.control = ControlClient(client, config.lattice)
        cluster = Keyring(config.paths).cluster()
        self._rpc = RpcClient(client, config.lattice, Signer(cluster, KeyPair.generate(Role.HOST).public))

    async def start_actor(self, host: Host, folder: Path, operation: str = "Test.Values") -> None:
        wat = caller(namespace=CONTRACT, operation=operation, binding="default")
        reference = write(folder, signed(wat, module=MODULE, capabilities=[CONTRACT]))
        events = await EventLog.open(self._client, self._config.lattice)
        await self.control.launch_actor(host.host_id, reference, 4, {})
        await events.wait("actors_started")

    async def start_provider(self, host: Host, folder: Path, **habits: Any) -> None:
        events = await EventLog.open(self._client, self._config.lattice)
        await self.control.start_provider(host.host_id, pack(folder, classic()), "default", json.dumps(habits), {})
        await events.wait("health_check_passed", public_key=PROVIDER)

    async def ask(self) -> dict[str, str]:
        """The values of the actor's link, as the provider has them."""
        answer = await self._rpc.call(
            origin=Entity("test"), target=Entity.actor(ACTOR), operation="Test.Call", msg=b"", timeout=5.0
        )
        values = msgpack.unpackb(answer)
        assert isinstance(values, dict)
        return values

    @asynccontextmanager
    async def load(self, *, clients: int = 4) -> AsyncIterator[list[dict[str, str] | Exception]]:
        """Ask from several clients, over and over; what came of each call."""
        results: list[dict[str, str] | Exception] = []
        stop = asyncio.Event()

        async def client() -> None:
            while not stop.is_set():
                try:
                    results.append(await self.ask())
                except Exception as error:
                    results.append(error)

        tasks = [asyncio.create_task(client()) for _ in range(clients)]
        try:
            yield results
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def change_under_load(
    lattice: Lattice, put: Callable[[LinkDefinition], Awaitable[None]], *, turns: int = 4
) -> None:
    """Change the link's values again and again; no call may fail, and each change must be seen."""
    async with lattice.load() as results:
        for turn in range(turns):
            await put(link(turn=str(turn)))
            before = len(results)
            await until(lambda before=before: len(results) > before + 30, timeout=20)
            await until(lambda turn=turn: results[-1] == {"turn": str(turn)}, timeout=5)
    failed = Counter(str(result) for result in results if isinstance(result, Exception))
    assert not failed, f"{failed} of {len(results)}"


@pytest.mark.parametrize("slow", [0.0, 0.05])
async def test_changed_values_at_a_classic_provider_fail_no_call(
    trusting: HostConfig, client: Connection, tmp_path: Path, slow: float
) -> None:
    async with Host(trusting) as host:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(host, tmp_path)
        await lattice.control.put_link(link(turn="first"))
        await lattice.start_provider(host, tmp_path, slow=slow)
        await change_under_load(lattice, lattice.control.put_link)


async def test_calls_in_flight_end_before_their_link_is_taken_away(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(host, tmp_path, "Test.Slow")
        await lattice.control.put_link(link(turn="first"))
        await lattice.start_provider(host, tmp_path)
        call = asyncio.create_task(lattice.ask())
        await asyncio.sleep(0.2)  # it takes half a second
        await lattice.control.put_link(link(turn="second"))
        assert call.done()
        assert await call == {"turn": "first"}
        assert await lattice.ask() == {"turn": "second"}


async def test_values_changed_at_another_host_fail_no_call_of_this_one(
    trusting: HostConfig, another: Callable[[str], HostConfig], client: Connection, tmp_path: Path
) -> None:
    other = replace(another("other"), trusted_issuers=trusting.trusted_issuers)
    async with Host(trusting) as here, Host(other) as there:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(here, tmp_path)
        await lattice.control.put_link(link(turn="first"))
        await lattice.start_provider(there, tmp_path, slow=0.03)
        # whichever host answers: one runs the actor, the other the provider
        await change_under_load(lattice, lattice.control.put_link, turns=6)


@pytest.mark.parametrize("way", ["control", "bucket"])
async def test_two_hosts_with_one_classic_provider_both_have_changed_values_and_fail_no_call(
    trusting: HostConfig, another: Callable[[str], HostConfig], client: Connection, tmp_path: Path, way: str
) -> None:
    """Both processes hear what either host tells: each host holds the calls of its own actors only."""
    other = replace(another("other"), trusted_issuers=trusting.trusted_issuers)
    async with Host(trusting) as here, Host(other) as there:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(here, tmp_path)
        await lattice.start_actor(there, tmp_path)
        await lattice.control.put_link(link(turn="first"))
        await lattice.start_provider(here, tmp_path, slow=0.03)
        await lattice.start_provider(there, tmp_path, slow=0.03)
        put = lattice.control.put_link if way == "control" else here.metadata.put_link
        await change_under_load(lattice, put, turns=2)
        # of both, and not only of the one that was asked last
        answers = [await lattice.ask() for _ in range(30)]
        assert answers == [{"turn": "1"}] * 30
        for host in (here, there):
            provider = host.providers.find(PROVIDER, "default")
            assert provider is not None
            puts = [line for line in provider.last_lines if line.startswith("put ")]
            assert puts[-1:] == ["put {'turn': '1'}"]


@pytest.mark.parametrize("late", [0.0, 1.0])
async def test_a_second_one_of_a_provider_is_not_taken_for_the_first(
    trusting: HostConfig, another: Callable[[str], HostConfig], client: Connection, tmp_path: Path, late: float
) -> None:
    """Started after the other, or at the same moment and slower than it: its answers are not those of the other."""
    other = replace(another("other"), trusted_issuers=trusting.trusted_issuers)
    reference = pack(tmp_path, classic())
    timing = replace(TIMING, classic_start=1.0 if late else 20.0)
    async with opened(trusting, client, timing=timing) as here, opened(other, client, timing=timing) as there:
        await here.linking.put(link(turn="first"))
        await here.linking.put(replace(link(turn="first"), actor_id=OTHER_ACTOR))
        slow = await there.supervisor.start(reference, configuration=json.dumps({"late": late})) if late else None
        quick = await here.supervisor.start(reference)
        await until(lambda: "ready with 2 links" in quick.last_lines, timeout=20)
        slow = slow or await there.supervisor.start(reference)
        await until(lambda: slow.running and quick.running, timeout=20)
        if not late:
            assert "ready with 2 links" in slow.last_lines
        await here.linking.put(link(turn="second"))
        await here.linking.delete(replace(link(), actor_id=OTHER_ACTOR).key)
        told = "put {'turn': 'second'}"
        for provider in (quick, slow):
            lines = provider.last_lines
            await until(lambda lines=lines: list(lines).count("del") >= 2 and told in lines, timeout=20)


async def test_values_written_to_the_bucket_reach_a_classic_provider_and_fail_no_call(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(host, tmp_path)
        await lattice.control.put_link(link(turn="first"))
        await lattice.start_provider(host, tmp_path)
        await change_under_load(lattice, host.metadata.put_link, turns=3)


async def test_values_changed_at_a_provider_of_a_classic_host_fail_no_call(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    """Nobody of ours supervises it: it is the test that plays the classic host."""
    cluster = Keyring(trusting.paths).cluster()
    data = HostData(
        host_id=KeyPair.generate(Role.HOST).public,
        lattice_rpc_prefix=trusting.lattice,
        lattice_rpc_url=trusting.providers.url,
        provider_key=PROVIDER,
        invocation_seed=cluster.seed,
        link_definitions=(link(turn="first"),),
        cluster_issuers=(cluster.public,),
        config_json="{}",
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        str(SOURCES / "classic.py"),
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None and process.stderr is not None
    try:
        process.stdin.write(data.encode())
        while b"ready" not in (line := await asyncio.wait_for(process.stderr.readline(), 20)):
            assert line, "it ended"
        async with Host(trusting) as host:
            lattice = Lattice(client, trusting)
            await lattice.start_actor(host, tmp_path)
            await lattice.control.put_link(link(turn="first"))
            await change_under_load(lattice, lattice.control.put_link, turns=3)
    finally:
        process.kill()
        await process.wait()


async def test_a_provider_that_lost_a_link_is_told_of_it_when_it_refuses_a_call(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(host, tmp_path)
        await lattice.control.put_link(link(turn="first"))
        await lattice.start_provider(host, tmp_path)
        # as when the removal of an earlier link arrives late, by way of another host
        client.publish(f"wasmbus.rpc.{trusting.lattice}.{PROVIDER}.default.linkdefs.del", link().encode())
        await client.flush()
        await asyncio.sleep(0.1)
        assert await lattice.ask() == {"turn": "first"}


async def test_a_link_that_its_provider_does_not_take_up_costs_time_once(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    refusals: list[str] = []

    def on_call(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation = Invocation.decode(payload)
        refusals.append(invocation.id)
        error = f"Actor {ACTOR} is not linked to this provider"
        client.publish(reply, InvocationResponse(invocation_id=invocation.id, error=error).encode())

    await client.subscribe(f"wasmbus.rpc.{trusting.lattice}.{PROVIDER}.default", on_call, queue="rpc")
    async with Host(trusting) as host:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(host, tmp_path)
        await lattice.control.put_link(link())
        for _ in range(3):
            with pytest.raises(RemoteError, match="is not linked to this provider"):
                await lattice.ask()
    assert len(refusals) == 5 + 1 + 1
    assert len(set(refusals)) == len(refusals), "each is a call of its own to whoever remembers ids"


async def test_its_calls_are_signed_with_a_seed_that_is_good_for_it_alone(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with Host(trusting) as host:
        lattice = Lattice(client, trusting)
        await lattice.start_actor(host, tmp_path)
        await lattice.control.put_link(link(a="b"))
        await lattice.start_provider(host, tmp_path, call="Test.Call")
        provider = host.providers.find(PROVIDER, "default")
        assert provider is not None
        packed = msgpack.packb({"a": "b"})  # what it was asked by the actor that it called
        await until(lambda: f"called: {packed!r}" in provider.last_lines)


@pytest.mark.parametrize("keys", ["derived", "cluster"])
async def test_a_classic_host_accepts_its_calls_where_the_cluster_s_own_seed_is_handed_out(
    trusting: HostConfig, client: Connection, tmp_path: Path, keys: Any
) -> None:
    """A classic host knows static issuers only; here it is the test that serves the actor."""
    cluster = Keyring(trusting.paths).cluster()
    issuers: list[str] = []

    def on_call(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation = Invocation.decode(payload)
        body = invocation.encoded_claims.split(".")[1]
        issuers.append(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["iss"])
        client.publish(reply, InvocationResponse(invocation_id=invocation.id, msg=b"").encode())

    await client.subscribe(actor_rpc(trusting.lattice, ACTOR), on_call)
    async with Host(replace(trusting, provider_keys=keys)) as host:
        lattice = Lattice(client, trusting)
        await lattice.control.put_link(link())
        await lattice.start_provider(host, tmp_path, call="Test.Call")
        await until(lambda: issuers)
    own = derive(cluster, lattice=trusting.lattice, purpose="provider", subject=PROVIDER, link_name="default")
    assert issuers == [cluster.public if keys == "cluster" else own.public]


PATH = (ACTOR, PROVIDER, "default")


async def test_a_hold_begins_when_calls_in_flight_have_ended_and_lets_waiting_ones_pass_at_its_end() -> None:
    holding = Holding()
    passed: list[str] = []
    holding.enter(PATH)
    holding.enter(PATH)

    async def change() -> None:
        async with holding.held(PATH, patience=5):
            passed.append("changed")
            await asyncio.sleep(0.05)
            passed.append("told")

    async def call() -> None:
        await holding.wait(PATH, 5)
        passed.append("call")

    changing = asyncio.create_task(change())
    await asyncio.sleep(0)
    assert holding.is_held(PATH) and not holding.is_held((ACTOR, PROVIDER, "other"))
    waiting = [asyncio.create_task(call()) for _ in range(3)]
    await asyncio.sleep(0.02)
    assert passed == []
    holding.leave(PATH)
    holding.leave(PATH)
    await asyncio.gather(changing, *waiting)
    assert passed == ["changed", "told", "call", "call", "call"]
    assert not holding.is_held(PATH)


async def test_a_hold_does_not_wait_for_ever_and_neither_does_a_held_call() -> None:
    holding = Holding()
    holding.enter(PATH)
    async with holding.held(PATH, patience=0.05):
        async with holding.held(PATH, patience=0.05):
            pass
        assert holding.is_held(PATH), "the outer one goes on"
        with pytest.raises(Unreachable) as caught:
            await holding.wait(PATH, 0.05)
        assert caught.value.code is Code.TIMED_OUT
    holding.leave(PATH)
    await holding.wait(PATH, 0)
