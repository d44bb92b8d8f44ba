"""A whole host: what it refuses to start with, what it promises while things change, how it ends."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import aiohttp
import pytest

from lattice import bundled, subjects
from lattice.addresses import is_loopback
from lattice.antiforgery import Signer
from lattice.claims import ProviderClaims, read_actor
from lattice.client import ControlClient
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Code, NotAuthorized, Unreachable
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role, derive
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from lattice.transport import Headers
from tests.support.actors import ACCOUNT, caller, signed, write
from tests.support.daemons import processes_with
from tests.support.nats import NatsServer, free_port
from tests.wasmhost.control.waiting import EventLog, alive, until
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host
from wasmhost.private_files import StateError
from wasmhost.processes.leftovers import HOST_MARK
from wasmhost.supervision.provider_image import ProviderImage, ProviderImages

T = TypeVar("T")
ROOT = Path(__file__).resolve().parents[3]
ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"
HTTP = bundled.find("bundled:httpserver")
STORE = bundled.find("bundled:keyvalue")
OTHER_STORE = KeyPair.from_raw(Role.SERVICE, bytes([21]) * 32).public


class OtherStore(ProviderImages):
    """Knows a second provider of the key-value contract, which is the bundled one under another key."""

    def known(self, reference: str) -> ProviderImage | None:
        if reference != "test:store":
            return super().known(reference)
        claims = ProviderClaims(
            subject=OTHER_STORE, issuer=bundled.ISSUER, name="other store", contract_id=STORE.contract_id
        )
        return ProviderImage(
            reference=reference, claims=claims, command=(sys.executable, "-P", "-m", STORE.module), ours=True
        )


def trusting(config: HostConfig, *files: Path) -> HostConfig:
    return replace(config, trusted_issuers=frozenset(read_actor(file.read_bytes()).issuer for file in files))


def link(actor: str, provider: str, contract: str, **values: str) -> LinkDefinition:
    return LinkDefinition(actor_id=actor, provider_id=provider, contract_id=contract, values=values)


class Application:
    """One actor behind HTTP on a free port, deployed over the control subjects."""

    def __init__(self, host: Host, client: Connection, file: Path) -> None:
        self.host = host
        self.control = ControlClient(client, host.config.lattice)
        self.actor = read_actor(file.read_bytes()).subject
        self.port = free_port()
        self._file = file

    async def deploy(self, *stores: str) -> None:
        host_id = self.host.host_id
        await self.control.launch_actor(host_id, self._file.as_uri(), 2, {})
        for reference in ("bundled:httpserver", *stores):
            await self.control.start_provider(host_id, reference, "default", "", {})
        await self.control.put_link(
            link(self.actor, HTTP.public_key, HTTP.contract_id, address=f"127.0.0.1:{self.port}")
        )
        if stores:
            await self.control.put_link(link(self.actor, STORE.public_key, STORE.contract_id))
        await until(lambda: all(provider.condition == "ready" for provider in self.host.providers), timeout=30)
        await self.answers()

    async def answers(self) -> None:
        """Return when it answers with 200."""
        async with asyncio.timeout(20), aiohttp.ClientSession() as session:
            while (await self.get(session, "/warm"))[0] != 200:  # noqa: ASYNC110 another process gets ready
                await asyncio.sleep(0.05)

    async def get(self, session: aiohttp.ClientSession, path: str) -> tuple[int, str]:
        try:
            async with session.get(f"http://127.0.0.1:{self.port}{path}") as response:
                return response.status, await response.text()
        except aiohttp.ClientError as error:
            return 0, repr(error)

    @asynccontextmanager
    async def load(self, path: str, *, clients: int = 4) -> AsyncIterator[list[tuple[int, str]]]:
        """Ask from several clients, over and over; the answers."""
        answers: list[tuple[int, str]] = []
        stop = asyncio.Event()

        async def ask() -> None:
            async with aiohttp.ClientSession() as session:
                while not stop.is_set():
                    answers.append(await self.get(session, path))

        tasks = [asyncio.create_task(ask()) for _ in range(clients)]
        try:
            yield answers
        finally:
            stop.set()
            await asyncio.gather(*tasks)


async def eventually(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer, once there is one: each connection comes back in its own time."""
    async with asyncio.timeout(20):
        while True:
            try:
                return await ask()
            except Unreachable:
                await asyncio.sleep(0.1)


async def test_relinking_under_load_fails_no_request(config: HostConfig, client: Connection) -> None:
    async with Host(trusting(config, COUNTER), images=OtherStore) as host:
        application = Application(host, client, COUNTER)
        await application.deploy("bundled:keyvalue", "test:store")
        bucket = f"relinked-{config.lattice}"
        async with application.load("/relinked") as answers:
            for turn in range(3):
                for provider in (OTHER_STORE, STORE.public_key):
                    before = len(answers)
                    values = {"bucket": bucket} if turn == 1 else {}  # other values, too
                    await application.control.put_link(link(application.actor, provider, STORE.contract_id, **values))
                    await until(lambda before=before: len(answers) > before + 20, timeout=20)
            await asyncio.sleep(config.rpc_timeout + 0.5)  # replaced links are deleted after this time
        assert [answer for answer in answers if answer[0] != 200] == []
        assert len(answers) > 100


async def test_a_restarted_server_loses_no_subscription_and_no_link(config: HostConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    endpoint = NatsEndpoint(url=server.url)
    config = replace(trusting(config, COUNTER), rpc=endpoint, control=endpoint, providers=endpoint)
    client = await connect(ConnectOptions(url=server.url))
    try:
        async with Host(config) as host:
            application = Application(host, client, COUNTER)
            await application.deploy("bundled:keyvalue")
            async with application.load("/x") as answers:
                await asyncio.to_thread(server.stop)
                await asyncio.sleep(4)  # longer than a health check takes: silence of the server is not the provider's
                await asyncio.to_thread(server.start)
                since = len(answers)
                await until(lambda: sum(status == 200 for status, _ in answers[since:]) > 20, timeout=20)
            await until(lambda: all(provider.condition == "ready" for provider in host.providers), timeout=20)
            assert len(await eventually(application.control.links)) == 2
            assert [provider.restarts for provider in host.providers] == [0, 0]
    finally:
        await client.drain()
        server.stop()


async def test_claims_links_and_references_survive_a_restart_of_everything(config: HostConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    endpoint = NatsEndpoint(url=server.url)
    config = replace(trusting(config, ECHO), rpc=endpoint, control=endpoint, providers=endpoint)
    actor = read_actor(ECHO.read_bytes()).subject
    wanted = link(actor, HTTP.public_key, HTTP.contract_id, address=f"127.0.0.1:{free_port()}")

    async def known() -> tuple[set[str], list[LinkDefinition]]:
        client = await connect(ConnectOptions(url=server.url))
        try:
            control = ControlClient(client, config.lattice)
            return {claims["sub"] for claims in await control.claims()}, await control.links()
        finally:
            await client.drain()

    try:
        async with Host(config) as host:
            await host.actors.launch(ECHO.as_uri(), 1)
            await host.providers.start("bundled:httpserver")
            await until(lambda: all(provider.running for provider in host.providers), timeout=20)
            await host.linking.put(wanted)
            before = await known()
        server.restart()
        async with Host(config) as host:
            assert await known() == before == ({actor, HTTP.public_key}, [wanted])
            assert host.metadata.references == {ECHO.as_uri(): actor, "bundled:httpserver": HTTP.public_key}
    finally:
        server.stop()


async def test_a_host_ends_in_time_while_its_server_is_gone(config: HostConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    endpoint = NatsEndpoint(url=server.url)
    try:
        async with asyncio.timeout(20):
            async with Host(replace(config, rpc=endpoint, control=endpoint, providers=endpoint)) as host:
                provider = await host.providers.start("bundled:httpserver")
                await until(lambda: provider.running)
                pid = provider.pid
                await asyncio.to_thread(server.stop)
                began = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - began < 8
        assert pid is not None and not alive(pid)
    finally:
        server.stop()


async def test_a_provider_stopped_at_any_moment_of_its_start_leaves_no_process(host: Host) -> None:
    tried = []
    for pause in (0, 0.001, 0.01, 0.05, 0.2):  # its key is announced, its process made, its program begins, it is up
        provider = await host.providers.start("bundled:keyvalue")
        await asyncio.sleep(pause)
        await host.providers.stop(STORE.public_key, "default")
        tried.append(provider)
    last = await host.providers.start("bundled:keyvalue")
    await until(lambda: last.condition == "ready", timeout=20)
    assert [provider.pid for provider in tried] == [None] * len(tried)
    marked = processes_with(f"{HOST_MARK}={host.config.state_dir}")
    assert {process.pid for process in marked} == {last.pid}


async def test_a_restarted_host_knows_its_links(host: Host, config: HostConfig, client: Connection) -> None:
    wanted = link(KeyPair.generate(Role.MODULE).public, STORE.public_key, STORE.contract_id, a="b")
    await ControlClient(client, config.lattice).put_link(wanted)
    await host.__aexit__(None, None, None)
    async with Host(config) as again:
        assert again.host_id == host.host_id
        assert list(again.metadata.links) == [wanted]


async def test_calls_in_flight_are_answered_before_the_host_is_gone(
    config: HostConfig, client: Connection, lattice: str, tmp_path: Path
) -> None:
    contract, provider = "test:slow", KeyPair.generate(Role.SERVICE).public
    waiting = asyncio.Event()

    def answer_late(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        asyncio.get_running_loop().call_later(1.0, answer, Invocation.decode(payload).id, reply)
        waiting.set()

    def answer(invocation_id: str, reply: str) -> None:
        response = InvocationResponse(msg=b"late", invocation_id=invocation_id, content_length=4)
        client.publish(reply, response.encode())

    await client.subscribe(subjects.provider_rpc(lattice, provider, "default"), answer_late)
    wasm = signed(caller(namespace=contract, operation="Slow.Do", binding="default"), capabilities=[contract])
    reference = write(tmp_path, wasm)
    events = await EventLog.open(client, lattice)
    async with Host(replace(config, trusted_issuers=frozenset({ACCOUNT.public}))) as host:
        control = ControlClient(client, lattice)
        actor = read_actor(wasm).subject
        await control.put_link(link(actor, provider, contract))
        await control.launch_actor(host.host_id, reference, 1, {})
        await events.wait("actors_started")
        caller_key = derive(host.identity.cluster, lattice=lattice, purpose="client", subject="test")
        rpc = RpcClient(client, lattice, Signer(caller_key, host.host_id))
        call = asyncio.create_task(
            rpc.call(origin=Entity("test"), target=Entity.actor(actor), operation="Any.Thing", msg=b"", timeout=5.0)
        )
        await waiting.wait()
    assert await call == b"late"
    names = [event.name for event in events.events]
    assert names[-1] == "host_stopped"
    assert names.index("actors_stopped") < names.index("host_stopped")


async def test_a_second_host_in_one_state_folder_is_refused_and_the_first_lives_on(
    host: Host, config: HostConfig
) -> None:
    with pytest.raises(StateError) as caught:
        async with Host(config):
            pass
    assert caught.value.code is Code.CONFLICT
    assert "--name" in str(caught.value)


async def test_without_a_server_the_host_says_so_and_gives_its_folder_back(config: HostConfig) -> None:
    nowhere = NatsEndpoint(url=f"nats://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable, match="no NATS server at"):
        async with Host(replace(config, rpc=nowhere, control=nowhere)):
            pass
    async with Host(config):
        pass


async def test_two_hosts_of_one_user_share_the_work(
    config: HostConfig, another: Callable[[str], HostConfig], client: Connection, lattice: str
) -> None:
    trusted = trusting(config, ECHO).trusted_issuers
    events = await EventLog.open(client, lattice)
    async with (
        Host(replace(config, trusted_issuers=trusted)) as one,
        Host(replace(another("two"), trusted_issuers=trusted)) as two,
    ):
        assert one.host_id != two.host_id
        assert one.identity.cluster == two.identity.cluster
        control = ControlClient(client, lattice)
        assert {pong.id for pong in await control.ping_hosts(1.0)} == {one.host_id, two.host_id}
        for host in (one, two):
            await control.launch_actor(host.host_id, ECHO.as_uri(), 1, {})
        await control.start_provider(one.host_id, "bundled:httpserver", "default", "", {})
        await events.wait("actors_started", count=2)
        actor, port = read_actor(ECHO.read_bytes()).subject, free_port()
        await control.put_link(link(actor, HTTP.public_key, HTTP.contract_id, address=f"127.0.0.1:{port}"))
        await until(lambda: one.providers.find(HTTP.public_key, "default").links.get(actor) is not None)
        async with aiohttp.ClientSession() as session:
            application = Application(one, client, ECHO)
            application.port = port
            await application.answers()
            await two.actors.stop(actor)  # the other one goes on alone, no request is lost on the way
            assert [(await application.get(session, "/"))[0] for _ in range(20)] == [200] * 20


async def test_a_server_open_to_the_network_is_refused(config: HostConfig, tmp_path: Path) -> None:
    address = _own_address()
    if address is None:
        assert not is_loopback("nats://10.0.0.1:4222")
        return
    server = NatsServer(tmp_path / "nats", address=address).start()
    try:
        endpoint = NatsEndpoint(url=server.url)
        exposed = replace(config, rpc=endpoint, control=endpoint, providers=endpoint)
        with pytest.raises(NotAuthorized, match="--allow-anonymous-nats"):
            async with Host(exposed):
                pass
        async with Host(replace(exposed, allow_anonymous_nats=True)):
            pass
    finally:
        server.stop()


def _own_address() -> str | None:
    """An address of this machine that is not loopback, if it has one."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
        except OSError:
            return None
        address = str(probe.getsockname()[0])
    return None if is_loopback(f"nats://{address}") else address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("nats://127.0.0.1:4222", True),
        ("nats://localhost:4222", True),
        ("nats://[::1]:4222", True),
        ("127.8.8.8:1", True),
        ("nats://10.0.0.1:4222", False),
        ("nats://user:pw@example.com:4222", False),
        ("nats://127.0.0.1.example.com:1", False),
    ],
)
def test_loopback_is_told_from_the_network(url: str, expected: bool) -> None:
    assert is_loopback(url) is expected
