"""Labels, auctions, registry logins and the configuration store, asked with raw messages in both encodings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Unreachable
from lattice.keys import KeyPair, Role
from lattice.store import open_bucket
from lattice.subjects import Control
from tests.support import actors
from tests.support.nats import NatsServer
from tests.wasmhost.control.asking import ACCEPTED, Asker
from tests.wasmhost.control.waiting import EventLog
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host

ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public
HOSTILE = 'a"b\\c\n\x00<>&\u2028é'


async def silence(asker: Asker, subject: str, body: Any) -> bool:
    """Whether the host hears the request and says nothing: a time-out, which is not "no responders"."""
    with pytest.raises(Unreachable) as caught:
        await asker.ask(subject, body, timeout=0.3)
    return caught.value.code == "timed_out"


async def test_labels_are_put_seen_everywhere_used_in_auctions_and_removed(
    host: Host, asker: Asker, client: Connection, lattice: str
) -> None:
    events = await EventLog.open(client, lattice)
    auction = asker.subjects.auction_actor()
    wanted = {"actor_ref": "file:///x.wasm", "constraints": {"tier": "gold é"}}
    assert await silence(asker, auction, wanted)
    put, delete = (asker.subjects.labels(host.host_id, verb) for verb in ("put", "del"))
    assert await asker.ask(put, {"key": "tier", "value": "gold é"}) == ACCEPTED
    assert (await asker.ask(asker.subjects.ping_hosts()))["labels"]["tier"] == "gold é"
    assert (await asker.ask(asker.subjects.get_inventory(host.host_id)))["labels"]["tier"] == "gold é"
    assert await asker.ask(auction, wanted) == {**wanted, "host_id": host.host_id}
    assert (await events.wait("host_heartbeat")).data["labels"]["tier"] == "gold é"  # without waiting for 30 s
    for _ in range(2):  # the second time it is not there
        assert await asker.ask(delete, {"key": "tier", "value": ""}) == ACCEPTED
    assert await silence(asker, auction, wanted)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "Invalid label request: key is missing"),
        ([], "Invalid label request"),
        ({"key": 5, "value": "x"}, "Invalid label request: key is an integer"),
        ({"key": "a", "value": ["x"]}, "Invalid label request: value is"),
        ({"key": "k" * 300, "value": "x"}, "at most 256"),
        ({"key": "k", "value": HOSTILE}, "printable"),
        ({"key": "hostcore.os", "value": "plan9"}, "hostcore.os"),
        ({"key": "note", "value": "my " + KeyPair.generate(Role.USER).seed}, "this is a seed"),
    ],
)
async def test_a_label_that_cannot_be_is_refused(host: Host, asker: Asker, body: Any, words: str) -> None:
    answer = await asker.ask(asker.subjects.labels(host.host_id, "put"), body)
    assert answer["accepted"] is False and words in answer["error"]
    assert host.facts.labels.all == host.config.labels


async def test_labels_are_bounded_so_that_a_host_can_still_say_who_it_is(
    host: Host, asker: Asker, client: Connection, lattice: str
) -> None:
    events = await EventLog.open(client, lattice)
    put, delete = (asker.subjects.labels(host.host_id, verb) for verb in ("put", "del"))
    answers = [await asker.ask(put, {"key": f"k{number}", "value": "é" * 4096}) for number in range(300)]
    refused = [answer for answer in answers if not answer["accepted"]]
    assert {answer["code"] for answer in refused} == {"too_large"} and 0 < len(refused) < 300
    assert (await asker.ask(asker.subjects.ping_hosts()))["labels"]["k0"] == "é" * 4096
    await events.wait("host_heartbeat")
    assert await asker.ask(delete, {"key": "k0"}) == ACCEPTED
    assert await asker.ask(put, {"key": "k299", "value": "x"}) == ACCEPTED


async def test_a_bid_that_fits_into_no_message_is_not_made(host: Host, asker: Asker) -> None:
    reference = "x" * (1024 * 1024 - 60)  # the request fits, the answer also names the host
    assert await silence(asker, asker.subjects.auction_actor(), {"actor_ref": reference, "constraints": {}})


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"actor_ref": "", "provider_ref": ""},
        {"actor_ref": 5, "provider_ref": 5},
        {"actor_ref": "r", "provider_ref": "r", "constraints": []},
        {"actor_ref": "r", "provider_ref": "r", "constraints": {"zone": 1}},
        {"actor_ref": "r", "provider_ref": "r", "constraints": {"zone": "test", "hostcore.os": "plan9"}},
        {"actor_ref": "r", "provider_ref": "r", "constraints": {HOSTILE: HOSTILE}},
    ],
)
async def test_a_host_that_does_not_bid_is_silent(host: Host, asker: Asker, body: Any) -> None:
    """An acknowledgement or an error would end the gathering of a classic client."""
    assert await silence(asker, asker.subjects.auction_actor(), body)
    assert await silence(asker, asker.subjects.auction_provider(), body)


async def test_a_provider_that_runs_already_is_not_bid_for(host: Host, asker: Asker) -> None:
    reference = {"provider_ref": "bundled:keyvalue"}
    auction = asker.subjects.auction_provider()
    bid = {**reference, "link_name": "default", "constraints": {}, "host_id": host.host_id}
    assert await asker.ask(auction, reference) == bid
    assert await asker.ask(asker.subjects.command(host.host_id, "lp"), reference) == ACCEPTED
    assert await silence(asker, auction, reference)
    assert await asker.ask(auction, {**reference, "link_name": "other"}) == {**bid, "link_name": "other"}


async def test_configuration_is_kept_byte_for_byte_and_told(
    host: Host, asker: Asker, client: Connection, lattice: str
) -> None:
    subjects, events = asker.subjects, await EventLog.open(client, lattice)
    value = bytes(range(256)) + b'{"not": "read"}'
    for entity in (ACTOR, PROVIDER):
        assert await asker.send(subjects.config("put", entity, "greeting"), value) == ACCEPTED
        assert (await events.wait("config_set", entity_id=entity)).data == {"entity_id": entity, "key": "greeting"}
        found = await asker.ask(subjects.get_config(entity, "greeting"))
        assert found == {"found": True, "data": list(value)}
        assert await asker.send(subjects.config("put", entity, "b.c"), b"") == ACCEPTED
        assert await asker.ask(subjects.get_config(entity)) == {"greeting": list(value), "b.c": []}
    bucket = await open_bucket(client, f"CONFIGDATA_{lattice}", create=False)
    assert sorted(await bucket.keys()) == sorted(f"{e}_{k}" for e in (ACTOR, PROVIDER) for k in ("greeting", "b.c"))

    assert await asker.send(subjects.config("del", ACTOR, "greeting"), b"") == ACCEPTED
    assert await asker.ask(subjects.get_config(ACTOR, "greeting")) == {"found": False, "data": []}
    assert (await events.wait("config_deleted")).data == {"entity_id": ACTOR, "key": "greeting"}
    for verb, entity in (("clear", ACTOR), ("del", PROVIDER)):  # the client publishes del where it means clear
        assert await asker.send(subjects.config(verb, entity), b"") == ACCEPTED
        assert (await client.request(subjects.get_config(entity), b"", timeout=5.0)).payload == b""
    await events.wait("config_deleted", entity_id=PROVIDER, count=2)


async def test_configuration_that_cannot_be_kept_is_refused(host: Host, asker: Asker) -> None:
    root = asker.subjects.root
    for subject, value, words in (
        (f"{root}.config.put.{ACTOR}", b"x", "unsupported subject"),
        (f"{root}.config.dance.{ACTOR}.key", b"x", "unsupported subject"),
        (f"{root}.config.put.Mbob.key", b"x", "Mbob"),
        (f"{root}.config.put.{host.host_id}.key", b"x", host.host_id),
        (f"{root}.config.put.{ACTOR}.k$y", b"x", "k$y"),
        (f"{root}.config.put.{ACTOR}.big", b"x" * 70_000, "at most 65536"),
    ):
        answer = await asker.send(subject, value)
        assert answer["accepted"] is False and words in answer["error"]
    answer = await asker.ask(asker.subjects.get_config("Mbob", "key"))
    assert answer["accepted"] is False and "Mbob" in answer["error"]


async def test_an_acknowledgement_of_a_raw_body_is_json_unless_the_header_asks_otherwise(
    host: Host, client: Connection, lattice: str
) -> None:
    subject = Control(lattice).config("put", ACTOR, "key")
    for value in (b"\x81\xa1a\x01", b"\x80", b"{}"):  # looking like msgpack means nothing here
        assert json.loads((await client.request(subject, value, timeout=5.0)).payload) == ACCEPTED


async def test_without_jetstream_configuration_is_refused_in_words(config: HostConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "plain", jetstream=False).start()
    endpoint = NatsEndpoint(url=server.url)
    client = await connect(ConnectOptions(url=server.url))
    try:
        async with Host(replace(config, rpc=endpoint, control=endpoint, providers=endpoint)):
            asker = Asker(client, config.lattice, "json")
            answer = await asker.send(asker.subjects.config("put", ACTOR, "key"), b"x")
            assert (answer["accepted"], answer["code"]) == (False, "unsupported") and "JetStream" in answer["error"]
    finally:
        await client.drain()
        server.stop()


async def test_registry_logins_are_merged_and_never_told(
    host: Host, asker: Asker, client: Connection, lattice: str
) -> None:
    subject = asker.subjects.registries_put()
    first = {
        "ghcr.io": {"username": "u", "password": "secret-one", "registryType": "oci"},
        "r:5000": {"token": "t"},  # the type is oci where a later client leaves it out
        "empty": {"registryType": "oci"},
    }
    assert await asker.ask(subject, first) == ACCEPTED
    second = {"ghcr.io": {"username": "u2", "password": "secret-two", "registryType": "oci"}}
    client.publish(subject, json.dumps(second).encode())  # as classic clients send it: without a reply subject
    await client.flush()
    await asker.ask(asker.subjects.ping_hosts())
    known = host.registries
    assert known.known() == {"ghcr.io": "u2", "r:5000": ""}
    login = known.find("ghcr.io")
    assert login is not None and login.password == "secret-two" and "secret" not in repr(login)
    assert known.find("ghcr.io.evil.example") is None
    for body in ([], {"x": 5}, {"x": {"username": 5}}, {"x": {"token": "t", "registryType": "ftp"}}):
        answer = await asker.ask(subject, body)
        assert answer["accepted"] is False and answer["error"].startswith("Failed to update registry credential map")
    assert known.known() == {"ghcr.io": "u2", "r:5000": ""}


async def test_an_unknown_verb_gets_an_error_from_the_host_it_is_for_and_only_from_it(
    host: Host, another: Callable[[str], HostConfig], client: Connection, lattice: str
) -> None:
    control = Control(lattice)
    async with Host(another("two")):
        for subject in (
            f"{control.root}.cmd.{host.host_id}.dance",
            f"{control.root}.labels.{host.host_id}.dance",
            f"{control.root}.get.{host.host_id}.dance",
            f"{control.root}.get.dance",
            f"{control.root}.linkdefs.dance",
            f"{control.root}.config.dance",
            f"{control.root}.get.config.{ACTOR}.a",  # known: to see that the queue group is one, too
        ):
            answers = await client.gather(subject, b"{}", timeout=0.4)
            assert len(answers) == 1, subject
            answer = json.loads(answers[0].payload)
            assert "unsupported subject" in answer.get("error", "") or answer == {"found": False, "data": []}
        for subject in (f"{control.root}.auction.dance", f"{control.root}.auction.actor.dance"):
            assert await client.gather(subject, b"{}", timeout=0.3) == []


async def test_the_prefix_of_the_control_subjects_can_be_another(
    config: HostConfig, client: Connection, lattice: str
) -> None:
    async with Host(replace(config, ctl_prefix="acme.ctl.v2")) as host:
        control = Control(lattice, "acme.ctl.v2")
        pong = await client.request(control.ping_hosts(), b"", timeout=5.0)
        assert json.loads(pong.payload)["id"] == host.host_id
        ack = await client.request(control.command(host.host_id, "la"), b"{}", timeout=5.0)
        assert "actor_ref is missing" in json.loads(ack.payload)["error"]
        with pytest.raises(Unreachable):
            await client.request(Control(lattice).ping_hosts(), b"", timeout=1.0)


async def test_the_form_for_a_later_manager_has_one_entry_per_annotation_set(
    config: HostConfig, client: Connection, lattice: str, tmp_path: Path
) -> None:
    reference = actors.write(tmp_path, actors.signed(actors.ECHO))
    trusting = replace(config, trusted_issuers=frozenset({actors.ACCOUNT.public}), manager_form="0.82")
    async with Host(trusting) as host:
        events = await EventLog.open(client, lattice)
        asker = Asker(client, lattice, "json")
        for annotations, count in (({"a": "b"}, 3), ({}, 2)):
            command = {"actor_ref": reference, "count": count, "annotations": annotations}
            assert await asker.ask(asker.subjects.command(host.host_id, "scale"), command) == ACCEPTED
        await events.wait("actors_started", count=2)
        beat = (await events.wait("host_heartbeat")).data
        inventory = await asker.ask(asker.subjects.get_inventory(host.host_id))
        for document in (beat, inventory):
            (actor,) = document["actors"]
            assert [(i["max_concurrent"], i["max_instances"], i["annotations"]) for i in actor["instances"]] == [
                (3, 3, {"a": "b"}),
                (2, 2, {}),
            ]
        assert document["host_id"] == host.host_id and beat["version"].count(".") == 2
