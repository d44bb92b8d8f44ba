"""Two clusters in one lattice, each listing the other; and what new keys mean for a provider of another maker."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import aiohttp
import msgpack
import pytest

from lattice import bundled, delegation, subjects
from lattice.antiforgery import Signer
from lattice.claims import read_actor
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.contracts.httpserver import HttpRequest
from lattice.errors import LatticeError, RemoteError
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role, derive
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from lattice.store import open_bucket
from tests.support.actors import ACCOUNT, caller, signed, write
from tests.support.archives import SERVICE, pack
from tests.support.foreign import classic
from tests.support.nats import free_port
from tests.support.processes import ROOT
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"
ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
HTTP = bundled.find("bundled:httpserver")
STORE = bundled.find("bundled:keyvalue")
A, B = (KeyPair.from_raw(Role.CLUSTER, bytes([n]) * 32) for n in (31, 32))


@pytest.fixture
async def pair(config: HostConfig, another: Callable[[str], HostConfig]) -> AsyncIterator[tuple[Host, Host]]:
    """A host of each cluster."""
    trusted = frozenset(read_actor(file.read_bytes()).issuer for file in (COUNTER, ECHO))
    async with contextlib.AsyncExitStack() as hosts:
        made = [
            await hosts.enter_async_context(
                Host(
                    replace(
                        another(name),
                        paths=replace(another(name).paths, shared=config.paths.shared / name),
                        cluster_seed=own.seed,
                        cluster_issuers=(other.public,),
                        trusted_issuers=trusted,
                    )
                )
            )
            for name, own, other in (("a", A, B), ("b", B, A))
        ]
        yield made[0], made[1]


def provider_key(cluster: KeyPair, config: HostConfig, provider: str, link_name: str, generation: int = 0) -> KeyPair:
    return derive(
        cluster,
        lattice=config.lattice,
        purpose="provider",
        subject=provider,
        link_name=link_name,
        generation=generation,
    )


class Thief:
    """Calls the echo actor, on the host of cluster B, with a key of its choice."""

    def __init__(self, client: Connection, config: HostConfig) -> None:
        self._client = client
        self._lattice = config.lattice
        self._actor = read_actor(ECHO.read_bytes()).subject

    async def call(self, key: KeyPair, provider: str, link_name: str = "default") -> str:
        """The refusal, empty for none."""
        origin = Entity.provider(provider, HTTP.contract_id, link_name)
        try:
            await RpcClient(self._client, self._lattice, Signer(key, key.public)).call(
                origin=origin,
                target=Entity.actor(self._actor),
                operation="HttpServer.HandleRequest",
                msg=HttpRequest(method="GET", path="/").encode(),
                timeout=5,
            )
        except LatticeError as error:
            return str(error)
        return ""


async def serve(control: ControlClient, host: Host, actor: str, link_name: str) -> int:
    """Put a HTTP server on ``host`` in front of the actor with this key, which may run on another one; its port."""
    port = free_port()
    await control.start_provider(host.host_id, "bundled:httpserver", link_name)
    await control.put_link(
        LinkDefinition(
            actor_id=actor,
            provider_id=HTTP.public_key,
            contract_id=HTTP.contract_id,
            link_name=link_name,
            values={"address": f"127.0.0.1:{port}"},
        )
    )
    return port


async def answer(port: int) -> tuple[int, str]:
    """The first answer that is none of a provider still on its way up."""
    async with aiohttp.ClientSession() as session, asyncio.timeout(20):
        while True:
            with contextlib.suppress(aiohttp.ClientError):
                async with session.get(f"http://127.0.0.1:{port}/") as response:
                    return response.status, await response.text()
            await asyncio.sleep(0.05)


async def test_two_clusters_call_each_other_and_a_delegation_binds_a_key_to_its_provider(
    pair: tuple[Host, Host], client: Connection, config: HostConfig
) -> None:
    a, b = pair
    counter, echo = (read_actor(file.read_bytes()).subject for file in (COUNTER, ECHO))
    control = ControlClient(client, config.lattice)
    # provider of A -> actor of B -> provider of A, and provider of B -> actor of A
    await control.start_provider(a.host_id, "bundled:keyvalue")
    await control.launch_actor(b.host_id, COUNTER.as_uri(), 1)
    await control.launch_actor(a.host_id, ECHO.as_uri(), 1)
    await control.put_link(
        LinkDefinition(actor_id=counter, provider_id=STORE.public_key, contract_id=STORE.contract_id)
    )
    first = await serve(control, a, counter, "default")
    second = await serve(control, b, echo, "back")
    await until(lambda: all(provider.running for host in pair for provider in host.providers), timeout=20)
    assert await answer(first) == (200, '{"counter":1}')
    assert (await answer(second))[0] == 200

    # the echo is on B, too, so that B alone can be asked
    await control.stop_actor(a.host_id, echo)
    await control.launch_actor(b.host_id, ECHO.as_uri(), 1)
    await until(lambda: not list(a.actors.descriptions()) and len(list(b.actors.descriptions())) == 2, timeout=20)
    thief = Thief(client, config)
    stolen = provider_key(A, config, HTTP.public_key, "default")
    assert await thief.call(stolen, HTTP.public_key) == "", "a delegated key signs for its provider"
    for provider, link_name in ((STORE.public_key, "default"), (HTTP.public_key, "back")):
        refusal = await thief.call(stolen, provider, link_name)
        assert "valid issuers" in refusal and f"signs for {HTTP.public_key}" in refusal
    assert b.facts.ping().issuer_alarms == 2

    # tokens that do not count: expired, not signed by the key they name, in the place of another one
    bucket = await open_bucket(client, subjects.state_bucket(config.lattice))
    unknown = KeyPair.generate(Role.SERVICE).public
    wanted = provider_key(A, config, unknown, "default")

    async def publish(signer: KeyPair, place: str = unknown, **changes: float) -> None:
        token = delegation.sign(
            signer,
            **{  # type: ignore[arg-type]
                "key": wanted.public,
                "lattice": config.lattice,
                "provider": unknown,
                "link_name": "default",
                "now": time.time(),
                **changes,
            },
        )
        await bucket.put(f"delegation.{A.public}.{place}.default", token.encode())
        mark = KeyPair.generate(Role.MODULE).public
        await bucket.put(f"revoked.{mark}", b"{}")  # what comes after it has been seen, so has the token
        await until(lambda: b.lattice_state.get(f"revoked.{mark}") is not None)

    for signer, changes in ((A, {"now": time.time() - 2 * delegation.LIFETIME}), (KeyPair.generate(Role.CLUSTER), {})):
        await publish(signer, **changes)
        assert "valid issuers" in await thief.call(wanted, unknown)
    await publish(A, place=STORE.public_key)
    assert "valid issuers" in await thief.call(wanted, unknown)
    await publish(A)
    assert await thief.call(wanted, unknown) == "", "the same token in its place counts"

    # revoked in its own cluster, or its cluster key removed here: refused
    await control.revoke_provider_key(a.host_id, HTTP.public_key, "default", timeout=10)
    new = provider_key(A, config, HTTP.public_key, "default", 1)
    async with asyncio.timeout(10):
        while await thief.call(new, HTTP.public_key):  # noqa: ASYNC110 until the other cluster has heard
            await asyncio.sleep(0.02)
    assert "valid issuers" in await thief.call(stolen, HTTP.public_key)
    assert (await answer(first))[0] == 200
    await control.change_cluster_keys(b.host_id, "remove", A.public, timeout=10)
    assert "valid issuers" in await thief.call(new, HTTP.public_key)


class Calling:
    """Somebody calls an actor all the time; all failures, and the number of the calls."""

    def __init__(self, client: Connection, lattice: str, key: KeyPair, actor: str) -> None:
        self._rpc = RpcClient(client, lattice, Signer(key, key.public))
        self._target = Entity.actor(actor)
        self.failures: list[str] = []
        self.calls = 0

    async def __aenter__(self) -> Calling:
        self._task = asyncio.create_task(self._call())
        await until(lambda: self.calls > 10)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})

    async def _call(self) -> None:
        while True:
            try:
                await self._rpc.call(
                    origin=Entity("test"), target=self._target, operation="Any.Thing", msg=b"", timeout=5.0
                )
            except LatticeError as error:
                self.failures.append(str(error))
            self.calls += 1


async def test_a_provider_of_another_maker_is_started_anew_when_its_keys_will_not_do(
    config: HostConfig, client: Connection, tmp_path: Path
) -> None:
    """Calls of an actor on the same host wait meanwhile, and none of them fails."""
    provider, contract = SERVICE.public, "test:contract"
    config = replace(config, trusted_issuers=frozenset({ACCOUNT.public}), cluster_issuers=(B.public,))
    wasm = signed(caller(namespace=contract, operation="Test.Id", binding="default"), capabilities=[contract])
    local = read_actor(wasm).subject
    events = await EventLog.open(client, config.lattice)
    control = ControlClient(client, config.lattice)
    actor = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
    async with Host(config) as host:
        old = host.identity.cluster

        async def call(signer: KeyPair) -> object:
            target = Entity.provider(provider, contract, "default")
            answer = await RpcClient(client, config.lattice, Signer(signer, host.host_id)).call(
                origin=Entity.actor(actor), target=target, operation="Test.Id", msg=b"", timeout=5.0
            )
            return msgpack.unpackb(answer)

        for linked in (actor, local):
            await control.put_link(LinkDefinition(actor_id=linked, provider_id=provider, contract_id=contract))
        await control.launch_actor(host.host_id, write(tmp_path, wasm), 1)
        await events.wait("actors_started")
        await control.start_provider(host.host_id, pack(tmp_path, classic()))
        await events.wait("provider_started", public_key=provider)
        running = host.providers.find(provider, "default")
        assert running is not None
        first = await call(old)
        new = KeyPair.generate(Role.CLUSTER)
        (config.paths.shared / "cluster" / "new.nk").write_text(new.seed)
        with pytest.raises(RemoteError):
            await call(new)

        async with Calling(client, config.lattice, B, local) as calling:
            # added: the list that it read at its start lacks the new key
            await control.change_cluster_keys(host.host_id, "add", "new", timeout=20)
            stopped = await events.wait("provider_stopped", public_key=provider)
            assert stopped.data["reason"] == "started anew with new keys"
            second = await call(new)
            assert second == await call(old) and second != first
            # used: its old key is accepted still
            await control.change_cluster_keys(host.host_id, "use", "new", timeout=20)
            assert await call(new) == second
            # removed: that key ends with the one that it was derived from
            await control.change_cluster_keys(host.host_id, "remove", old.public, timeout=20)
            third = await call(new)
            assert third != second and running.restarts == 0
            with pytest.raises(RemoteError):
                await call(old)
            # revoked: it cannot learn the next one otherwise
            await control.revoke_provider_key(host.host_id, provider, "default", timeout=20)
            assert await call(new) not in (first, second, third)
        assert calling.failures == [] and calling.calls > 13
        assert running.condition == "ready" or running.running


async def test_a_provider_that_is_stopped_while_it_is_started_anew_holds_up_nobody(
    config: HostConfig, client: Connection, tmp_path: Path
) -> None:
    config = replace(config, trusted_issuers=frozenset({ACCOUNT.public}))
    events = await EventLog.open(client, config.lattice)
    control = ControlClient(client, config.lattice)
    async with Host(config) as host:
        await control.start_provider(host.host_id, pack(tmp_path, classic()))
        await events.wait("provider_started", public_key=SERVICE.public)
        (config.paths.shared / "cluster" / "new.nk").write_text(KeyPair.generate(Role.CLUSTER).seed)
        changing = asyncio.create_task(control.change_cluster_keys(host.host_id, "add", "new", timeout=30))
        await events.wait("provider_stopped", public_key=SERVICE.public)
        await host.providers.stop(SERVICE.public, "default")
        await asyncio.wait_for(changing, 15)  # a change waits 20 s for a provider
        assert host.providers.descriptions() == []
