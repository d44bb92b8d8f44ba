"""Calls over a real server: a transport subscription that answers is the serving side."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lattice import antiforgery, rpc, subjects
from lattice.antiforgery import Signer
from lattice.chunks import MAX_MSG, Chunks
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import (
    Code,
    GuestError,
    LatticeError,
    MalformedMessage,
    Overloaded,
    RemoteError,
    TooLarge,
    Unreachable,
)
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.rpc import DEADLINE_HEADER, RpcClient, remaining
from lattice.transport import Headers
from tests.support.nats import NatsServer
from tests.support.storing import Storing

ACTOR = Entity.actor(KeyPair.generate(Role.MODULE).public)
PROVIDER = Entity.provider(KeyPair.generate(Role.SERVICE).public, "wasmcloud:keyvalue", "default")


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    yield connection
    await connection.close()


@pytest.fixture
def client(connection: Connection, lattice: str) -> RpcClient:
    key = KeyPair.generate(Role.CLUSTER)
    return RpcClient(connection, lattice, Signer(key, KeyPair.generate(Role.HOST).public))


class Serving:
    """Answers calls with what ``answer`` makes of the invocation, and keeps what it was asked."""

    def __init__(self, connection: Connection, answer: Callable[[Invocation], bytes | InvocationResponse]) -> None:
        self.asked: list[tuple[Invocation, Headers]] = []
        self._connection = connection
        self._answer = answer

    def __call__(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation = Invocation.decode(payload)
        self.asked.append((invocation, headers))
        answer = self._answer(invocation)
        if isinstance(answer, bytes):
            self._connection.publish(reply, answer)
        else:
            rpc.respond(self._connection, reply, answer)


def echo(invocation: Invocation) -> InvocationResponse:
    return InvocationResponse(msg=invocation.msg, invocation_id=invocation.id)


async def call(client: RpcClient, msg: bytes = b"x", *, target: Entity = ACTOR, timeout: float = 2.0) -> bytes:
    return await client.call(origin=PROVIDER, target=target, operation="Echo.Call", msg=msg, timeout=timeout)


async def test_a_call_reaches_actor_and_provider_signed_and_with_its_deadline(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    serving = Serving(connection, echo)
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    await connection.subscribe(subjects.provider_rpc(lattice, PROVIDER.public_key, "default"), serving)
    assert await call(client, b"\x00\xff", timeout=1.5) == b"\x00\xff"
    assert await call(client, b"", target=PROVIDER) == b""
    (first, headers), (second, _) = serving.asked
    assert headers == {DEADLINE_HEADER: "1500"}
    assert (first.origin, first.target, first.operation) == (PROVIDER, ACTOR, "Echo.Call")
    assert first.encoded_claims.count(".") == 2
    assert first.content_length == 2
    assert second.target == PROVIDER
    assert first.id != second.id


@pytest.mark.parametrize(
    ("sent", "kind", "code", "text"),
    [
        (GuestError("the actor says no"), RemoteError, Code.GUEST_ERROR, "the actor says no"),
        (Overloaded("busy", retry_after=0.25), Overloaded, Code.OVERLOADED, "busy"),
        (LatticeError("gone", code=Code.NOT_RUNNING), RemoteError, Code.NOT_RUNNING, "gone"),
        (ValueError("secret detail"), RemoteError, Code.INTERNAL, "internal error (invocation"),
    ],
)
async def test_an_error_arrives_with_its_text_and_code(
    connection: Connection,
    client: RpcClient,
    lattice: str,
    *,
    sent: Exception,
    kind: type[LatticeError],
    code: Code,
    text: str,
) -> None:
    serving = Serving(connection, lambda invocation: rpc.failure(invocation.id, sent))
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    with pytest.raises(kind) as caught:
        await call(client)
    assert caught.value.code is code
    assert str(caught.value).startswith(text)
    assert "secret" not in str(caught.value)
    if isinstance(caught.value, Overloaded):
        assert caught.value.retry_after == 0.25


async def test_an_error_of_a_classic_peer_is_a_remote_error(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    answers = iter(
        [
            b"\x82\xa3msg\x90\xa5error\xa4boom",  # Elixir: msg is an empty array, no id
            InvocationResponse(invocation_id="UNKNOWN", error="cannot read", code="a-word-of-tomorrow").encode(),
        ]
    )
    await connection.subscribe(
        subjects.actor_rpc(lattice, ACTOR.public_key), Serving(connection, lambda _: next(answers))
    )
    for text in ("boom", "cannot read"):
        with pytest.raises(RemoteError, match=text) as caught:
            await call(client)
        assert caught.value.code is Code.PROVIDER_ERROR


async def test_an_answer_to_another_call_and_garbage_are_malformed(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    answers = iter([InvocationResponse(msg=b"x", invocation_id="another").encode(), b"", b"\xc1", b"\x00" * 50])
    await connection.subscribe(
        subjects.actor_rpc(lattice, ACTOR.public_key), Serving(connection, lambda _: next(answers))
    )
    for _ in range(4):
        with pytest.raises(MalformedMessage):
            await call(client)


async def test_a_classic_answer_without_id_and_length_is_accepted(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    serving = Serving(connection, lambda _: b"\x81\xa3msg\xc4\x02ok")
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    assert await call(client) == b"ok"


async def test_no_responders_and_no_time_are_told_apart(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    with pytest.raises(Unreachable) as caught:
        await call(client)
    assert caught.value.code is Code.NO_RESPONDERS
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), lambda *_: None)
    with pytest.raises(Unreachable) as caught:
        await call(client, timeout=0.05)
    assert caught.value.code is Code.TIMED_OUT
    with pytest.raises(Unreachable) as caught:
        await call(client, timeout=0)
    assert caught.value.code is Code.TIMED_OUT


@pytest.fixture
async def chunks(connection: Connection, lattice: str) -> AsyncIterator[Chunks]:
    chunks = Chunks(connection, lattice)
    yield chunks
    await chunks.close()


@pytest.fixture
def large_client(connection: Connection, lattice: str, chunks: Chunks) -> RpcClient:
    key = KeyPair.generate(Role.CLUSTER)
    return RpcClient(connection, lattice, Signer(key, KeyPair.generate(Role.HOST).public), chunks)


async def in_store(connection: Connection, lattice: str) -> int:
    """Messages in the object store of the lattice."""
    reply = await connection.request(f"$JS.API.STREAM.INFO.OBJ_{lattice}", b"", timeout=5)
    return int(json.loads(reply.payload)["state"]["messages"])


async def test_payloads_a_byte_either_side_of_the_threshold(
    connection: Connection, large_client: RpcClient, lattice: str, chunks: Chunks
) -> None:
    serving = Storing(connection, chunks)
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    for size in (MAX_MSG, MAX_MSG + 1):
        payload = os.urandom(size)
        assert await call(large_client, payload, timeout=2.0) == payload
    (whole, headers), (chunked, more) = serving.asked
    assert (len(whole.msg), whole.content_length) == (MAX_MSG, MAX_MSG)
    assert (chunked.msg, chunked.content_length) == (b"", MAX_MSG + 1)
    # The hash in the token is that of all bytes; the classic libraries wait 13 s longer.
    claims = antiforgery.parse(chunked.encoded_claims)
    assert claims.hash == antiforgery.invocation_hash(PROVIDER.url, f"{ACTOR.url}/Echo.Call", "Echo.Call", payload)
    assert headers == {DEADLINE_HEADER: "2000"}
    assert more is not None and 10_000 < int(more[DEADLINE_HEADER]) <= 15_000
    await chunks.close()
    assert await in_store(connection, lattice) == 0


async def test_many_megabytes_go_and_come_back_several_at_a_time(
    connection: Connection, large_client: RpcClient, lattice: str, chunks: Chunks
) -> None:
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), Storing(connection, chunks))
    payloads = [os.urandom(8 * 1024 * 1024), *(os.urandom(1_000_000 + number) for number in range(8))]
    assert await asyncio.gather(*(call(large_client, payload) for payload in payloads)) == payloads
    await chunks.close()
    assert await in_store(connection, lattice) == 0


async def test_the_time_of_somebody_else_is_not_exceeded(
    connection: Connection, large_client: RpcClient, lattice: str, chunks: Chunks
) -> None:
    serving = Storing(connection, chunks)
    serving.seconds = 5
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    with pytest.raises(Unreachable) as caught:
        await large_client.call(
            origin=PROVIDER, target=ACTOR, operation="E.C", msg=bytes(MAX_MSG + 1), timeout=0.5, strict=True
        )
    assert caught.value.code is Code.TIMED_OUT
    ((_, headers),) = serving.asked
    assert headers is not None and int(headers[DEADLINE_HEADER]) <= 500


@pytest.mark.parametrize("reason", ["nobody there", "an error", "cancelled"])
async def test_an_argument_that_nobody_read_does_not_stay(
    connection: Connection, large_client: RpcClient, lattice: str, chunks: Chunks, reason: str
) -> None:
    arrived = asyncio.Event()

    def on_message(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        arrived.set()
        if reason == "an error":
            answer = rpc.failure(Invocation.decode(payload).id, LatticeError("no", code=Code.TOO_LARGE))
            rpc.respond(connection, reply, answer)

    if reason != "nobody there":
        await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), on_message)
    task = asyncio.create_task(call(large_client, bytes(MAX_MSG + 1)))
    if reason == "cancelled":
        await arrived.wait()
        task.cancel()
    with pytest.raises((LatticeError, asyncio.CancelledError)) as caught:
        await task
    if isinstance(caught.value, LatticeError):
        assert caught.value.invocation_id
    await chunks.close()
    assert await in_store(connection, lattice) == 0


async def test_an_answer_above_the_limit_is_not_even_read(
    connection: Connection, large_client: RpcClient, lattice: str, chunks: Chunks
) -> None:
    await connection.subscribe(
        subjects.actor_rpc(lattice, ACTOR.public_key), Storing(connection, chunks, size=MAX_MSG + 1)
    )
    with pytest.raises(RemoteError, match=f"has {MAX_MSG + 1} bytes; at most 1000 are taken") as caught:
        await large_client.call(origin=PROVIDER, target=ACTOR, operation="E.C", msg=b"", timeout=2, max_reply=1000)
    assert caught.value.code is Code.REPLY_TOO_LARGE
    await chunks.close()
    assert await in_store(connection, lattice) == 0


async def test_an_answer_that_is_not_in_the_store_is_named(
    connection: Connection, large_client: RpcClient, lattice: str
) -> None:
    serving = Serving(connection, lambda i: InvocationResponse(invocation_id=i.id, content_length=MAX_MSG * 2).encode())
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    with pytest.raises(LatticeError, match=r"the answer to Echo.Call, 1843200 bytes, is not in the object") as caught:
        await call(large_client)
    assert caught.value.code is Code.NOT_FOUND
    assert caught.value.invocation_id == serving.asked[0][0].id


async def test_an_answer_that_cannot_be_stored_becomes_an_error(tmp_path: Path, lattice: str) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    connection = await connect(ConnectOptions(url=server.url))
    chunks = Chunks(connection, lattice)
    try:
        await connection.subscribe(
            subjects.actor_rpc(lattice, ACTOR.public_key), Storing(connection, chunks, size=MAX_MSG + 1)
        )
        client = RpcClient(connection, lattice, Signer(KeyPair.generate(Role.CLUSTER), "N"), chunks)
        with pytest.raises(RemoteError, match=r"the answer to Echo.Call has 921601 bytes, and .* -js") as caught:
            await call(client)
        assert caught.value.code is Code.REPLY_TOO_LARGE
        with pytest.raises(TooLarge, match=r"the argument of Echo.Call has 921601 bytes, and .* -js"):
            await call(client, bytes(MAX_MSG + 1))
    finally:
        await chunks.close()
        await connection.close()
        server.stop()


async def test_a_client_without_a_store_refuses_large_payloads(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    serving = Serving(connection, lambda i: InvocationResponse(invocation_id=i.id, content_length=MAX_MSG * 2).encode())
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), serving)
    with pytest.raises(TooLarge, match=f"has {MAX_MSG + 1} bytes"):
        await call(client, bytes(MAX_MSG + 1))
    with pytest.raises(RemoteError, match="has 1843200 bytes") as caught:
        await call(client)
    assert caught.value.code is Code.REPLY_TOO_LARGE


async def test_no_answer_goes_to_a_subject_that_is_no_inbox(connection: Connection, lattice: str) -> None:
    seen: list[bytes] = []
    control = subjects.Control(lattice).linkdefs_put()
    await connection.subscribe(control, lambda s, r, h, payload: seen.append(payload))
    with capture_logs() as logs:
        rpc.respond(connection, control, InvocationResponse(msg=b"x", invocation_id="1"))
        rpc.respond(connection, "", InvocationResponse(msg=b"x", invocation_id="1"))
    await connection.flush()
    await connection.flush()
    assert seen == []
    assert [(entry["event"], entry["reply"]) for entry in logs] == [("security.reply_refused", control)]


async def test_answering_on_a_closed_connection_is_only_logged(nats_server: NatsServer) -> None:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test"))
    await connection.close()
    with capture_logs() as logs:
        rpc.respond(connection, "_INBOX.x", InvocationResponse(msg=b"x", invocation_id="1"))
    assert [entry["event"] for entry in logs] == ["call.answer_lost"]


async def test_many_calls_in_flight_get_their_own_answers(
    connection: Connection, client: RpcClient, lattice: str
) -> None:
    await connection.subscribe(subjects.actor_rpc(lattice, ACTOR.public_key), Serving(connection, echo))
    numbers = [b"%d" % number for number in range(500)]
    assert await asyncio.gather(*(call(client, number, timeout=10) for number in numbers)) == numbers


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (None, 2.0),
        ({}, 2.0),
        ({DEADLINE_HEADER: "1500"}, 1.5),
        ({DEADLINE_HEADER: "0"}, 0.0),
        ({DEADLINE_HEADER: "-5"}, 2.0),
        ({DEADLINE_HEADER: "soon"}, 2.0),
        ({DEADLINE_HEADER: "²"}, 2.0),
        ({DEADLINE_HEADER: "9" * 5000}, 2.0),
        ({DEADLINE_HEADER.lower(): "5"}, 2.0),
    ],
)
def test_the_remaining_time_is_read_with_distrust(headers: Headers, expected: float) -> None:
    assert remaining(headers, 2.0) == expected
