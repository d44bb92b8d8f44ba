"""A real host on the run's NATS server, in a lattice of its own, and a client that speaks raw subjects."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lattice.connection import Connection, ConnectOptions, connect
from tests.support.nats import NatsServer
from tests.wasmhost.control.asking import Asker
from wasmhost.configuration.config import HostConfig, NatsEndpoint, detected_labels
from wasmhost.host import Host
from wasmhost.state import StatePaths


@pytest.fixture
def config(tmp_path: Path, nats_server: NatsServer, lattice: str) -> HostConfig:
    endpoint = NatsEndpoint(url=nats_server.url)
    return HostConfig(
        paths=StatePaths(host=tmp_path / "host", shared=tmp_path / "shared", cache=tmp_path / "cache"),
        lattice=lattice,
        rpc=endpoint,
        control=endpoint,
        providers=endpoint,
        allow_file_load=True,
        labels={**detected_labels(), "zone": "test"},
    )


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
