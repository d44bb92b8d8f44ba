"""The provider of docs/providers.md, started as it stands there."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lattice import wire
from lattice.errors import RemoteError
from lattice.keys import KeyPair, Role
from tests.support.nats import NatsServer
from tests.support.providers import ROOT, HostSide

CONTRACT = "example:greeter"


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


async def test_the_provider_of_the_page_greets(host: HostSide, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "providers.md").read_text()
    blocks: list[str] = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(blocks) == 1
    lines = [line for line in blocks[0].splitlines() if line.strip()]
    assert len(lines) <= 15
    script = tmp_path / "greeter.py"
    script.write_text(blocks[0])
    provider, actor = KeyPair.generate(Role.SERVICE).public, KeyPair.generate(Role.MODULE).public
    link = host.link(actor, provider, CONTRACT, greeting="Ahoj")
    process = await host.start(script, host.host_data(provider, link))
    answer = await process.call(actor, "Greeter.Hello", wire.pack("world"), contract=CONTRACT)
    assert wire.unpack_value(answer) == "Ahoj, world!"
    with pytest.raises(RemoteError, match=r"Greeter\.Hello is an integer, not text"):
        await process.call(actor, "Greeter.Hello", wire.pack(7), contract=CONTRACT)
    assert await process.shut_down() == b"shutting down"
    assert await process.ended() == 0
