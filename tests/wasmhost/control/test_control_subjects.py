"""The control subjects of a real host, asked with raw messages in both encodings."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lattice.connection import Connection
from lattice.errors import Unreachable
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.subjects import Control
from lattice.wire import pack
from tests.support import actors
from tests.wasmhost.control.asking import ACCEPTED, Asker
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public
LINK = {
    "actor_id": ACTOR,
    "provider_id": PROVIDER,
    "link_name": "default",
    "contract_id": "wasmcloud:keyvalue",
    "values": {"URL": "nowhere"},
}


async def test_a_ping_tells_who_the_host_is(host: Host, asker: Asker, lattice: str) -> None:
    pong = await asker.ask(asker.subjects.ping_hosts())
    assert pong["id"] == host.host_id
    assert pong["issuer"] == host.identity.cluster.public
    assert pong["cluster_issuers"] == host.identity.cluster.public
    assert pong["labels"]["zone"] == "test"
    assert pong["lattice"] == pong["lattice_prefix"] == lattice
    assert isinstance(pong["uptime_seconds"], int)
    assert pong["version"].count(".") == 2


async def test_an_empty_request_without_a_header_is_answered_in_json(
    host: Host, client: Connection, lattice: str
) -> None:
    reply = await client.request(Control(lattice).ping_hosts(), b"", timeout=5.0)
    assert json.loads(reply.payload)["id"] == host.host_id


async def test_the_inventory_of_an_idle_host_has_the_required_members(host: Host, asker: Asker) -> None:
    inventory = await asker.ask(asker.subjects.get_inventory(host.host_id))
    assert (inventory["host_id"], inventory["actors"], inventory["providers"]) == (host.host_id, [], [])
    assert inventory["labels"]["hostcore.os"]
    assert "degraded" not in inventory


async def test_a_link_is_put_listed_told_and_removed(
    host: Host, asker: Asker, client: Connection, lattice: str
) -> None:
    events = await EventLog.open(client, lattice)
    assert await asker.ask(asker.subjects.linkdefs_put(), LINK) == ACCEPTED
    assert (await events.wait("linkdef_set")).data == {**LINK, "id": LinkDefinition.from_json(LINK).id}
    (listed,) = (await asker.ask(asker.subjects.get_links()))["links"]
    assert {name: listed[name] for name in LINK} == LINK

    assert await asker.ask(asker.subjects.linkdefs_put(), LINK) == ACCEPTED  # identical: nothing happens
    removal = {**LINK, "provider_id": "", "values": {}}
    assert await asker.ask(asker.subjects.linkdefs_del(), removal) == ACCEPTED
    assert (await events.wait("linkdef_deleted")).data["provider_id"] == PROVIDER
    assert (await asker.ask(asker.subjects.get_links()))["links"] == []
    assert len(events.named("linkdef_set")) == 1
    assert await asker.ask(asker.subjects.linkdefs_del(), removal) == ACCEPTED  # of what is not there


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({**LINK, "actor_id": "Mbob"}, "Mbob"),
        ({**LINK, "provider_id": ""}, "provider"),
        ({**LINK, "link_name": "a.b"}, "link name"),
        ({**LINK, "values": {"a": 1}}, "values"),
        ({**LINK, "contract_id": 5}, "contract_id"),
    ],
)
async def test_a_link_that_cannot_work_is_refused(host: Host, asker: Asker, body: dict[str, Any], words: str) -> None:
    answer = await asker.ask(asker.subjects.linkdefs_put(), body)
    assert (answer["accepted"], answer["code"]) == (False, "malformed")
    assert words in answer["error"]


async def test_an_actor_that_cannot_start_is_acknowledged_and_then_reported(
    host: Host, asker: Asker, client: Connection, lattice: str, tmp_path: Path
) -> None:
    events = await EventLog.open(client, lattice)
    text = tmp_path / "notes.txt"
    text.write_text("not an actor")
    command = {"actor_ref": text.as_uri(), "count": 1, "host_id": host.host_id, "annotations": {"a": "b"}}
    for verb in ("la", "scale"):
        assert await asker.ask(asker.subjects.command(host.host_id, verb), command) == ACCEPTED
    failed = await events.wait("actor_start_failed", count=2, actor_ref=text.as_uri())
    assert "notes.txt" in failed.data["error"]
    assert (await events.wait("actors_start_failed")).data["annotations"] == {"a": "b"}


@pytest.mark.parametrize(
    ("verb", "body", "words"),
    [
        ("la", {"count": 1}, "Invalid launch actor JSON request"),
        ("la", {"actor_ref": "x", "count": "many"}, "Invalid launch actor JSON request"),
        ("sa", {}, "Invalid request to stop actor"),
        ("sa", {"actor_ref": ACTOR, "count": 0}, "actor is not running on this host"),
        ("scale", {"count": 1}, "Invalid scale actor JSON request"),
        ("lp", {}, "Improperly formed start provider command JSON"),
        ("lp", {"provider_ref": "bundled:nothing"}, "bundled:httpserver"),
        ("lp", {"provider_ref": "bundled:httpserver", "link_name": "a.b"}, "link name"),
        ("lp", {"provider_ref": "ghcr.io/x/kv:1"}, "not supported yet"),
        ("sp", {}, "Invalid JSON request for stop provider"),
        ("sp", {"provider_ref": "ghcr.io/x/kv:1"}, "Invalid JSON request for stop provider"),
        ("upd", {}, "Invalid JSON request to update actor"),
        ("upd", {"new_actor_ref": "file:///nowhere.wasm"}, "Unable to perform live update: "),
        ("dance", {}, "unsupported"),
        (
            "la",
            {"actor_ref": "x", "host_id": "N" * 56},
            "Command received by incorrect host and could not be processed",
        ),
        ("stop", {"host_id": "N" * 56}, "is not active, stop request ignored."),
        ("stop", {"timeout": "soon"}, "timeout"),
    ],
)
async def test_a_command_that_cannot_be_carried_out_is_refused_with_the_classic_words(
    host: Host, asker: Asker, verb: str, body: dict[str, Any], words: str
) -> None:
    answer = await asker.ask(asker.subjects.command(host.host_id, verb), body)
    assert answer["accepted"] is False
    assert words in answer["error"]
    assert answer["code"]


async def test_stopping_a_provider_that_never_ran_is_accepted_as_on_classic_hosts(host: Host, asker: Asker) -> None:
    body = {"provider_ref": PROVIDER, "link_name": "default", "contract_id": "wasmcloud:keyvalue"}
    assert await asker.ask(asker.subjects.command(host.host_id, "sp"), body) == ACCEPTED


async def test_a_host_bids_only_if_every_constraint_is_one_of_its_labels(host: Host, asker: Asker) -> None:
    for subject, body in (
        (asker.subjects.auction_actor(), {"actor_ref": "file:///x.wasm"}),
        (asker.subjects.auction_provider(), {"provider_ref": "bundled:httpserver", "link_name": "default"}),
    ):
        wanted = {**body, "constraints": {"zone": "test"}}
        assert await asker.ask(subject, wanted) == {**wanted, "host_id": host.host_id}
        # one host has it, the other constraint nobody has: silence, which is not "no responders"
        with pytest.raises(Unreachable) as caught:
            await asyncio.wait_for(
                asker._client.request(subject, pack({**body, "constraints": {"zone": "moon"}}), timeout=0.3), 5
            )
        assert caught.value.code == "timed_out"


async def test_garbage_on_every_subject_harms_nothing(host: Host, client: Connection, lattice: str) -> None:
    control = Control(lattice)
    subjects = [
        control.ping_hosts(),
        control.get_links(),
        control.get_claims(),
        control.get_inventory(host.host_id),
        control.linkdefs_put(),
        control.linkdefs_del(),
        control.auction_actor(),
        control.auction_provider(),
        control.registries_put(),
        f"{control.root}.auction.a.b.c",
        f"{control.root}.get.nothing",
        *(control.command(host.host_id, verb) for verb in ("la", "sa", "scale", "upd", "lp", "sp", "stop", "x")),
    ]
    for payload in (b"{", b"\x81", b"[]", b"7", b'"x"', b"\xff" * 100, b"[" * 5000, b"\x91" * 5000):
        for subject in subjects:
            client.publish(subject, payload, reply=f"_INBOX.nobody.{lattice}")
    await client.flush()
    reply = await client.request(control.get_inventory(host.host_id), b"", timeout=5.0)
    assert json.loads(reply.payload)["providers"] == []


async def test_an_inventory_too_long_for_one_message_is_told_in_the_shorter_form(
    config: HostConfig, asker: Asker, tmp_path: Path
) -> None:
    reference = actors.write(tmp_path, actors.signed(actors.ECHO))
    async with Host(replace(config, trusted_issuers=frozenset({actors.ACCOUNT.public}))) as host:
        await host.actors.launch(reference, 1000, {"why": "x" * 2000})
        inventory = await asker.ask(asker.subjects.get_inventory(host.host_id))
    (instance,) = inventory["actors"][0]["instances"]
    assert instance["max_instances"] == 1000


async def test_an_answer_too_long_for_one_message_is_an_error(host: Host, asker: Asker, lattice: str) -> None:
    for number in range(9):
        body = {**LINK, "link_name": f"l{number}", "values": {"x": "y" * 120_000}}
        assert await asker.ask(asker.subjects.linkdefs_put(), body) == ACCEPTED
    answer = await asker.ask(asker.subjects.get_links())
    assert (answer["accepted"], answer["code"]) == (False, "reply_too_large")
    answer = await asker.ask(asker.subjects.linkdefs_put(), {**LINK, "values": {"x": "y" * 140_000}})
    assert answer["accepted"] is False and "at most 131072" in answer["error"]


async def test_nothing_is_answered_on_a_subject_that_is_no_inbox(host: Host, client: Connection, lattice: str) -> None:
    heard: list[bytes] = []
    await client.subscribe(f"wasmbus.ctl.{lattice}.victim", lambda *message: heard.append(message[3]))
    client.publish(Control(lattice).ping_hosts(), b"", reply=f"wasmbus.ctl.{lattice}.victim")
    await client.request(Control(lattice).ping_hosts(), b"", timeout=5.0)
    await client.flush()
    assert heard == []


async def test_a_stop_command_is_acknowledged_and_ends_the_host(
    host: Host, asker: Asker, client: Connection, lattice: str
) -> None:
    running = asyncio.create_task(host.run_until(asyncio.Event()))
    body = {"host_id": host.host_id, "timeout": 2000}
    assert await asker.ask(asker.subjects.command(host.host_id, "stop"), body) == ACCEPTED
    await asyncio.wait_for(running, 5)


async def test_a_host_tells_of_its_start_and_of_its_stop(config: Any, client: Connection, lattice: str) -> None:
    events = await EventLog.open(client, lattice)
    async with Host(config) as host:
        started = await events.wait("host_started")
        assert (started.source, started.data["labels"]["zone"]) == (host.host_id, "test")
        assert started.data["version"].count(".") == 2
    stopped = await events.wait("host_stopped")
    assert (stopped.source, stopped.data["labels"]["zone"]) == (host.host_id, "test")
    await until(lambda: events.events[-1].name == "host_stopped")
