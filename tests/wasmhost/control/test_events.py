"""What a host tells of itself while it works: each event at its moment, in order, on both subjects."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from lattice import bundled, events
from lattice.antiforgery import Signer
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.errors import RemoteError
from lattice.invocation import Entity
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from lattice.transport import Headers
from tests.support import actors
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig
from wasmhost.control.events import EventPublisher
from wasmhost.host import Host

STORE = bundled.find("bundled:keyvalue")
HOST_ID = "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF"


@pytest.fixture
def trusting(config: HostConfig) -> HostConfig:
    return replace(config, trusted_issuers=frozenset({actors.ACCOUNT.public}))


class Wire:
    """Every message on the event subjects of one lattice, as it came."""

    def __init__(self) -> None:
        self.messages: list[tuple[str, dict[str, Any]]] = []

    @classmethod
    async def tap(cls, client: Connection, lattice: str) -> Wire:
        wire = cls()

        def note(subject: str, _reply: str, _headers: Headers, payload: bytes) -> None:
            wire.messages.append((subject, json.loads(payload)))

        for subject in (f"wasmbus.evt.{lattice}", f"wasmbus.evt.{lattice}.*", f"wasmbus.rpcevt.{lattice}"):
            await client.subscribe(subject, note)
        return wire

    def general(self) -> list[dict[str, Any]]:
        return [event for subject, event in self.messages if subject.count(".") == 2 and ".evt." in subject]

    def names(self) -> list[str]:
        return [event["type"].removeprefix("com.wasmcloud.lattice.") for event in self.general()]


@pytest.fixture
async def wire(client: Connection, lattice: str) -> AsyncIterator[Wire]:
    tapped = await Wire.tap(client, lattice)
    yield tapped
    for subject, event in tapped.messages:
        assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json"), subject
        assert event["type"].startswith("com.wasmcloud.lattice.") and isinstance(event["data"], dict)
        assert event["source"][0] == "N" and len(event["source"]) == 56 and len(event["id"]) == 36
        assert datetime.fromisoformat(event["time"]).tzinfo is not None
    ids = [event["id"] for event in tapped.general()]
    assert len(set(ids)) == len(ids)
    if tapped.general():
        named = [event for subject, event in tapped.messages if subject.count(".") == 3]
        assert [event["id"] for event in named] == ids  # the same events in the same order on both subjects
        assert all(
            subject.endswith("." + event["type"].removeprefix("com.wasmcloud.lattice."))
            for subject, event in tapped.messages
            if subject.count(".") == 3
        )


async def test_the_life_of_a_host_is_told_in_its_order(
    trusting: HostConfig, client: Connection, lattice: str, wire: Wire, tmp_path: Path
) -> None:
    reference = actors.write(tmp_path, actors.signed(actors.ECHO))
    log = await EventLog.open(client, lattice)
    async with Host(trusting) as host:
        control = ControlClient(client, lattice)
        await control.launch_actor(host.host_id, reference, 2)
        await log.wait("actors_started")
        await control.start_provider(host.host_id, STORE.reference)
        await log.wait("health_check_passed")
        actor = next(iter(host.actors.counts()))
        link = LinkDefinition(actor_id=actor, provider_id=STORE.public_key, contract_id=STORE.contract_id)
        await control.put_link(link)
        await log.wait("linkdef_set")
        await control.del_link(link)
        await log.wait("linkdef_deleted")
    await until(lambda: wire.names()[-1:] == ["host_stopped"])
    names = [name for name in wire.names() if name not in ("host_heartbeat", "health_check_status", "refmap_set")]
    assert names == [
        "host_started",
        "actor_started",
        "actor_started",
        "actors_started",
        "provider_started",
        "health_check_passed",
        "linkdef_set",
        "linkdef_deleted",
        "actor_stopped",
        "actor_stopped",
        "actors_stopped",
        "provider_stopped",
        "host_stopped",
    ]
    assert {event["data"]["oci_url"] for event in wire.general() if event["type"].endswith("refmap_set")} == {
        reference,
        STORE.reference,
    }


async def test_a_change_is_told_by_an_extra_heartbeat(
    trusting: HostConfig, client: Connection, lattice: str, tmp_path: Path
) -> None:
    log = await EventLog.open(client, lattice)
    async with Host(trusting) as host:
        for number in range(3):
            await host.actors.launch(actors.write(tmp_path, actors.signed(actors.ECHO), f"{number}.wasm"), number + 1)
        beat = await log.wait("host_heartbeat", timeout=3)
        assert beat.data["actors"] == host.actors.counts() and sorted(beat.data["actors"].values()) == [1, 2, 3]
        assert set(beat.data) == {
            "actors",
            "providers",
            "labels",
            "friendly_name",
            "version",
            "uptime_seconds",
            "uptime_human",
        }
        await host.providers.start(STORE.reference)
        await until(lambda: log.events[-1].name == "host_heartbeat" and log.events[-1].data["providers"], timeout=20)
        assert log.events[-1].data["providers"] == [
            {"public_key": STORE.public_key, "link_name": "default", "contract_id": STORE.contract_id}
        ]


async def test_heartbeats_keep_their_rhythm_whatever_happens_between_them(client: Connection, lattice: str) -> None:
    publisher = EventPublisher(client, lattice, HOST_ID)
    loop = asyncio.get_running_loop()
    moments: list[float] = []

    def beat() -> events.Built:
        moments.append(loop.time())
        return "host_heartbeat", {}

    begun = loop.time()
    publisher.start_heartbeat(beat, interval=1.6)
    await asyncio.sleep(0.1)
    for name in ("actors_started", "actors_stopped", "linkdef_set"):
        publisher.publish(name, {})
    await until(lambda: len(moments) == 3)
    await publisher.stop_heartbeat()
    passed = [round(moment - begun, 1) for moment in moments]
    assert 1.0 <= passed[0] <= 1.5  # one for all changes, after they settled
    assert 1.6 <= passed[1] <= 2.2 and 3.2 <= passed[2] <= 3.8


async def test_a_killed_provider_is_told_with_its_reason_and_comes_back(
    trusting: HostConfig, client: Connection, lattice: str
) -> None:
    log = await EventLog.open(client, lattice)
    async with Host(trusting) as host:
        provider = await host.providers.start(STORE.reference, annotations={"a": "b"})
        first = await log.wait("provider_started")
        assert provider.pid is not None
        os.kill(provider.pid, signal.SIGKILL)
        stopped = await log.wait("provider_stopped")
        assert stopped.data["instance_id"] == first.data["instance_id"] and "SIGKILL" in stopped.data["reason"]
        again = await log.wait("provider_started", count=2)
        assert again.data["instance_id"] != first.data["instance_id"]
        assert first.data["annotations"] == again.data["annotations"] == stopped.data["annotations"] == {"a": "b"}


async def test_calls_are_told_only_if_asked_for(
    trusting: HostConfig, client: Connection, lattice: str, wire: Wire, tmp_path: Path
) -> None:
    good = actors.write(tmp_path, actors.signed(actors.ECHO), "good.wasm")
    bad = actors.write(tmp_path, actors.signed(actors.REFUSING), "bad.wasm")
    for told in (False, True):
        async with Host(replace(trusting, rpc_events=told)) as host:
            signer = Signer(host.identity.cluster, HOST_ID)
            rpc = RpcClient(client, lattice, signer)
            keys = [await host.actors.launch(reference) for reference in (good, bad)]
            origin = Entity("some-client")
            assert await rpc.call(origin=origin, target=Entity.actor(keys[0]), operation="A.B", msg=b"xyz", timeout=5)
            with pytest.raises(RemoteError):
                await rpc.call(origin=origin, target=Entity.actor(keys[1]), operation="A.B", msg=b"", timeout=5)
            caller = actors.signed(actors.caller(namespace=keys[0], operation="C.D"))
            middle = await host.actors.launch(actors.write(tmp_path, caller, f"middle{told}.wasm"))
            await rpc.call(origin=origin, target=Entity.actor(middle), operation="A.B", msg=b"1", timeout=5)
            await client.flush()
        calls = [event for subject, event in wire.messages if "rpcevt" in subject]
        if not told:
            assert calls == []
    assert [event["type"].rpartition("invocation_")[2] for event in calls] == [
        "succeeded",
        "failed",
        "succeeded",
        "succeeded",
    ]
    first, refused, inner, outer = (event["data"] for event in calls)
    assert first["source"] == {"public_key": "some-client", "contract_id": None, "link_name": None}
    assert first["dest"] == {"public_key": keys[0], "contract_id": None, "link_name": None}
    assert (first["operation"], first["bytes"]) == ("A.B", 3) and 0 <= first["elapsed_ms"] < 5000
    assert (first["source_host"], first["dest_host"]) == (HOST_ID, calls[0]["source"])
    assert refused["error"] == "not today"
    assert inner["source"]["public_key"] == middle and inner["source_host"] == inner["dest_host"] == calls[0]["source"]
    assert outer["dest"]["public_key"] == middle
