"""The lattice around one provider process."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from lattice.keys import KeyPair, Role
from tests.support.nats import NatsServer
from tests.support.providers import HostSide


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


@pytest.fixture
def actor() -> str:
    return KeyPair.generate(Role.MODULE).public
