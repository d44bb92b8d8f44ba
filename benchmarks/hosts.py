"""``wasmhost host`` as a process, and a peer of its cluster that commands it and calls its actors."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from lattice.antiforgery import Signer
from lattice.client import ControlClient
from lattice.connection import Connection, ConnectOptions, connect
from lattice.keys import KeyPair, Role
from lattice.rpc import RpcClient
from tests.support.processes import Running, user_environment

LATTICE = "bench"


@contextmanager
def host(url: str, cluster: KeyPair, account: str) -> Iterator[tuple[Running, Path]]:
    """A host that runs actors of ``account`` from files, and the home folder of its user."""
    with tempfile.TemporaryDirectory() as folder:
        env = user_environment(Path(folder), WASMCLOUD_CLUSTER_SEED=cluster.seed)
        arguments = ["--nats-url", url, "--lattice", LATTICE, "--trust", account, "--allow-file-load"]
        running = Running(["host", *arguments], env=env)
        try:
            running.wait_for_output("host.started")
            yield running, Path(folder)
            running.stop()
        finally:
            running.kill()


@dataclass(frozen=True, slots=True)
class Peer:
    """Somebody who holds the cluster key of the one host that there is."""

    connection: Connection
    control: ControlClient
    rpc: RpcClient
    host_id: str


@asynccontextmanager
async def peer(url: str, cluster: KeyPair) -> AsyncIterator[Peer]:
    connection = await connect(ConnectOptions(url=url))
    try:
        control = ControlClient(connection, LATTICE)
        (found,) = await control.ping_hosts(0.5)
        signer = Signer(cluster, KeyPair.generate(Role.HOST).public)
        yield Peer(connection, control, RpcClient(connection, LATTICE, signer), found.id)
    finally:
        await connection.drain()
