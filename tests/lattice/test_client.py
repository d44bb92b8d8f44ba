"""The control client against a stand-in host: subscriptions that answer with the documents of the real one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from lattice import cloudevents, subjects
from lattice.client import ControlClient
from lattice.connection import Connection, ConnectOptions, connect
from lattice.control import (
    Ack,
    Encoding,
    HostPing,
    Inventory,
    LaunchActor,
    ScaleActor,
    StartProvider,
    StopActor,
    StopHost,
    StopProvider,
    decode_body,
    encode_reply,
)
from lattice.errors import Code, MalformedMessage, RemoteError, Unreachable
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.transport import Headers
from tests.support.nats import NatsServer

HOST = KeyPair.generate(Role.HOST).public
ACTOR = KeyPair.generate(Role.MODULE).public
PROVIDER = KeyPair.generate(Role.SERVICE).public
LINK = LinkDefinition(
    actor_id=ACTOR, provider_id=PROVIDER, link_name="default", contract_id="wasmcloud:keyvalue", values={"a": "b"}
)


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    yield connection
    await connection.close()


@pytest.fixture
def client(connection: Connection, lattice: str) -> ControlClient:
    return ControlClient(connection, lattice, timeout=1.0)


class Host:
    """Answers every request below the control root with one document; keeps the requests."""

    def __init__(self, connection: Connection, answer: dict[str, Any], encoding: Encoding | None = None) -> None:
        self.requests: list[tuple[str, object, Encoding]] = []
        self.answer = answer
        self._connection = connection
        self._encoding = encoding

    async def serve(self, lattice: str) -> Host:
        await self._connection.subscribe(f"wasmbus.ctl.{lattice}.>", self._on_request)
        return self

    def _on_request(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        body, encoding = decode_body(payload, headers)
        self.requests.append((subject, body, encoding))
        self._connection.publish(reply, encode_reply(self.answer, self._encoding or encoding))


@pytest.mark.parametrize("encoding", [None, Encoding.JSON], ids=["msgpack", "json"])
async def test_queries_read_answers_in_either_encoding(
    connection: Connection, client: ControlClient, lattice: str, encoding: Encoding | None
) -> None:
    host = await Host(connection, HostPing(id=HOST, friendly_name="quiet-river").to_dict(), encoding).serve(lattice)
    assert [(found.id, found.friendly_name) for found in await client.ping_hosts(0.2)] == [(HOST, "quiet-river")]
    host.answer = Inventory(host_id=HOST, labels={"a": "b"}).to_dict()
    assert (await client.inventory(HOST)).labels == {"a": "b"}
    host.answer = {"claims": [{"sub": ACTOR, "rev": 3, "version": None}]}
    assert await client.claims() == [{"sub": ACTOR, "rev": "3", "version": ""}]
    host.answer = {"links": [LINK.to_json()]}
    assert await client.links() == [LINK]
    root = f"wasmbus.ctl.{lattice}"
    asked = [f"{root}.ping.hosts", f"{root}.get.{HOST}.inv", f"{root}.get.claims", f"{root}.get.links"]
    assert host.requests == [(subject, {}, Encoding.MSGPACK) for subject in asked]


async def test_commands_carry_their_documents(connection: Connection, client: ControlClient, lattice: str) -> None:
    host = await Host(connection, Ack().to_dict()).serve(lattice)
    await client.launch_actor(HOST, "file:///a.wasm", 3, {"k": "v"})
    await client.stop_actor(HOST, ACTOR, 2)
    await client.scale_actor(HOST, "file:///a.wasm", actor_id=ACTOR, count=None)
    await client.start_provider(HOST, "bundled:keyvalue", "fast", '{"x":1}')
    await client.stop_provider(HOST, PROVIDER, link_name="fast", contract_id="wasmcloud:keyvalue")
    await client.stop_host(HOST, timeout=1.5)
    await client.put_link(LINK)
    await client.del_link(LINK)
    command = f"wasmbus.ctl.{lattice}.cmd.{HOST}"
    documents: list[tuple[str, Any]] = [
        (f"{command}.la", LaunchActor(actor_ref="file:///a.wasm", host_id=HOST, count=3, annotations={"k": "v"})),
        (f"{command}.sa", StopActor(actor_ref=ACTOR, host_id=HOST, count=2)),
        (f"{command}.scale", ScaleActor(actor_ref="file:///a.wasm", actor_id=ACTOR, host_id=HOST, count=None)),
        (
            f"{command}.lp",
            StartProvider(provider_ref="bundled:keyvalue", host_id=HOST, link_name="fast", configuration='{"x":1}'),
        ),
        (
            f"{command}.sp",
            StopProvider(provider_ref=PROVIDER, link_name="fast", contract_id="wasmcloud:keyvalue", host_id=HOST),
        ),
        (f"{command}.stop", StopHost(host_id=HOST, timeout=1.5)),
    ]
    assert host.requests[:6] == [(subject, document.to_dict(), Encoding.MSGPACK) for subject, document in documents]
    assert [(subject.rpartition(".")[2], body) for subject, body, _ in host.requests[6:]] == [
        ("put", LINK.to_json()),
        ("del", LINK.to_json()),
    ]


async def test_a_refusal_has_the_text_and_code_of_the_host(
    connection: Connection, client: ControlClient, lattice: str
) -> None:
    host = await Host(connection, Ack(False, "already running", Code.CONFLICT).to_dict()).serve(lattice)
    with pytest.raises(RemoteError, match="already running") as caught:
        await client.launch_actor(HOST, "x")
    assert caught.value.code is Code.CONFLICT
    for answer in ({"accepted": False, "error": "no"}, {"accepted": False, "error": "no", "code": "unheard-of"}):
        host.answer = answer
        with pytest.raises(RemoteError, match="no") as caught:
            await client.put_link(LINK)
        assert caught.value.code is Code.PROVIDER_ERROR
    host.answer = {"accepted": False, "error": ""}
    with pytest.raises(RemoteError, match="refused without a reason"):
        await client.stop_host(HOST)


async def test_answers_of_the_wrong_shape_are_malformed(
    connection: Connection, client: ControlClient, lattice: str
) -> None:
    host = await Host(connection, {"links": "none"}).serve(lattice)
    with pytest.raises(MalformedMessage, match="not a list"):
        await client.links()
    with pytest.raises(MalformedMessage):
        await client.inventory(HOST)
    with capture_logs() as logs:
        assert await client.ping_hosts(0.2) == []
    assert [entry["event"] for entry in logs] == ["control.answer_malformed"]
    assert len(host.requests) == 3


async def test_nobody_there_is_said_at_once(client: ControlClient) -> None:
    async with asyncio.timeout(0.9):
        assert await client.ping_hosts(30) == []
        with pytest.raises(Unreachable) as caught:
            await client.inventory(HOST)
    assert caught.value.code is Code.NO_RESPONDERS


async def test_a_host_key_that_would_change_the_subject_is_refused(client: ControlClient) -> None:
    with pytest.raises(MalformedMessage):
        await client.stop_host("N.>")


async def test_events_are_followed_from_the_moment_of_entry(
    connection: Connection, client: ControlClient, lattice: str
) -> None:
    def publish(number: int) -> None:
        connection.publish(
            subjects.events(lattice), cloudevents.encode("linkdef_set", HOST, LINK.to_json() | {"n": number})
        )

    with capture_logs() as logs:
        async with client.events() as stream, asyncio.timeout(5):
            publish(1)
            connection.publish(subjects.events(lattice), b"garbage")
            publish(2)
            first, second = await anext(stream), await anext(stream)
        assert (first.name, first.source, first.data["n"], second.data["n"]) == ("linkdef_set", HOST, 1, 2)
    assert [entry["event"] for entry in logs] == ["control.event_malformed"]
    publish(3)
    await connection.flush()
