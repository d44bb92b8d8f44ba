"""Watching a host: log lines and mirrored calls, over raw subjects."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

from lattice import cloudevents, subjects, wire
from lattice.antiforgery import Signer
from lattice.chunks import Chunks
from lattice.connection import Connection
from lattice.errors import RemoteError
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.observation import MOST_MIRRORED
from lattice.rpc import RpcClient
from lattice.transport import Headers
from tests.support import actors
from tests.support.waiting import eventually
from wasmhost import logs
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

CLIENT = Entity("wasmhost-test")


class Inbox:
    """Everything that arrives in one inbox."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.subject = connection.new_inbox()
        self.received: list[dict[str, Any]] = []

    @classmethod
    async def open(cls, connection: Connection) -> Inbox:
        inbox = cls(connection)
        await connection.subscribe(inbox.subject, inbox.on_message)
        return inbox

    def on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self.received.append(json.loads(payload))

    def ask(self, subject: str, **body: Any) -> None:
        self.connection.publish(subject, json.dumps(body).encode(), reply=self.subject)

    async def wait(self, count: int) -> list[dict[str, Any]]:
        await eventually(lambda: len(self.received) >= count)
        return self.received

    def parts(self, part: str) -> list[dict[str, Any]]:
        return [message for message in self.received if message.get("part") == part]


@pytest.fixture
async def trusting(config: HostConfig) -> AsyncIterator[Host]:
    logs.configure("info", structured=True)
    async with Host(replace(config, trusted_issuers=frozenset({actors.ACCOUNT.public}))) as host:
        yield host
    structlog.reset_defaults()


@pytest.fixture
def start(trusting: Host, tmp_path: Path) -> Callable[..., Any]:
    async def launch(wat: str, **claims: Any) -> str:
        name = f"{KeyPair.generate(Role.MODULE).public}.wasm"
        return await trusting.actors.launch(actors.write(tmp_path, actors.signed(wat, **claims), name))

    return launch


@pytest.fixture
def rpc(trusting: Host, client: Connection) -> RpcClient:
    signer = Signer(trusting.identity.cluster, trusting.host_id)
    return RpcClient(client, trusting.config.lattice, signer)


async def call(rpc: RpcClient, actor: str, msg: bytes = b"") -> bytes:
    return await rpc.call(origin=CLIENT, target=Entity.actor(actor), operation="Test.Call", msg=msg, timeout=10)


async def test_the_last_lines_come_first_then_new_ones_until_the_lease_ends(
    trusting: Host, client: Connection, start: Callable[..., Any]
) -> None:
    subject = subjects.Control(trusting.config.lattice).observe_logs()
    actor = await start(actors.ECHO)
    inbox, once = await Inbox.open(client), await Inbox.open(client)
    inbox.ask(subject, key=actor, lease_ms=60_000, lines=1)
    once.ask(subject, key=actor, lines=10)
    answer = (await inbox.wait(1))[0]
    assert (answer["host_id"], answer["more"], answer["live"]) == (trusting.host_id, False, False)
    assert [line["text"] for line in answer["lines"]] == ["actor.started"]
    assert answer["lines"][0]["source"] == "host"

    log = structlog.get_logger()
    log.info("guest.log", actor=actor, text="one")
    log.info("guest.log", actor="M" + "A" * 55, text="of another")
    await asyncio.to_thread(lambda: log.warning("guest.log", actor=actor, text="two"))
    await eventually(lambda: sum(len(message["lines"]) for message in inbox.received) >= 3)
    told = [line for message in inbox.received[1:] for line in message["lines"]]
    assert [(line["source"], line["level"], line["text"]) for line in told] == [
        ("guest", "info", "one"),
        ("guest", "warning", "two"),
    ]
    assert all(message["live"] for message in inbox.received[1:])

    inbox.ask(subject, key=actor, lease_ms=0)
    count = len(inbox.received) + 1
    await inbox.wait(count)
    log.info("guest.log", actor=actor, text="three")
    await asyncio.sleep(0.2)
    assert len(inbox.received) == count
    assert len(once.received) == 1


async def test_calls_are_mirrored_to_the_spy_s_inbox_only_while_its_lease_lasts(
    trusting: Host, client: Connection, start: Callable[..., Any], rpc: RpcClient
) -> None:
    subject = subjects.Control(trusting.config.lattice).observe_calls()
    echo = await start(actors.ECHO)
    asking = await start(actors.caller(namespace=echo, operation="Test.Inner"))
    on_echo, on_asking = await Inbox.open(client), await Inbox.open(client)
    on_echo.ask(subject, key=echo, lease_ms=60_000)
    on_asking.ask(subject, key=asking, lease_ms=1_500)
    assert (await on_echo.wait(1))[0]["part"] == (await on_asking.wait(1))[0]["part"] == "watching"

    assert await call(rpc, asking, b"hi") == b"hi"
    await on_echo.wait(3)
    await on_asking.wait(5)
    (inner,), (answer,) = on_echo.parts("request"), on_echo.parts("reply")
    assert (inner["route"], inner["operation"], inner["msg"], inner["size"]) == ("local", "Test.Inner", "aGk=", 2)
    assert (inner["origin"]["public_key"], inner["target"]["public_key"]) == (asking, echo)
    assert (answer["call"], answer["msg"], answer["error"]) == (inner["call"], "aGk=", None)
    assert [(r["route"], r["operation"], r["origin"]["public_key"]) for r in on_asking.parts("request")] == [
        ("nats", "Test.Call", CLIENT.public_key),
        ("local", "Test.Inner", asking),
    ]
    outer, inside = on_asking.parts("request")
    assert [reply["call"] for reply in on_asking.parts("reply")] == [inside["call"], outer["call"]]
    assert outer["invocation_id"] == inside["invocation_id"]

    await asyncio.sleep(1.6)  # the shorter lease has run out by now
    await call(rpc, asking)
    await on_echo.wait(5)
    assert len(on_asking.received) == 5


async def test_payloads_that_went_through_the_object_store_are_mirrored_with_their_beginning(
    trusting: Host, client: Connection, start: Callable[..., Any]
) -> None:
    lattice = trusting.config.lattice
    echo = await start(actors.ECHO)
    asking = await start(actors.caller(namespace=echo, operation="Test.Inner"))
    inbox = await Inbox.open(client)
    inbox.ask(subjects.Control(lattice).observe_calls(), key=asking, lease_ms=60_000)
    await inbox.wait(1)
    payload = wire.pack({"method": "POST", "path": "/large", "body": b"x" * 2_000_000})
    chunks = Chunks(client, lattice)
    sound, foreign = (
        RpcClient(client, lattice, Signer(cluster, trusting.host_id), chunks)
        for cluster in (trusting.identity.cluster, KeyPair.generate(Role.CLUSTER))
    )
    assert await call(sound, asking, payload) == payload
    with pytest.raises(RemoteError, match="Anti-forgery"):
        await call(foreign, asking, payload)
    await inbox.wait(7)
    beginning = base64.b64encode(payload[:MOST_MIRRORED]).decode()
    outer, inner, refused = inbox.parts("request")
    assert [(part["msg"], part["size"]) for part in (outer, inner, *inbox.parts("reply")[:2])] == [
        (beginning, len(payload))
    ] * 4
    assert (outer["operation"], inner["operation"]) == ("Test.Call", "Test.Inner")
    assert outer["time_us"] < inner["time_us"]
    assert (refused["msg"], refused["size"]) == ("", len(payload)), "refused unread"
    assert inbox.parts("reply")[2]["call"] == refused["call"]
    await chunks.close()


async def test_what_is_refused_or_fails_is_mirrored_with_its_reason(
    trusting: Host, client: Connection, start: Callable[..., Any]
) -> None:
    subject = subjects.Control(trusting.config.lattice).observe_calls()
    refusing = await start(actors.REFUSING)
    inbox = await Inbox.open(client)
    inbox.ask(subject, key=refusing, lease_ms=60_000)
    await inbox.wait(1)
    foreign = Signer(KeyPair.generate(Role.CLUSTER), trusting.host_id)
    for signer in (foreign, Signer(trusting.identity.cluster, trusting.host_id)):
        with pytest.raises(Exception, match=r"Anti-forgery|not today"):
            await call(RpcClient(client, trusting.config.lattice, signer), refusing)
    await inbox.wait(5)
    assert [reply["code"] for reply in inbox.parts("reply")] == ["not_authorized", "guest_error"]


async def test_a_bad_request_is_refused_and_one_without_an_inbox_ignored(host: Host, client: Connection) -> None:
    control = subjects.Control(host.config.lattice)
    for subject in (control.observe_logs(), control.observe_calls()):
        inbox = await Inbox.open(client)
        for body in (b"", b"{", b"[]", b'{"key":"x"}', b'{"key":7}', b"\x81\xa3key\x90", b'{"key":"M","lease_ms":-1}'):
            client.publish(subject, body, reply=inbox.subject)
        await eventually(lambda inbox=inbox: len(inbox.received) >= 6)  # type: ignore[misc]
        assert all(message["accepted"] is False and message["error"] for message in inbox.received)

    heard: list[bytes] = []
    module = KeyPair.generate(Role.MODULE).public
    await client.subscribe("somewhere.else", lambda subject, reply, headers, payload: heard.append(payload))
    client.publish(control.observe_logs(), json.dumps({"key": module}).encode(), reply="somewhere.else")
    client.publish(control.observe_logs(), json.dumps({"key": module}).encode())
    inbox.ask(control.observe_logs(), key=module)
    await inbox.wait(len(inbox.received) + 1)
    assert not heard


async def test_events_of_the_past_are_told_by_whoever_heard_them(
    trusting: Host, client: Connection, start: Callable[..., Any]
) -> None:
    lattice = trusting.config.lattice
    client.publish(subjects.events(lattice), cloudevents.encode("host_stopped", "N" + "A" * 55, {"labels": {}}))
    client.publish(subjects.events(lattice), b"not an event")
    await start(actors.ECHO)
    inbox = await Inbox.open(client)

    async def told(age_ms: int) -> list[str]:
        inbox.received.clear()
        inbox.ask(subjects.Control(lattice).observe_events(), age_ms=age_ms)
        (answer,) = await inbox.wait(1)
        assert (answer["host_id"], answer["more"]) == (trusting.host_id, False)
        return [event["type"].rpartition(".")[2] for event in answer["events"]]

    async with asyncio.timeout(10):
        while not {"host_stopped", "actors_started"} <= set(await told(60_000)):
            pass
    assert await told(0) == []
