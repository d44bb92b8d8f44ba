"""A real host on the run's NATS server, in a lattice of its own, and a client that speaks raw subjects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lattice.connection import Connection, ConnectOptions, connect
from tests.support.nats import NatsServer
from tests.wasmhost.control.asking import Asker
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host


@pytest.fixture
async def host(config: HostConfig) -> AsyncIterator[Host]:
    async with Host(config) as host:
        yield host


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    yield connection
    await connection.drain()


@pytest.fixture
def another(config: HostConfig, tmp_path: Path) -> Callable[[str], HostConfig]:
    """The configuration of another host of the same user in the same lattice."""

    def make(name: str) -> HostConfig:
        return replace(config, paths=replace(config.paths, host=tmp_path / name))

    return make


@pytest.fixture(params=["json", "msgpack"])
def asker(client: Connection, lattice: str, request: pytest.FixtureRequest) -> Asker:
    return Asker(client, lattice, request.param)
