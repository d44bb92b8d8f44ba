"""The data path of one host, for the tests of calls, and the configuration of a whole one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.nats import NatsServer
from tests.wasmhost.datapath import DataPath, data_path
from wasmhost.configuration.config import HostConfig, NatsEndpoint, detected_labels
from wasmhost.state import StatePaths


@pytest.fixture
async def path(nats_server: NatsServer, lattice: str, tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(nats_server.url, lattice, tmp_path) as opened:
        yield opened


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
