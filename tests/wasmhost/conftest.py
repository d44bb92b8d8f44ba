"""The data path of one host, for the tests of calls."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.nats import NatsServer
from tests.wasmhost.datapath import DataPath, data_path


@pytest.fixture
async def path(nats_server: NatsServer, lattice: str, tmp_path: Path) -> AsyncIterator[DataPath]:
    async with data_path(nats_server.url, lattice, tmp_path) as opened:
        yield opened
