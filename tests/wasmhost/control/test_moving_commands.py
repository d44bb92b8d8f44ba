"""What a host does for moves: it is cordoned, it tells how it started a provider, and it starts just what is meant."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.control import StartProvider
from lattice.errors import Code, LatticeError, Unreachable
from tests.wasmhost.control.asking import ACCEPTED, Asker
from tests.wasmhost.control.waiting import EventLog
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

SECRET = '{"password": "open sesame"}'


async def test_a_cordoned_host_keeps_silent_in_auctions_also_after_a_restart(config: HostConfig, asker: Asker) -> None:
    auction, wanted = asker.subjects.auction_actor(), {"actor_ref": "file:///x.wasm"}
    for change in ("cordon", None, "uncordon"):
        async with Host(config) as host:
            if change is not None:
                command = asker.subjects.command(host.host_id, change)
                for _ in range(2):  # a second time changes nothing
                    assert await asker.ask(command, {"host_id": host.host_id}) == ACCEPTED
            closed = change != "uncordon"
            assert (await asker.ask(asker.subjects.ping_hosts())).get("cordoned", False) is closed
            assert (await asker.ask(asker.subjects.get_inventory(host.host_id))).get("cordoned", False) is closed
            if closed:
                with pytest.raises(Unreachable):
                    await asker.ask(auction, wanted, timeout=0.3)
            else:
                assert (await asker.ask(auction, wanted))["host_id"] == host.host_id


async def test_a_start_that_names_a_cordoned_host_starts(host: Host, client: Connection, lattice: str) -> None:
    control = ControlClient(client, lattice)
    events = await EventLog.open(client, lattice)
    await control.cordon(host.host_id, closed=True)
    await control.start_provider(host.host_id, "bundled:keyvalue")
    await events.wait("provider_started", host_id=host.host_id)


async def test_a_configuration_passes_between_hosts_of_a_cluster_and_nobody_else_reads_it(
    config: HostConfig, another: Callable[[str], HostConfig], client: Connection, lattice: str
) -> None:
    control = ControlClient(client, lattice)
    events = await EventLog.open(client, lattice)
    async with Host(config) as one, Host(another("two")) as two:
        await control.start_provider(one.host_id, "bundled:keyvalue", configuration=SECRET, annotations={"a": "b"})
        first = await events.wait("provider_started")
        provider = first.data["public_key"]
        launch = await control.provider_launch(one.host_id, provider, "default")
        assert launch.sealed_configuration is not None
        assert "sesame" not in launch.sealed_configuration
        command = StartProvider(
            provider_ref="bundled:keyvalue",
            host_id=two.host_id,
            provider_id=provider,
            sealed_configuration=launch.sealed_configuration,
            annotations={"a": "b"},
            predecessor=one.host_id,
        )
        await control.follow_provider(command)
        await events.wait("provider_started", host_id=two.host_id)
        there = two.providers.find(provider, "default")
        assert there is not None
        assert (there.configuration, there.annotations) == (SECRET, {"a": "b"})
        with pytest.raises(LatticeError) as refused:  # sealed for another provider
            two.providers.unsealed(launch.sealed_configuration, provider, "other")
        assert refused.value.code is Code.NOT_AUTHORIZED
        with pytest.raises(LatticeError):
            await control.provider_launch(two.host_id, provider, "unknown")


async def test_an_image_that_holds_another_provider_is_not_started(
    host: Host, client: Connection, lattice: str
) -> None:
    control = ControlClient(client, lattice)
    events = await EventLog.open(client, lattice)
    other = "V" + "A" * 55
    await control.follow_provider(
        StartProvider(provider_ref="bundled:keyvalue", host_id=host.host_id, provider_id=other)
    )
    failed = await events.wait("provider_start_failed")
    assert failed.data["error"].endswith(f"not {other}")
    assert list(host.providers) == []
