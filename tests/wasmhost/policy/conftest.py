"""Hosts in one process, an account that they trust, a policy service in another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import pytest

from lattice.connection import Connection, ConnectOptions, connect
from tests.support.actors import ACCOUNT
from tests.support.nats import NatsServer
from tests.support.policy import PolicyService
from tests.wasmhost.control.waiting import EventLog
from wasmhost.configuration.config import HostConfig


@pytest.fixture
def config(config: HostConfig) -> HostConfig:
    return replace(config, trusted_issuers=frozenset({ACCOUNT.public}))


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
