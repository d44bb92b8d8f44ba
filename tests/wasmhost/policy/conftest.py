"""Hosts in one process, an account that they trust, a policy service in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from lattice.connection import Connection, ConnectOptions, connect
from tests.support.actors import ACCOUNT
from tests.support.nats import NatsServer
from tests.support.policy import PolicyService
from tests.wasmhost.control.waiting import EventLog
from wasmhost.configuration.config import HostConfig, NatsEndpoint, detected_labels
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
        trusted_issuers=frozenset({ACCOUNT.public}),
        labels={**detected_labels(), "zone": "test"},
    )


@pytest.fixture
async def client(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    yield connection
    await connection.drain()


@pytest.fixture
async def events(client: Connection, lattice: str) -> EventLog:
    return await EventLog.open(client, lattice)


@pytest.fixture
def service(nats_server: NatsServer, lattice: str) -> Iterator[PolicyService]:
    running = PolicyService(nats_server.url, f"policy.{lattice}").start()
    yield running
    running.stop()
