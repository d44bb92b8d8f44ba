"""Providers under supervision: real processes on a real server, killed, blocked and replaced."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from lattice import bundled
from lattice.antiforgery import Signer
from lattice.claims import ProviderClaims
from lattice.connection import Connection
from lattice.errors import LatticeError, Unreachable
from lattice.health import Condition
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from lattice.store import open_bucket
from tests.support.nats import NatsServer, free_port
from tests.support.proxy import Proxy
from tests.wasmhost.control.room import TIMING, Room, opened
from tests.wasmhost.control.waiting import alive, until
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.supervision.provider_image import ProviderImage, ProviderImages

HTTP = bundled.find("bundled:httpserver")
STORE = bundled.find("bundled:keyvalue")
ACTOR, OTHER = (KeyPair.from_raw(Role.MODULE, bytes([seed]) * 32).public for seed in (3, 4))


def image_of(name: str, *command: str, contract: str = "test:contract", seed: int = 9) -> ProviderImage:
    return ProviderImage(
        reference=f"test:{name}",
        claims=ProviderClaims(
            subject=KeyPair.from_raw(Role.SERVICE, bytes([seed]) * 32).public,
            issuer=bundled.ISSUER,
            name=name,
            contract_id=contract,
        ),
        command=command,
        ours=True,
    )


IMAGES = {
    image.reference: image
    for image in (
        image_of("missing", "/nonexistent/provider"),
        image_of("crash", sys.executable, "-c", "input(); print('no luck today'); raise SystemExit(3)"),
        image_of("mute", sys.executable, "-c", "import time; input(); time.sleep(600)"),
        # the bundled stores under other keys: a second provider of the same contract
        image_of("store", sys.executable, "-P", "-m", STORE.module, contract=STORE.contract_id, seed=21),
        image_of("web", sys.executable, "-P", "-m", HTTP.module, contract=HTTP.contract_id, seed=22),
    )
}


class TestImages(ProviderImages):
    """The programs above beside the bundled ones and archives."""

    __test__ = False

    def known(self, reference: str) -> ProviderImage | None:
        return IMAGES.get(reference) or super().known(reference)


@pytest.fixture
async def room(config: HostConfig, client: Connection) -> AsyncIterator[Room]:
    async with opened(config, client, images=TestImages(config)) as room:
        yield room


def http_link(port: int, provider: str = HTTP.public_key) -> LinkDefinition:
    return LinkDefinition(
        actor_id=ACTOR,
        provider_id=provider,
        contract_id=HTTP.contract_id,
        values={"address": f"127.0.0.1:{port}"},
    )


async def test_a_bundled_provider_starts_is_described_and_stops(room: Room) -> None:
    described = await room.started("bundled:httpserver", annotations={"a": "b"})  # type: ignore[arg-type]
    assert (described.state, described.error, described.restarts) == ("ready", "", 0)
    assert (described.image_ref, described.contract_id, described.annotations) == (
        "bundled:httpserver",
        "wasmcloud:httpserver",
        {"a": "b"},
    )
    started = room.events.named("provider_started")[0].data
    assert (started["image_ref"], started["annotations"], started["claims"]["name"]) == (
        "bundled:httpserver",
        {"a": "b"},
        HTTP.title,
    )
    passed = await room.events.wait("health_check_passed", public_key=HTTP.public_key)
    assert (passed.data["contract_id"], passed.data["link_name"]) == ("wasmcloud:httpserver", "default")
    assert room.metadata.claims[HTTP.public_key]["contract_id"] == "wasmcloud:httpserver"
    await room.events.wait("health_check_status", public_key=HTTP.public_key)

    provider = room.supervisor.find(HTTP.public_key, "default")
    assert provider is not None and provider.pid is not None
    pid = provider.pid
    await room.supervisor.stop(HTTP.public_key, "default")
    assert not alive(pid)
    assert (await room.events.wait("provider_stopped")).data["reason"] == "stop"
    assert room.supervisor.descriptions() == []


async def test_a_second_start_under_the_same_link_name_is_a_conflict(room: Room) -> None:
    await room.started("bundled:httpserver")
    with pytest.raises(LatticeError, match="already running") as caught:
        await room.supervisor.start("bundled:httpserver")
    assert caught.value.code == "conflict"
    await room.events.wait("provider_start_failed", provider_ref="bundled:httpserver")
    await room.supervisor.start("bundled:httpserver", link_name="other")
    with pytest.raises(LatticeError, match="provider with that link name is not running"):
        await room.supervisor.stop(HTTP.public_key, "third")


@pytest.mark.parametrize(
    ("reference", "reason"),
    [
        ("test:missing", "cannot start /nonexistent/provider: No such file or directory"),
        ("test:crash", "exited with code 3: no luck today"),
    ],
)
async def test_a_provider_that_cannot_start_says_why_and_is_tried_again(
    room: Room, reference: str, reason: str
) -> None:
    provider = await room.supervisor.start(reference)
    failed = await room.events.wait("provider_start_failed", provider_ref=reference, count=2)
    assert failed.data["error"] == reason
    described = room.described(provider.image.public_key)
    assert described.restarts >= 1
    await until(lambda: provider.condition is Condition.FAILED)
    assert provider.error == reason
    await room.supervisor.start(reference)  # not a conflict: it never ran
    await room.supervisor.stop(provider.image.public_key, "default")
    assert room.supervisor.descriptions() == []


async def test_a_provider_that_never_answers_is_reported(room: Room) -> None:
    provider = await room.supervisor.start("test:mute")
    failed = await room.events.wait("provider_start_failed", provider_ref="test:mute")
    assert "no answer to health checks for 2 s" in failed.data["error"]
    assert room.described(provider.image.public_key).state == "degraded"


async def test_a_killed_provider_comes_back_with_its_links(room: Room) -> None:
    port = free_port()
    await room.linking.put(http_link(port))
    await room.started("bundled:httpserver")
    provider = room.supervisor.find(HTTP.public_key, "default")
    assert provider is not None and provider.pid is not None
    await until(lambda: room.described(HTTP.public_key).links == {ACTOR: {"state": "ready", "reason": ""}})

    os.kill(provider.pid, signal.SIGKILL)
    stopped = await room.events.wait("provider_stopped", public_key=HTTP.public_key)
    assert stopped.data["reason"].startswith("killed by SIGKILL")
    assert "killed by SIGKILL" in room.supervisor.failure_of(HTTP.public_key, "default")
    await room.events.wait("provider_started", public_key=HTTP.public_key, count=2)
    await until(lambda: room.described(HTTP.public_key).links == {ACTOR: {"state": "ready", "reason": ""}})
    assert room.described(HTTP.public_key).restarts == 1
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def test_a_call_in_flight_to_a_killed_provider_fails_at_once_with_the_reason(
    room: Room, client: Connection, lattice: str
) -> None:
    await room.started("bundled:keyvalue")
    provider = room.supervisor.find(STORE.public_key, "default")
    assert provider is not None and provider.pid is not None
    os.kill(provider.pid, signal.SIGSTOP)  # so that the call is in flight for certain
    rpc = RpcClient(client, lattice, Signer(KeyPair.generate(Role.CLUSTER), KeyPair.generate(Role.HOST).public))
    target = Entity.provider(STORE.public_key, STORE.contract_id, "default")
    call = asyncio.create_task(
        rpc.call(origin=Entity.actor(ACTOR), target=target, operation="KeyValue.Get", msg=b"", timeout=30.0)
    )
    await asyncio.sleep(0)
    await client.flush()
    os.kill(provider.pid, signal.SIGKILL)
    with pytest.raises(Unreachable, match="killed by SIGKILL") as caught:
        await asyncio.wait_for(call, 5)
    assert caught.value.code == "no_responders"


async def test_what_a_provider_did_not_hear_of_its_links_is_told_again(
    config: HostConfig, client: Connection, nats_server: NatsServer
) -> None:
    with Proxy(nats_server.port) as way:
        quick = replace(TIMING, link_timeout=0.5, hung_after=20.0)
        config = replace(config, providers=NatsEndpoint(url=way.url))
        async with opened(config, client, timing=quick) as room:
            old, new, dropped = free_port(), free_port(), free_port()
            leaving = replace(http_link(dropped), actor_id=OTHER)
            await room.linking.put(http_link(old))
            await room.linking.put(leaving)
            await room.started("bundled:httpserver")
            await until(lambda: listens(old) and listens(dropped))
            way.fall_silent()
            await room.linking.put(http_link(new))
            await room.linking.delete(leaving.key)
            way.forward_new()
            way.cut()  # the provider connects anew, and heard nothing
            await until(lambda: listens(new) and not listens(old) and not listens(dropped), timeout=20)
            await until(lambda: room.described(HTTP.public_key).state == "ready")
            assert room.described(HTTP.public_key).restarts == 0


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


async def test_a_hung_provider_is_restarted(room: Room) -> None:
    await room.started("bundled:httpserver")
    provider = room.supervisor.find(HTTP.public_key, "default")
    assert provider is not None and provider.pid is not None
    os.kill(provider.pid, signal.SIGSTOP)
    failed = await room.events.wait("health_check_failed", public_key=HTTP.public_key)
    assert failed.data["error"] == "does not answer health checks"
    await room.events.wait("provider_started", public_key=HTTP.public_key, count=2, timeout=20)


async def test_a_port_in_use_shows_in_the_description_and_in_an_event_until_it_is_free(room: Room) -> None:
    await room.started("bundled:httpserver")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        await room.linking.put(http_link(port))
        failed = await room.events.wait("health_check_failed", public_key=HTTP.public_key)
        assert failed.data["error"] == f"127.0.0.1:{port} in use"
        described = room.described(HTTP.public_key)
        assert (described.state, described.error) == ("failed", f"127.0.0.1:{port} in use")
        assert described.links == {ACTOR: {"state": "failed", "reason": f"127.0.0.1:{port} in use"}}
    await room.events.wait("health_check_passed", public_key=HTTP.public_key, count=2)
    assert room.described(HTTP.public_key).state == "ready"


async def test_a_relinked_actor_has_its_new_provider_ready_before_the_switch(room: Room) -> None:
    await room.started("bundled:httpserver")
    other = IMAGES["test:web"]
    await room.started("test:web")
    first, second = free_port(), free_port()
    await room.linking.put(http_link(first))
    await until(lambda: listening(first))
    await room.linking.put(http_link(second, other.public_key))
    # the switch has happened when put returns, and the new listener was up before it
    resolved = room.metadata.links.resolve(ACTOR, HTTP.contract_id, "default")
    assert resolved is not None and resolved.provider_id == other.public_key
    _, writer = await asyncio.open_connection("127.0.0.1", second)
    writer.close()
    assert listening(first)  # the old one still serves what is in flight, and is told afterwards
    await until(lambda: not listening(first))
    assert listening(second)
    assert room.described(HTTP.public_key).links == {}


async def test_a_link_that_served_nobody_is_replaced_without_a_warning(room: Room) -> None:
    await room.linking.put(http_link(free_port()))
    with capture_logs() as logged:
        await room.linking.put(http_link(free_port()))
        assert [event["event"] for event in logged if event["log_level"] == "warning"] == []
        await room.linking.put(http_link(free_port(), IMAGES["test:web"].public_key))
    assert [event["event"] for event in logged if event["log_level"] == "warning"] == ["link.replaced_before_ready"]


async def test_changed_values_reach_the_provider_before_the_snapshot(room: Room) -> None:
    await room.started("bundled:httpserver")
    first, second = free_port(), free_port()
    await room.linking.put(http_link(first))
    await until(lambda: listening(first))
    await room.linking.put(http_link(second))
    assert listening(second)
    await until(lambda: not listening(first))
    assert room.events.named("linkdef_deleted") == []


async def test_a_link_written_to_the_bucket_by_somebody_else_is_told_to_the_provider(
    room: Room, client: Connection, lattice: str
) -> None:
    await room.started("bundled:httpserver")
    bucket = await open_bucket(client, f"LATTICEDATA_{lattice}")
    link = http_link(free_port())
    await bucket.put(f"LINKDEF_{link.id}", json.dumps(link.to_json()).encode())
    await room.events.wait("linkdef_set", actor_id=ACTOR)
    await until(lambda: room.described(HTTP.public_key).links == {ACTOR: {"state": "ready", "reason": ""}})
    await bucket.delete(f"LINKDEF_{link.id}")
    await room.events.wait("linkdef_deleted", actor_id=ACTOR)
    await until(lambda: room.described(HTTP.public_key).links == {})
    assert len(room.metadata.links) == 0


def listening(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0
