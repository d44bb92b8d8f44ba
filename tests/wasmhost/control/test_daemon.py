"""``wasmhost host`` as a process: how it ends when told to, and what is left when it is killed."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lattice import bundled
from lattice.claims import read_actor
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from tests.support.http import answers
from tests.support.nats import NatsServer, free_port
from tests.support.processes import ROOT, Running, user_environment
from tests.wasmhost.control.waiting import EventLog, until

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
HTTP = bundled.find("bundled:httpserver")

Daemon = Callable[..., Running]


@pytest.fixture
def daemon(tmp_path: Path, nats_server: NatsServer, lattice: str) -> Iterator[Daemon]:
    """Start ``wasmhost host`` for the test's lattice; all are killed at the end."""
    running: list[Running] = []
    home = tmp_path / "home"
    home.mkdir()
    issuer = read_actor(ECHO.read_bytes()).issuer

    def start(name: str, **environment: str) -> Running:
        command = ["host", "--nats-url", nats_server.url, "--lattice", lattice, "--name", name]
        process = Running([*command, "--allow-file-load", "--trust", issuer], env=user_environment(home, **environment))
        running.append(process)
        return process

    yield start
    for process in running:
        process.kill()


async def serve_echo(control: ControlClient, events: EventLog, host_id: str) -> int:
    """Start echo behind HTTP on one host; the port."""
    port = free_port()
    await control.launch_actor(host_id, ECHO.as_uri(), 1, {})
    await control.start_provider(host_id, "bundled:httpserver", "default", "", {})
    await control.put_link(
        LinkDefinition(
            actor_id=read_actor(ECHO.read_bytes()).subject,
            provider_id=HTTP.public_key,
            contract_id=HTTP.contract_id,
            values={"address": f"127.0.0.1:{port}"},
        )
    )
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(answers, port):  # noqa: ASYNC110 another process gets ready
            await asyncio.sleep(0.05)
    return port


async def test_labels_come_from_the_environment_and_seeds_never_do(
    daemon: Daemon, client: Connection, lattice: str
) -> None:
    host, cluster = KeyPair.generate(Role.HOST), KeyPair.generate(Role.CLUSTER)
    events = await EventLog.open(client, lattice)
    environment = {
        "HOST_ZONE": "eu",
        "WASMCLOUD_HOST_rack": "7",
        "WASMCLOUD_LABEL_gpu": "yes",
        "WASMCLOUD_HOST_SEED": host.seed,
        "WASMCLOUD_CLUSTER_SEED": cluster.seed,
        "HOST_NOTE": f"the seed is {cluster.seed}",
    }
    daemon("one", **environment)
    started = await events.wait("host_started", timeout=20)
    assert started.source == host.public
    ours = {name: value for name, value in started.data["labels"].items() if not name.startswith("hostcore.")}
    assert ours == {"zone": "eu", "rack": "7", "gpu": "yes"}
    (ping,) = await ControlClient(client, lattice).ping_hosts(0.5)
    assert ping.labels == started.data["labels"]


async def test_a_terminated_host_ends_with_0_and_leaves_nothing_behind(
    daemon: Daemon, client: Connection, lattice: str
) -> None:
    events = await EventLog.open(client, lattice)
    process = daemon("one")
    started = await events.wait("host_started", timeout=20)
    port = await serve_echo(ControlClient(client, lattice), events, started.source)
    (provider,) = process.family()
    assert await asyncio.to_thread(process.stop, signal.SIGTERM) == 0
    assert not provider.alive
    assert not await asyncio.to_thread(answers, port)
    names = [event.name for event in events.events]
    assert names[-1] == "host_stopped"
    assert names.index("actors_stopped") < names.index("provider_stopped") < names.index("host_stopped")


async def test_a_killed_host_leaves_no_provider_and_the_others_go_on(
    daemon: Daemon, client: Connection, lattice: str
) -> None:
    events = await EventLog.open(client, lattice)
    control = ControlClient(client, lattice)
    doomed = daemon("doomed")
    first = (await events.wait("host_started", timeout=20)).source
    daemon("other")
    second = (await events.wait("host_started", timeout=20, count=2)).source
    await control.launch_actor(second, ECHO.as_uri(), 1, {})
    port = await serve_echo(control, events, first)
    (provider,) = doomed.family()
    doomed.process.send_signal(signal.SIGKILL)
    await until(lambda: not provider.alive, timeout=5)

    # the port is free again, and the provider can take it on the other host, which knows the link
    await control.start_provider(second, "bundled:httpserver", "default", "", {})
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(answers, port):  # noqa: ASYNC110 another process gets ready
            await asyncio.sleep(0.05)
    assert [pong.id for pong in await control.ping_hosts(1.0)] == [second]
