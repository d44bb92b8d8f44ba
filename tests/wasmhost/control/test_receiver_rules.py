"""What a host does not do for whoever can merely send it messages: one test for each rule on the control subjects.

The rules on calls are pinned in test_inbound.py and lattice/test_verify.py, those on artifacts in
flow/test_refusals.py.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lattice import bundled
from lattice.connection import Connection, ConnectOptions, connect
from lattice.keys import KeyPair, Role
from lattice.subjects import Control, linkdef_put
from lattice.wire import pack
from tests.support import actors
from tests.support.nats import NatsServer
from tests.wasmhost.control.asking import ACCEPTED, Asker
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host

ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public
SILENT = KeyPair.from_raw(Role.SERVICE, bytes([5]) * 32).public
LINK = {"actor_id": ACTOR, "provider_id": PROVIDER, "contract_id": "a:b", "link_name": "default", "values": {}}
STORE = bundled.find("bundled:keyvalue")


@asynccontextmanager
async def host_on(config: HostConfig, server: NatsServer) -> AsyncIterator[tuple[Host, Connection]]:
    endpoint = NatsEndpoint(url=server.url)
    client = await connect(ConnectOptions(url=server.url))
    try:
        async with Host(replace(config, rpc=endpoint, control=endpoint, providers=endpoint)) as host:
            yield host, client
    finally:
        await client.drain()
        server.stop()


async def test_a_flood_is_refused_at_once_and_leaves_the_host_as_it_was(
    host: Host, client: Connection, lattice: str
) -> None:
    answers: list[dict[str, Any]] = []
    done = asyncio.Event()
    inbox = client.new_inbox()

    def note(_subject: str, _reply: str, _headers: object, payload: bytes) -> None:
        answers.append(json.loads(payload))
        if len(answers) == 1500:
            done.set()

    await client.subscribe(inbox, note)
    for number in range(1500):
        link = {**LINK, "values": {"n": str(number)}}
        client.publish(Control(lattice).linkdefs_put(), json.dumps(link).encode(), reply=inbox)
    await asyncio.wait_for(done.wait(), 60)
    refused = [answer for answer in answers if not answer["accepted"]]
    assert {answer["code"] for answer in refused} == {"overloaded"} and 0 < len(refused) < 1500
    asker = Asker(client, lattice, "json")
    assert await asker.ask(asker.subjects.linkdefs_put(), LINK) == ACCEPTED
    assert len((await asker.ask(asker.subjects.get_links()))["links"]) == 1


async def test_a_host_at_its_limit_says_that_it_is_there_and_what_it_runs(
    host: Host, client: Connection, lattice: str
) -> None:
    control = Control(lattice)
    answers: list[tuple[str, dict[str, Any]]] = []
    inbox = client.new_inbox()

    def note(subject: str, _reply: str, _headers: object, payload: bytes) -> None:
        answers.append((subject.rpartition(".")[2], json.loads(payload)))

    await client.subscribe(f"{inbox}.*", note)
    assert await Asker(client, lattice, "json").ask(control.linkdefs_put(), LINK) == ACCEPTED
    # a provider that never answers: the first change waits for it, the others for the first
    await client.subscribe(linkdef_put(lattice, SILENT, LINK["link_name"]), lambda *_: None)
    for number in range(300):
        changed = {**LINK, "provider_id": SILENT, "values": {"n": str(number)}}
        client.publish(control.linkdefs_put(), json.dumps(changed).encode(), reply=f"{inbox}.command")
    await until(lambda: answers)
    assert answers[0][1]["code"] == "overloaded"
    for subject in (control.ping_hosts(), control.get_inventory(host.host_id), control.get_links()):
        client.publish(subject, b"", reply=f"{inbox}.question")
    client.publish(control.auction_actor(), b'{"actor_ref": "x"}', reply=f"{inbox}.bid")
    await until(lambda: len([kind for kind, _ in answers if kind == "question"]) == 3)
    questions = [answer for kind, answer in answers if kind == "question"]
    assert [{"id", "host_id", "links"} & set(answer) for answer in questions] == [{"id"}, {"host_id"}, {"links"}]
    assert "bid" not in dict(answers)


async def test_what_a_host_has_taken_is_answered_though_it_stops(
    config: HostConfig, client: Connection, lattice: str
) -> None:
    heard: list[str] = []
    put = linkdef_put(lattice, SILENT, LINK["link_name"])
    await client.subscribe(put, lambda subject, *_: heard.append(subject))
    async with Host(config):
        asker = Asker(client, lattice, "json")
        assert await asker.ask(asker.subjects.linkdefs_put(), LINK) == ACCEPTED
        changes = [{**LINK, "provider_id": SILENT, "values": {"n": str(number)}} for number in range(8)]
        asked = [
            asyncio.create_task(asker.ask(asker.subjects.linkdefs_put(), change, timeout=20)) for change in changes
        ]
        await until(lambda: heard)  # the first waits for this provider, the others for the first
    answers = await asyncio.gather(*asked)
    refused = [answer for answer in answers if not answer["accepted"]]
    assert refused and all(answer["error"].startswith("this host is stopping") for answer in refused)


async def test_a_body_above_the_limit_is_refused_unread_whatever_the_server_lets_through(
    config: HostConfig, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "wide", config="max_payload: 4MB\n").start()
    async with host_on(config, server) as (host, client):
        for encoding in ("json", "msgpack"):
            asker = Asker(client, config.lattice, encoding)
            body = {"actor_ref": "x" * 2_000_000}
            answer = await asker.ask(asker.subjects.command(host.host_id, "la"), body)
            assert (answer["accepted"], answer["code"]) == (False, "too_large")
            assert answer["error"].startswith("Invalid launch actor JSON request")


@pytest.mark.parametrize("name", ["a.b", "*", ">", "a b", "", "\u20ac", "x" * 200])
async def test_no_name_becomes_a_subject_that_it_must_not(host: Host, asker: Asker, name: str) -> None:
    """A user named ``*`` once got the right to every subject; the server takes wildcards in a publish, too."""
    asked = [(asker.subjects.command(host.host_id, "lp"), {"provider_ref": STORE.reference, "link_name": name})]
    asked += [(asker.subjects.linkdefs_put(), {**LINK, member: name}) for member in ("link_name", "actor_id")]
    asked += [(asker.subjects.linkdefs_put(), {**LINK, "provider_id": name})]
    for subject, body in asked:
        if name == "" and "link_name" in body and body["link_name"] == "":
            continue  # nothing at all means the default
        answer = await asker.ask(subject, body)
        assert answer["accepted"] is False and answer["code"] == "malformed"
    assert list(host.metadata.links) == [] and list(host.providers) == []


async def test_a_provider_answers_inboxes_only(host: Host, client: Connection, lattice: str) -> None:
    """A provider without any right to control once had a host publish a link by naming that as the reply subject."""
    heard: list[bytes] = []
    victim = f"wasmbus.ctl.{lattice}.victim.put"
    await client.subscribe(victim, lambda *message: heard.append(message[3]))
    log = await EventLog.open(client, lattice)
    await host.providers.start(STORE.reference)
    await log.wait("provider_started")
    root = f"wasmbus.rpc.{lattice}.{STORE.public_key}.default"
    for subject in (root, f"{root}.health", f"{root}.linkdefs.put", f"{root}.linkdefs.del"):
        client.publish(subject, pack({"healthy": True}), reply=victim)
    answer = await client.request(f"{root}.health", pack({"placeholder": True}), timeout=5.0)
    assert answer.payload
    await client.flush()
    assert heard == []


async def test_every_connection_has_an_inbox_of_its_own_that_nobody_guesses(nats_server: NatsServer) -> None:
    prefixes = set()
    for _ in range(3):
        connection = await connect(ConnectOptions(url=nats_server.url))
        inbox = connection.new_inbox()
        await connection.drain()
        assert inbox.startswith("_INBOX.")
        prefixes.add(inbox.split(".")[1])
    assert len(prefixes) == 3 and min(map(len, prefixes)) >= 16


async def test_an_older_revision_is_noticed_and_refused_where_that_is_wanted(
    config: HostConfig, client: Connection, lattice: str, tmp_path: Path
) -> None:
    module = KeyPair.generate(Role.MODULE)
    old, new = (
        actors.write(tmp_path, actors.signed(actors.ECHO, module=module, revision=number), f"{number}.wasm")
        for number in (1, 2)
    )
    trusting = replace(config, trusted_issuers=frozenset({actors.ACCOUNT.public}))
    log = await EventLog.open(client, lattice)
    async with Host(replace(trusting, refuse_downgrades=True)) as host:
        asker = Asker(client, lattice, "json")
        command = asker.subjects.command(host.host_id, "la")
        assert await asker.ask(command, {"actor_ref": new}) == ACCEPTED
        await log.wait("actors_started")
        await host.actors.stop(module.public)
        assert await asker.ask(command, {"actor_ref": old}) == ACCEPTED
        failed = await log.wait("actor_start_failed")
        assert "older than revision 2" in failed.data["error"] and failed.data["code"] == "conflict"
    async with Host(trusting) as host:  # a deployer that goes back on purpose
        await host.actors.launch(old)


async def test_no_secret_of_a_command_reaches_the_log_or_an_answer(
    host: Host, asker: Asker, client: Connection, lattice: str, capsys: pytest.CaptureFixture[str]
) -> None:
    secret = "S3CR3T-VALUE"
    subjects = asker.subjects
    for subject, body in (
        (subjects.registries_put(), {"r": {"password": secret, "token": 5}}),
        (subjects.registries_put(), {"r": {"username": "u", "password": secret}}),
        (subjects.linkdefs_put(), {**LINK, "values": {"password": secret, "n": 5}}),
        (subjects.command(host.host_id, "lp"), {"provider_ref": "bundled:none", "configuration": secret}),
        (subjects.command(host.host_id, "lp"), {"provider_ref": 5, "configuration": secret}),
    ):
        assert secret not in str(await asker.ask(subject, body))
    await asker.send(subjects.config("put", ACTOR, "key"), secret.encode())
    out = capsys.readouterr()
    assert "control.refused" in out.out + out.err  # the log is looked at, then
    assert secret not in out.out + out.err
