"""What a host does where NATS lets everybody in, permits less than it needs, or would not admit a provider."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lattice import bundled
from lattice.connection import Connection, ConnectOptions, Limits, connect
from lattice.errors import LatticeError, NotAuthorized
from lattice.health import Condition
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.login import TlsFiles
from lattice.server_errors import LOGGED_PER_WINDOW, Violation
from lattice.transport import State
from tests.support.actors import ACCOUNT
from tests.support.archives import SERVICE, pack
from tests.support.foreign import classic
from tests.support.nats import NatsServer, free_port
from tests.support.operator import Operator, write_credentials
from tests.support.waiting import eventually
from tests.wasmhost.control.room import TIMING, opened
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host
from wasmhost.supervision.provider_login import ProviderLogin

FAST = Limits(retry_min=0.02, retry_max=0.2, confirm_timeout=5.0, drain_timeout=2.0)
USERS = "authorization { users: [ { user: me, password: pw } ] }"


@pytest.fixture(scope="module")
def address() -> str:
    """An address of this machine that is not loopback; no packet is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("198.51.100.1", 9))
        except OSError:
            pytest.skip("this machine has no address beyond loopback")
        return str(probe.getsockname()[0])


def open_to_all(config: HostConfig, **endpoints: str) -> HostConfig:
    return replace(config, **{kind: NatsEndpoint(url=url) for kind, url in endpoints.items()})


@pytest.fixture
def open_server(tmp_path: Path, address: str) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "open", jetstream=False, address=address).start()
    yield server
    server.stop()


@pytest.mark.parametrize("kind", ["control", "rpc", "providers"])
async def test_each_connection_refuses_a_server_of_the_network_that_lets_everybody_in(
    config: HostConfig, open_server: NatsServer, kind: str
) -> None:
    exposed = open_to_all(config, **{kind: open_server.url})
    with pytest.raises(NotAuthorized, match=r"asks for no credentials, so .* --allow-anonymous-nats"):
        async with Host(exposed):
            pass


async def test_openness_is_judged_by_the_socket_and_not_by_the_name(
    nats_server: NatsServer, open_server: NatsServer, address: str
) -> None:
    for url in (f"nats://localhost:{nats_server.port}", f"nats://127.1:{nats_server.port}"):
        await (await connect(ConnectOptions(url=url, allow_anonymous=False))).close()
    for url in (open_server.url, f"nats://me:pw@{address}:{open_server.port}"):
        with pytest.raises(NotAuthorized, match="asks for no credentials"):
            await connect(ConnectOptions(url=url, allow_anonymous=False))


async def test_a_server_that_asks_but_lets_everybody_in_is_open_too(tmp_path: Path, address: str) -> None:
    server = NatsServer(tmp_path, jetstream=False, address=address, config=f"{USERS}\nno_auth_user: me").start()
    try:
        with pytest.raises(NotAuthorized, match="asks for no credentials"):
            await connect(ConnectOptions(url=server.url, allow_anonymous=False))
        await (await connect(ConnectOptions(url=server.url))).close()
    finally:
        server.stop()


async def test_a_reconnect_does_not_end_at_an_open_server(tmp_path: Path, address: str) -> None:
    """Another server at the address of the one before, as after a failover or an attack."""
    port = free_port()
    real = NatsServer(tmp_path / "real", jetstream=False, address=address, port=port, config=USERS).start()
    fake = NatsServer(tmp_path / "fake", jetstream=False, address=address, port=port)
    options = ConnectOptions(url=f"nats://me:pw@{address}:{port}", allow_anonymous=False, limits=FAST)
    with capture_logs() as logs:
        connection = await connect(options)
        try:
            real.stop()
            fake.start()
            refused = "asks for no credentials"
            await eventually(lambda: [e for e in logs if refused in str(e.get("error"))], timeout=10)
            assert connection.state is State.RECONNECTING
            fake.stop()
            real.start()
            await eventually(lambda: connection.state is State.CONNECTED, timeout=10)
        finally:
            await connection.close()
            real.stop()
            fake.stop()


async def test_a_warning_says_once_that_a_local_server_is_open(config: HostConfig) -> None:
    with capture_logs() as logs:
        async with Host(config):
            pass
    (told,) = [entry for entry in logs if entry["event"] == "nats.anonymous"]
    assert (told["log_level"], "any local user" in told["hint"]) == ("warning", True)


ANYTHING = "a.subject.that.nobody.uses"
HEALTH = "wasmbus.rpc.*.*.*.health"


def denying(subject: str) -> str:
    """A server whose user "host" may not publish there; "watcher" may do all."""
    permissions = f'publish: {{ deny: ["{subject}"] }}'
    users = f"{{ user: host, password: pw, permissions: {{ {permissions} }} }}, {{ user: watcher, password: pw }}"
    return f"authorization {{ users: [ {users} ] }}"


@pytest.fixture
def no_health(tmp_path: Path) -> Iterator[NatsServer]:
    """A server where the host may not ask providers how they are."""
    server = NatsServer(tmp_path / "nats", config=denying(HEALTH)).start()
    yield server
    server.stop()


def as_host(config: HostConfig, server: NatsServer) -> HostConfig:
    url = f"nats://host:pw@127.0.0.1:{server.port}"
    return open_to_all(config, rpc=url, control=url, providers=url)


async def test_what_is_not_permitted_to_a_host_is_told_in_an_event(config: HostConfig, no_health: NatsServer) -> None:
    watching = await connect(ConnectOptions(url=f"nats://watcher:pw@127.0.0.1:{no_health.port}"))
    events = await EventLog.open(watching, config.lattice)
    async with Host(as_host(config, no_health)) as host:
        await host.providers.start("bundled:keyvalue-memory")
        told = (await events.wait("permission_violation")).data
        assert (told["connection"], told["operation"]) == ("rpc", "publish")
        assert told["subject"].endswith(".default.health")
    await watching.close()


async def test_a_provider_that_may_not_be_asked_how_it_is_is_started_again_all_the_same(
    config: HostConfig, no_health: NatsServer
) -> None:
    async with Host(as_host(config, no_health)) as host:
        await host.providers.start("bundled:keyvalue-memory")
        (provider,) = host.providers
        await eventually(lambda: provider.pid, timeout=30)
        first = provider.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await eventually(lambda: provider.pid not in (None, first), timeout=30)
        assert provider.restarts == 1


async def test_a_provider_is_not_ended_because_it_may_no_longer_be_asked(
    config: HostConfig, no_health: NatsServer
) -> None:
    no_health.reload(denying(ANYTHING))
    endpoint = NatsEndpoint(url=f"nats://host:pw@127.0.0.1:{no_health.port}")
    transport = await connect(ConnectOptions(url=endpoint.url))
    impatient = replace(TIMING, trouble_interval=0.1, health_interval=0.3, hung_after=0.5)
    try:
        async with opened(replace(config, providers=endpoint), transport, timing=impatient) as room:
            await room.started("bundled:keyvalue-memory")
            (provider,) = room.supervisor
            pid = provider.pid
            no_health.reload(denying(HEALTH))
            await until(lambda: "may not ask" in provider.error)
            await asyncio.sleep(3 * impatient.hung_after)
            assert "may not ask" in provider.error
            no_health.reload(denying(ANYTHING))
            await until(lambda: not provider.error)
            assert provider.pid == pid
    finally:
        await transport.close()


async def test_a_link_that_a_host_may_not_tell_shows_as_failed_and_ends_no_provider(
    config: HostConfig, no_health: NatsServer
) -> None:
    no_health.reload(denying("wasmbus.rpc.*.*.*.linkdefs.put"))
    endpoint = NatsEndpoint(url=f"nats://host:pw@127.0.0.1:{no_health.port}")
    transport = await connect(ConnectOptions(url=endpoint.url))
    actor = KeyPair.generate(Role.MODULE).public
    store = bundled.find("bundled:keyvalue-memory")
    link = LinkDefinition(actor_id=actor, provider_id=store.public_key, contract_id=store.contract_id)
    try:
        async with opened(replace(config, providers=endpoint), transport) as room:
            provider = await room.supervisor.start(store.reference)
            with capture_logs() as logs:
                await until(lambda: provider.pid is not None)
                await room.linking.put(link)  # before it is up: it is told when it is
                await until(lambda: provider.running)
                pid = provider.pid
                status = await provider.put_link(link)
                assert status is not None
                assert (status.state, "does not permit" in status.reason) == (Condition.FAILED, True)
                await until(lambda: provider.condition is Condition.READY)
            assert provider.pid == pid
            assert not [entry for entry in logs if entry["event"] in ("task.failed", "provider.watch_failed")]
    finally:
        await transport.close()


async def test_a_flood_of_violations_is_told_a_bounded_number_of_times(tmp_path: Path) -> None:
    users = '{ user: me, password: pw, permissions: { publish: { deny: ["secret.>"] } } }'
    server = NatsServer(tmp_path, jetstream=False, config=f"authorization {{ users: [ {users} ] }}").start()
    try:
        connection = await connect(ConnectOptions(url=f"nats://me:pw@127.0.0.1:{server.port}"))
        told: list[Violation] = []
        connection.on_violation(told.append)
        for number in range(3 * LOGGED_PER_WINDOW):
            connection.publish(f"secret.{number}", b"")
        await connection.flush()
        await eventually(lambda: len(told) == LOGGED_PER_WINDOW)
        await connection.flush()
        assert (len(told), told[0]) == (LOGGED_PER_WINDOW, Violation("publish", "secret.0"))
        await connection.close()
    finally:
        server.stop()


# -- providers of other makers ---------------------------------------------------------------------------------------

NKEY = NatsEndpoint(seed=KeyPair.generate(Role.USER).seed)


@pytest.mark.parametrize(
    ("endpoint", "words"),
    [
        (NKEY, "knows no bare nkey: .* change prov_rpc_creds"),
        (NatsEndpoint(inbox_prefix="_INBOX_x"), "replies to _INBOX only, .* change prov_rpc_inbox_prefix"),
        (NatsEndpoint(tls=TlsFiles(certificate="me.pem")), "no client certificate|cannot show a client certificate"),
        (NatsEndpoint(credentials="/nowhere/{provider}.creds"), f"/nowhere/{SERVICE.public}.creds: No such file"),
    ],
)
async def test_a_provider_that_cannot_be_admitted_is_not_started(endpoint: NatsEndpoint, words: str) -> None:
    with pytest.raises(LatticeError, match=words):
        await ProviderLogin(endpoint, allow_anonymous=False).check(SERVICE.public, ours=False)


async def test_why_a_classic_provider_was_not_admitted_shows_where_its_state_does(
    config: HostConfig, client: Connection, tmp_path: Path
) -> None:
    """First it has a user that the server does not know; with the right file it starts by itself."""
    operator = Operator()
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    creds = tmp_path / f"{SERVICE.public}.creds"
    write_credentials(creds, *Operator().user())
    endpoint = NatsEndpoint(url=server.url, credentials=str(tmp_path / "{provider}.creds"))
    trusting = replace(config, trusted_issuers=frozenset({ACCOUNT.public}), providers=endpoint)
    try:
        async with opened(trusting, client) as room:
            provider = await room.supervisor.start(pack(tmp_path, classic()))
            await until(lambda: provider.error)
            assert "refused the given credentials" in provider.error
            assert provider.pid is None
            write_credentials(creds, *operator.user())
            await until(lambda: provider.pid is not None)
    finally:
        server.stop()


async def test_a_provider_of_ours_reads_its_own_file_again(
    config: HostConfig, client: Connection, tmp_path: Path
) -> None:
    """Its user is revoked while it runs: it is put out, and comes back with the new file, the same process."""
    operator = Operator()
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    key = bundled.BUNDLED["keyvalue-memory"].public_key
    creds = write_credentials(tmp_path / f"{key}.creds", *operator.user())
    endpoint = NatsEndpoint(
        url=server.url,
        credentials=str(tmp_path / "{provider}.creds"),
        inbox_prefix="_INBOX_providers.{provider}",
    )
    link_user = ConnectOptions(
        url=server.url, credentials=str(write_credentials(tmp_path / "host.creds", *operator.user()))
    )
    transport = await connect(link_user)
    try:
        async with opened(replace(config, providers=endpoint), transport) as room:
            await room.started("bundled:keyvalue-memory")
            (provider,) = room.supervisor
            pid = provider.pid
            write_credentials(creds, *operator.user())
            server.restart()
            await eventually(lambda: transport.state is State.CONNECTED, timeout=10)
            await until(lambda: not provider.error)
            assert provider.pid == pid
    finally:
        await transport.close()
        server.stop()
