"""A provider of ours takes new keys from its standard input, and sends a call again that was refused for its key."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lattice.antiforgery import Signer, parse
from lattice.errors import LatticeError, MalformedMessage
from lattice.invocation import Invocation
from lattice.keys import KeyPair, Role
from lattice.providerkeys import ProviderKeys
from lattice.verify import ISSUER_REFUSED
from tests.providers.test_runtime import CONTRACT, SAMPLE
from tests.support.nats import NatsServer
from tests.support.providers import HostSide, ProviderProcess


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


class Sample:
    """The provider and an actor linked to it, which accepts calls signed with the keys in ``accepted``."""

    def __init__(self, host: HostSide) -> None:
        self.accepted = {host.provider_issuer.public}
        self.seen: list[str] = []
        """The issuers of the calls that the actor got."""
        self.actor = ""
        self.process: ProviderProcess

    def handle(self, invocation: Invocation) -> bytes | str:
        self.seen.append(parse(invocation.encoded_claims).issuer)
        return b"done" if self.seen[-1] in self.accepted else f"{ISSUER_REFUSED} (x for origin y)"

    async def call(self, operation: str) -> bytes:
        return await self.process.call(self.actor, operation, b"1", contract=CONTRACT)

    def write(self, line: bytes) -> None:
        assert self.process.process is not None and self.process.process.stdin is not None
        self.process.process.stdin.write(line)

    async def until_health(self, **members: object) -> None:
        async with asyncio.timeout(10):
            while not members.items() <= (await self.process.health()).items():  # noqa: ASYNC110 of another process
                await asyncio.sleep(0.01)


@pytest.fixture
async def sample(host: HostSide, tmp_path: Path) -> Sample:
    made = Sample(host)
    key = KeyPair.generate(Role.SERVICE).public
    made.actor = await host.actor(made.handle)
    path = tmp_path / "sample.py"
    path.write_text(SAMPLE)
    made.process = await host.start(path, host.host_data(key, host.link(made.actor, key, CONTRACT)))
    return made


async def test_it_believes_and_signs_as_the_last_line_says_and_tells_so_in_its_health(
    host: HostSide, sample: Sample
) -> None:
    cluster, key = KeyPair.generate(Role.CLUSTER), KeyPair.generate(Role.CLUSTER)
    await sample.until_health(issuer=host.provider_issuer.public, cluster_issuers=[host.cluster.public])
    keys = ProviderKeys(key=key, issuers=tuple(sorted((host.cluster.public, cluster.public))))
    sample.write(b"garbage\n")
    line = keys.encode()
    sample.write(line[:20])  # a pipe may deliver any portions
    await asyncio.sleep(0.05)
    sample.write(line[20:])
    await sample.until_health(issuer=key.public, cluster_issuers=list(keys.issuers))
    assert key.seed not in sample.process.output and "bad_keys" in sample.process.output
    sample.accepted.add(key.public)
    assert await sample.call("Sample.Back") == b"done"
    assert sample.seen == [key.public]
    # calls of both clusters, then of the new one only
    assert await sample.call("Sample.Echo") == b"1"
    sample.write(ProviderKeys(key=key, issuers=(cluster.public,)).encode())
    await sample.until_health(cluster_issuers=[cluster.public])
    with pytest.raises(LatticeError, match=ISSUER_REFUSED):
        await sample.call("Sample.Echo")
    host.signer = Signer(cluster, host.host.public)
    assert await sample.call("Sample.Echo") == b"1"


async def test_a_call_that_was_refused_for_its_key_waits_for_another_and_is_sent_again(
    host: HostSide, sample: Sample
) -> None:
    new = KeyPair.generate(Role.CLUSTER)
    sample.accepted = {new.public}
    call = asyncio.create_task(sample.call("Sample.Back"))
    async with asyncio.timeout(10):
        while not sample.seen:  # noqa: ASYNC110 filled by a message
            await asyncio.sleep(0.005)
    sample.write(ProviderKeys(key=new, issuers=(host.cluster.public,)).encode())
    assert await call == b"done"
    assert sample.seen == [host.provider_issuer.public, new.public]

    # no other key comes: the caller is told, and only the first one waits for it
    sample.accepted.clear()
    begun = time.monotonic()
    for _ in range(8):
        with pytest.raises(LatticeError, match="valid issuers"):
            await sample.call("Sample.Back")
    assert 1 <= time.monotonic() - begun < 7
    assert len(sample.seen) == 10


def test_keys_are_read_back_and_no_error_repeats_a_seed() -> None:
    keys = ProviderKeys(key=KeyPair.generate(Role.CLUSTER), issuers=("CA", "CB"))
    assert ProviderKeys.decode(keys.encode()) == keys
    assert keys.key.seed not in repr(keys)
    for broken in (b"", b"!", keys.encode()[:-9], base64.b64encode(b"[]"), base64.b64encode(keys.key.seed.encode())):
        with pytest.raises(MalformedMessage) as caught:
            ProviderKeys.decode(broken)
        assert keys.key.seed not in str(caught.value)
