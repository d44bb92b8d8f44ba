"""A thousand actors started, called and stopped on one host: it is left as it was.

``MANY_ACTORS=20000 python -m pytest tests/faults/test_many_actors.py`` for a longer run.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from lattice.antiforgery import Signer
from lattice.client import ControlClient
from lattice.connection import Connection, ConnectOptions, connect
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.rpc import RpcClient
from tests.support.actors import ACCOUNT, module, signed, write
from tests.support.fleet import Fleet
from tests.support.idle import resident
from tests.support.nats import NatsServer, free_port
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host
from wasmhost.state import StatePaths

MANY = int(os.environ.get("MANY_ACTORS", "1000"))
DISTINCT = 50
"""Different actors, each with a key, a text and a module of its own."""
AT_ONCE = 25
CLUSTER = KeyPair.from_raw(Role.CLUSTER, bytes([9]) * 32)


@dataclass(frozen=True, slots=True)
class Saying:
    """An actor that answers every call with its number."""

    key: str
    reference: str
    text: bytes


def saying(folder: Path, number: int) -> Saying:
    key, text = KeyPair.generate(Role.MODULE), f"actor {number}"
    body = f"""(data (i32.const 0) "{text}")
      (func (export "__guest_call") (param i32 i32) (result i32)
        (call $response (i32.const 0) (i32.const {len(text)}))
        (i32.const 1))"""
    reference = write(folder, signed(module(body, pages=2), module=key, name=text), f"{number}.wasm")
    return Saying(key.public, reference, text.encode())


class Lattice:
    """Starts, calls and stops actors on the one host."""

    def __init__(self, connection: Connection, host: str, lattice: str) -> None:
        self.control = ControlClient(connection, lattice, timeout=10)
        self.calls = RpcClient(connection, lattice, Signer(CLUSTER, KeyPair.generate(Role.HOST).public))
        self.host = host

    async def running(self) -> set[str]:
        return {actor.id for actor in (await self.control.inventory(self.host)).actors}

    async def wait_for(self, actors: set[str]) -> None:
        async with asyncio.timeout(30):
            while await self.running() != actors:  # noqa: ASYNC110 another process
                await asyncio.sleep(0.02)

    async def cycle(self, actors: list[Saying]) -> None:
        """Start them, have each answer once, stop them."""
        await asyncio.gather(*(self.control.launch_actor(self.host, actor.reference) for actor in actors))
        await self.wait_for({actor.key for actor in actors})
        answers = await asyncio.gather(
            *(
                self.calls.call(
                    origin=Entity("tests"), target=Entity.actor(actor.key), operation="Any.Thing", msg=b"", timeout=10
                )
                for actor in actors
            )
        )
        assert answers == [actor.text for actor in actors]
        await asyncio.gather(*(self.control.stop_actor(self.host, actor.key) for actor in actors))
        await self.wait_for(set())

    async def cycles(self, actors: list[Saying], number: int) -> None:
        for begin in range(0, number, AT_ONCE):
            first = begin % len(actors)
            await self.cycle(actors[first : first + AT_ONCE])


@asynccontextmanager
async def connected(url: str, host: str = "", lattice: str = "default") -> AsyncIterator[Lattice]:
    connection = await connect(ConnectOptions(url=url, name="test of many actors"))
    try:
        found = Lattice(connection, host, lattice)
        found.host = host or (await found.control.ping_hosts(1.0))[0].id
        yield found
    finally:
        await connection.drain()


def subscriptions(port: int) -> list[str]:
    """The subjects that connections of hosts listen on, as the server sees it."""
    with urlopen(f"http://127.0.0.1:{port}/connz?subs=1", timeout=10) as answer:
        connections = json.load(answer)["connections"]
    hosts = [each for each in connections if each["name"].startswith("wasmhost")]
    assert hosts
    return sorted(subject for each in hosts for subject in each.get("subscriptions_list", ()))


def descriptors(pid: int) -> list[str]:
    folder = Path(f"/proc/{pid}/fd")
    return sorted(os.readlink(entry).split(":")[0] for entry in folder.iterdir())


async def test_a_thousand_actors_leave_memory_descriptors_and_subscriptions_as_they_were(
    new_fleet: Callable[..., Fleet], env: dict[str, str], tmp_path: Path
) -> None:
    monitor = free_port()
    env["WASMCLOUD_CLUSTER_SEED"] = CLUSTER.seed
    fleet = new_fleet(NatsServer(tmp_path / "monitored", config=f"http: 127.0.0.1:{monitor}\n"))
    host = fleet.host("one", "--trust", ACCOUNT.public)
    actors = [saying(tmp_path, number) for number in range(DISTINCT)]
    pid = host.process.pid
    async with connected(fleet.nats.url) as lattice:
        await lattice.cycles(actors, max(100, MANY // 5))  # pools of threads and memory, and caches, fill up
        await asyncio.sleep(1)  # the last change is written
        memory, open_files, listening = resident(pid), descriptors(pid), subscriptions(monitor)
        threads = len(os.listdir(f"/proc/{pid}/task"))
        await lattice.cycles(actors, MANY)
        deadline = time.monotonic() + 10
        while (subscriptions(monitor), descriptors(pid)) != (listening, open_files):
            assert time.monotonic() < deadline, (subscriptions(monitor), descriptors(pid), listening, open_files)
            await asyncio.sleep(0.1)
        assert len(os.listdir(f"/proc/{pid}/task")) <= threads + 1
        grown = resident(pid) - memory
        print(f"{MANY} actors: {memory / 1e6:.1f} MB, {grown / 1e6:+.1f} MB")
        # what hosts remember of the log is bounded, and about each of these actors not full yet
        assert grown < 4_000_000 + min(1_500 * MANY, 256 * 1024 * DISTINCT)
    assert not [line for line in host.lines if '"level": "error"' in line]
    assert host.stop() == 0


async def test_actors_that_were_stopped_leave_no_task_and_no_object_in_their_host(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    endpoint = NatsEndpoint(url=nats_server.url)
    config = HostConfig(
        paths=StatePaths(host=tmp_path / "host", shared=tmp_path, cache=tmp_path / "cache"),
        lattice=lattice,
        rpc=endpoint,
        control=endpoint,
        providers=endpoint,
        allow_file_load=True,
        trusted_issuers=frozenset({ACCOUNT.public}),
        cluster_seed=CLUSTER.seed,
    )
    actors = [saying(tmp_path, number) for number in range(AT_ONCE)]
    async with Host(config) as host, connected(nats_server.url, host.host_id, lattice) as control:
        await control.cycle(actors)
        before = len(asyncio.all_tasks()), counted()
        for _ in range(4):
            await control.cycle(actors)
        deadline = time.monotonic() + 10
        while left := grown(before, (len(asyncio.all_tasks()), counted())):
            assert time.monotonic() < deadline, left
            await asyncio.sleep(0.1)  # what a stopped actor still does ends soon


def grown(before: tuple[int, dict[str, int]], now: tuple[int, dict[str, int]]) -> list[str]:
    """Of what there is more than before."""
    found = [f"{now[0] - before[0]} tasks"] if now[0] > before[0] else []
    return found + [
        f"{number - before[1].get(kind, 0)} {kind}"
        for kind, number in now[1].items()
        if number > before[1].get(kind, 0)
    ]


def counted() -> dict[str, int]:
    """How many objects there are of each class of the host, and of the engine's."""
    gc.collect()
    kinds = Counter(
        f"{kind.__module__}.{kind.__qualname__}"
        for kind in map(type, gc.get_objects())
        if str(kind.__module__).partition(".")[0] in ("wasmhost", "lattice", "wasmtime")
    )
    return {name: number for name, number in kinds.items() if number >= AT_ONCE // 2 or "actor" in name.lower()}
