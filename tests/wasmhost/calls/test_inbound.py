"""Calls that arrive on an actor's subject: answered, or refused with nothing executed."""

from __future__ import annotations

import asyncio
import os
import random
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lattice import subjects
from lattice.antiforgery import Signer
from lattice.chunks import MAX_MSG
from lattice.errors import Code, LatticeError, RemoteError, TooLarge
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role, derive
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.waiting import eventually
from tests.wasmhost.datapath import CLUSTER, HOST, DataPath, Provider, data_path
from wasmhost.guest.calls import Limits


async def executed(path: DataPath, actor: str) -> int:
    """How many calls the counting actor has run, this question included."""
    return int.from_bytes((await path.call(actor)).msg, "little")


async def test_a_signed_call_is_answered_with_the_reply_of_the_guest(path: DataPath) -> None:
    actor = await path.launch(actors.ECHO)
    for msg in (b"", b"\x93\x01\x02\x03", b"x" * 500_000):
        response = await path.call(actor, msg)
        assert (response.error, response.msg, response.content_length) == (None, msg, len(msg))


@pytest.mark.parametrize("sent", ["string", "array"])
async def test_an_argument_may_come_as_a_string_or_an_array_of_bytes(path: DataPath, sent: str) -> None:
    actor = await path.launch(actors.ECHO)
    msg = b"\x7f\xff\xfe"
    call = path.sign(actor, msg)
    as_bin, as_other = (
        b"\xa3msg\xc4\x03" + msg,
        b"\xa3msg" + (b"\xa3" + msg if sent == "string" else b"\x93\x7f\xcc\xff\xcc\xfe"),
    )
    payload = call.encode().replace(as_bin, as_other)
    assert as_other in payload
    reply = await path.peer.request(subjects.actor_rpc(path.lattice, actor), payload, timeout=5)
    response = InvocationResponse.decode(reply.payload)
    assert (response.error, response.msg) == (None, msg)


async def test_hundreds_of_calls_at_once_on_one_instance_are_all_answered(path: DataPath) -> None:
    actor = await path.launch(actors.ECHO)
    answers = await asyncio.gather(*(path.call(actor, b"%d" % number) for number in range(300)))
    assert [answer.msg for answer in answers] == [b"%d" % number for number in range(300)]


REFUSED = {
    "foreign issuer": "Issuer of this invocation is not among the list of valid issuers",
    "wrong hash": "Invocation hash does not match signed claims hash",
    "other operation": "Invocation claims and invocation target URL do not match",
    "other target": "is not M",
    "other origin": "Invocation claims and invocation origin URL do not match",
    "too old": "is too old: issued 30",
    "expired": "Invocation claims token expired",
    "from the future": "in the future",
    "forged signature": "Invocation claims signature invalid",
    "no token": "",
}


@pytest.mark.parametrize("case", REFUSED)
async def test_an_invocation_that_cannot_be_trusted_is_refused_and_not_executed(path: DataPath, case: str) -> None:
    actor = await path.launch(actors.COUNTING)
    sound = path.sign(actor, b"hello")
    match case:
        case "foreign issuer":
            stranger = Signer(KeyPair.generate(Role.CLUSTER), HOST.public)
            bad = stranger.sign(origin=sound.origin, target=sound.target, operation="Test.Call", msg=b"hello")
        case "wrong hash":
            bad = replace(sound, msg=b"hellp")
        case "other operation":
            bad = replace(sound, operation="Test.Erase")
        case "other target":
            other = await path.launch(actors.ECHO)
            bad = path.sign(other, b"hello")
        case "other origin":
            bad = replace(sound, origin=Entity("somebody-else"))
        case "too old" | "expired" | "from the future":
            shift, life = {"too old": (-301, 900), "expired": (-20, 10), "from the future": (120, 300)}[case]
            signer = Signer(CLUSTER, HOST.public, lifetime=life, clock=lambda: time.time() + shift)
            bad = signer.sign(origin=sound.origin, target=sound.target, operation="Test.Call", msg=b"hello")
        case "forged signature":
            token, _, signature = sound.encoded_claims.rpartition(".")
            bad = replace(sound, encoded_claims=f"{token}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}")
        case _:
            bad = replace(sound, encoded_claims="")
    response = InvocationResponse.decode(await path.send(actor, bad.encode()))
    assert response.error is not None and response.error.startswith("Anti-forgery check failed: ")
    assert REFUSED[case] in response.error and response.msg == b""
    assert response.code in (Code.NOT_AUTHORIZED, Code.MALFORMED) and response.invocation_id == bad.id
    assert await executed(path, actor) == 1


async def test_an_invocation_is_executed_once_however_often_it_is_sent(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    invocation = path.sign(actor)
    first, second = await path.invoke(invocation), await path.invoke(invocation)
    assert first.error is None
    assert second.error is not None and "was replayed" in second.error and second.code == Code.NOT_AUTHORIZED
    assert await executed(path, actor) == 2


async def test_a_provider_may_call_only_actors_that_claim_its_contract(path: DataPath) -> None:
    contract = "wasmcloud:httpserver"
    provider = Entity.provider(KeyPair.generate(Role.SERVICE).public, contract, "default")
    granted = await path.launch(actors.ECHO, capabilities=[contract])
    bare = await path.launch(actors.COUNTING, capabilities=[""])
    assert (await path.invoke(path.sign(granted, b"x", origin=provider))).msg == b"x"
    refused = await path.invoke(path.sign(bare, b"x", origin=provider))
    assert refused.error is not None
    assert refused.error.startswith(f"Invocation source does not have the required capability claim {contract}")
    assert await executed(path, bare) == 1


async def test_a_providers_own_key_signs_for_that_provider_only(path: DataPath) -> None:
    key = KeyPair.generate(Role.SERVICE).public
    actor = await path.launch(actors.ECHO, capabilities=["a:b"])
    issuer = derive(CLUSTER, lattice=path.lattice, purpose="provider", subject=key, link_name="default")
    signer = Signer(issuer, HOST.public)

    async def call(origin: Entity) -> str | None:
        return (
            await path.invoke(signer.sign(origin=origin, target=Entity.actor(actor), operation="A.B", msg=b""))
        ).error

    assert await call(Entity.provider(key, "a:b", "default")) is None
    others = (
        Entity.provider(key, "a:b", "other"),
        Entity.provider(KeyPair.generate(Role.SERVICE).public, "a:b", "default"),
        Entity.actor(actor),
        Entity("client"),
    )
    for other in others:
        assert "not among the list of valid issuers" in (await call(other) or "")


@pytest.mark.parametrize("payload", [b"", b"\xc1", b"\x00" * 100, b"\x80", b"\x93\x01\x02\x03", b"not msgpack at all"])
async def test_garbage_gets_an_error_and_harms_nothing(path: DataPath, payload: bytes) -> None:
    actor = await path.launch(actors.ECHO)
    response = InvocationResponse.decode(await path.send(actor, payload))
    assert response.error is not None and response.error.startswith("Failed to deserialize invocation: ")
    assert (response.invocation_id, response.code) == ("UNKNOWN", Code.MALFORMED)
    assert (await path.call(actor, b"alive")).msg == b"alive"


async def test_a_reply_subject_that_is_no_inbox_gets_nothing_and_runs_nothing(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    heard: list[bytes] = []
    victim = f"wasmbus.ctl.{path.lattice}.ping.hosts"
    await path.peer.subscribe(victim, lambda subject, reply, headers, payload: heard.append(payload))
    path.peer.publish(subjects.actor_rpc(path.lattice, actor), path.sign(actor).encode(), reply=victim)
    assert await executed(path, actor) == 1
    await path.peer.flush()
    assert heard == []


async def test_what_the_actor_says_and_how_it_fails_reach_the_caller(path: DataPath) -> None:
    refusing, trapping = await path.launch(actors.REFUSING), await path.launch(actors.TRAPPING)
    said = await path.call(refusing)
    assert (said.error, said.code, said.msg) == ("not today", Code.GUEST_ERROR, b"")
    for _ in range(3):
        failed = await path.call(trapping)
        assert failed.error is not None and "unreachable" in failed.error and failed.code == Code.GUEST_FAILED


async def test_the_callers_deadline_ends_the_call(path: DataPath) -> None:
    actor = await path.launch(actors.SPINNING)
    started = time.monotonic()
    response = await path.call(actor, allow=0.3)
    assert 0.25 < time.monotonic() - started < 1.5
    assert response.code == Code.TIMED_OUT and response.error is not None and "0.3 s" in response.error


async def test_without_a_deadline_of_the_caller_the_configured_one_holds(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    async with data_path(nats_server.url, lattice, tmp_path, rpc_timeout=0.2) as path:
        actor = await path.launch(actors.SPINNING)
        started = time.monotonic()
        assert (await path.call(actor)).code == Code.TIMED_OUT
        assert time.monotonic() - started < 1.5


async def test_a_call_whose_caller_has_given_up_is_not_executed(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    late = await path.call(actor, allow=0)
    assert late.code == Code.TIMED_OUT and "given up" in (late.error or "")
    assert await executed(path, actor) == 1


async def test_a_full_queue_refuses_at_once_and_says_when_to_retry(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    async with data_path(nats_server.url, lattice, tmp_path, limits=Limits(queue_bytes=1)) as path:
        contract = "test:slow"
        actor = await path.launch(
            actors.caller(namespace=contract, operation="S.S", binding="default"), capabilities=[contract]
        )
        silent = await Provider.serve(path, contract, answering=False)
        path.link(actor, silent.key, contract)
        busy = asyncio.create_task(path.call(actor, allow=1.0))
        await eventually(lambda: silent.received)
        started = time.monotonic()
        refused = await path.call(actor, allow=1.0)
        assert time.monotonic() - started < 0.5
        assert refused.code == Code.OVERLOADED and refused.retry_after is not None and refused.retry_after > 0
        assert (await busy).code == Code.GUEST_ERROR


async def test_a_mutilated_invocation_never_silences_the_actor(path: DataPath) -> None:
    actor = await path.launch(actors.ECHO)
    chance = random.Random(3)
    for _ in range(300):
        payload = bytearray(path.sign(actor, b"argument").encode())
        for _ in range(chance.randint(1, 3)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        damaged = bytes(payload[: chance.choice([len(payload), chance.randrange(len(payload))])])
        answer = InvocationResponse.decode(await path.send(actor, damaged))
        assert answer.error is not None or answer.msg == b"argument"
    assert (await path.call(actor, b"alive")).msg == b"alive"


# --- payloads in the object store -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_MSG, MAX_MSG + 1, 8 * 1024 * 1024])
async def test_large_arguments_and_answers_go_through_the_object_store(path: DataPath, size: int) -> None:
    actor = await path.launch(actors.LARGE_ECHO)
    payload = os.urandom(size)
    assert await path.call_large(actor, payload) == payload
    if size > MAX_MSG:
        await eventually_empty(path)


async def eventually_empty(path: DataPath) -> None:
    """Wait until both readers have deleted what they read."""
    for _ in range(500):
        if not await path.in_store():
            return
        await asyncio.sleep(0.01)
    raise TimeoutError(await path.in_store())


async def test_many_large_calls_at_once_are_all_answered(path: DataPath) -> None:
    actor = await path.launch(actors.LARGE_ECHO, count=2)
    payloads = [os.urandom(1_000_000 + number) for number in range(12)]
    assert await asyncio.gather(*(path.call_large(actor, payload, timeout=20) for payload in payloads)) == payloads
    await eventually_empty(path)


async def stored(path: DataPath, actor: str, msg: bytes) -> Invocation:
    """A sound call whose argument is in the object store."""
    invocation = path.sign(actor, msg)
    await path.chunks.send(invocation.id, msg, what="it")
    return replace(invocation, msg=b"")


async def test_an_argument_that_was_changed_in_the_store_is_refused_and_not_executed(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    sound = path.sign(actor, b"x" * 1_000_000)
    await path.chunks.send(sound.id, b"x" * 999_999 + b"y", what="it")
    response = await path.invoke(replace(sound, msg=b""))
    assert response.code == Code.NOT_AUTHORIZED and response.error is not None
    assert response.error.startswith("Anti-forgery check failed: Invocation hash does not match signed claims hash")
    assert await executed(path, actor) == 1
    assert sound.id in await path.in_store(), "a refused call must not delete what may be another's"


async def test_nothing_is_fetched_for_a_stranger(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    fetched: list[str] = []
    await path.peer.subscribe(f"$JS.API.DIRECT.GET.OBJ_{path.lattice}.>", lambda s, r, h, p: fetched.append(s))
    sound = await stored(path, actor, b"x" * 1_000_000)
    stranger = Signer(KeyPair.generate(Role.CLUSTER), HOST.public)
    token, _, signature = sound.encoded_claims.rpartition(".")
    for bad, told in (
        (stranger.sign(origin=sound.origin, target=sound.target, operation="Test.Call", msg=b""), "valid issuers"),
        (replace(sound, encoded_claims=f"{token}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"), "signature"),
        (replace(sound, content_length=path.config.limits.request + 1), "is above this actor's limit of"),
    ):
        response = await path.invoke(replace(bad, content_length=bad.content_length or 1_000_000))
        assert told in (response.error or "")
    assert fetched == []
    assert (await path.invoke(sound)).error is None
    assert fetched, "what is subscribed to is what a sound call causes"
    assert await executed(path, actor) == 2


async def test_a_large_request_above_the_actors_limit_is_told_its_size(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    limits = Limits(request=1_000_000, reply=2_000_000)
    async with data_path(nats_server.url, lattice, tmp_path, limits=limits) as path:
        actor = await path.launch(actors.LARGE_ECHO)
        assert len(await path.call_large(actor, b"x" * 1_000_000)) == 1_000_000
        with pytest.raises(RemoteError, match=r"a request of 1000001 bytes is above .* limit of 1000000") as caught:
            await path.call_large(actor, b"x" * 1_000_001)
        assert caught.value.code is Code.TOO_LARGE
        await eventually_empty(path)


async def test_an_answer_above_the_actors_limit_is_not_the_callers_mistake(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    async with data_path(nats_server.url, lattice, tmp_path, limits=Limits(reply=999_999)) as path:
        actor = await path.launch(actors.LARGE_ECHO)
        with pytest.raises(RemoteError, match="answer of 1000000 bytes is above its limit of 999999") as caught:
            await path.call_large(actor, b"x" * 1_000_000)
        assert caught.value.code is Code.REPLY_TOO_LARGE


async def test_an_answer_whose_caller_gives_up_is_not_left_in_the_store(path: DataPath) -> None:
    actor = await path.launch(
        actors.module(
            """(func (export "__guest_call") (param i32 i32) (result i32)
            (call $response (i32.const 0) (i32.const 16000000))
            (i32.const 1))""",
            pages=400,
        )
    )
    assert len(await path.call_large(actor, b"")) == 16_000_000  # the next one finds all memory there
    answer = await path.invoke(path.sign(actor), allow=0.015)
    assert answer.code == Code.TIMED_OUT, answer
    await eventually(lambda: not path.registry.active_calls)
    async with asyncio.timeout(5):
        while await path.in_store():  # noqa: ASYNC110 a server is asked
            await asyncio.sleep(0.01)


async def test_a_chunked_call_is_executed_once_however_often_it_is_sent(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    sound = await stored(path, actor, b"x" * 1_000_000)
    answers = await asyncio.gather(*(path.invoke(sound) for _ in range(5)))
    assert sorted(answer.error is None for answer in answers) == [False] * 4 + [True]
    assert all("was replayed" in answer.error for answer in answers if answer.error)
    assert await executed(path, actor) == 2


async def test_an_announced_argument_that_is_not_there_is_named(path: DataPath) -> None:
    actor = await path.launch(actors.COUNTING)
    response = await path.invoke(replace(path.sign(actor, b"x" * 5_000_000), msg=b""))
    assert response.code == Code.NOT_FOUND
    assert "the argument of Test.Call, 5000000 bytes, is not in the object store" in (response.error or "")
    assert await executed(path, actor) == 1


async def test_an_argument_of_a_classic_peer_may_be_chunked_at_any_size(path: DataPath) -> None:
    """Elixir hosts chunk from 700 KiB on; what counts is that the length exceeds what came."""
    actor = await path.launch(actors.ECHO)
    assert (await path.invoke(await stored(path, actor, b"small enough"))).msg == b"small enough"


async def test_without_jetstream_large_payloads_are_refused_with_the_remedy(tmp_path: Path, lattice: str) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    try:
        async with data_path(server.url, lattice, tmp_path) as path:
            actor = await path.launch(actors.LARGE_ECHO)
            assert len(await path.call_large(actor, b"x" * MAX_MSG)) == MAX_MSG
            with pytest.raises(TooLarge, match=r"Test.Call has 921601 bytes, and more than 921600 .*with -js"):
                await path.call_large(actor, b"x" * (MAX_MSG + 1))
            response = await path.invoke(replace(path.sign(actor), content_length=1_000_000))
            assert response.error is not None and "JetStream is off" in response.error
    finally:
        server.stop()


async def test_large_calls_in_flight_are_answered_while_the_actor_stops(path: DataPath) -> None:
    actor = await path.launch(actors.LARGE_ECHO)
    fetching = asyncio.Event()
    sound = await stored(path, actor, os.urandom(4_000_000))
    await path.peer.subscribe(f"$JS.API.DIRECT.GET.OBJ_{path.lattice}.>", lambda *_: fetching.set())
    call = asyncio.create_task(path.invoke(sound))
    await fetching.wait()
    await path.registry.stop(actor)
    response = await call
    assert (response.error, response.content_length) == (None, 4_000_000)


async def test_calls_in_flight_are_answered_while_the_actor_stops(path: DataPath) -> None:
    contract = "test:slow"
    actor = await path.launch(
        actors.caller(namespace=contract, operation="S.S", binding="default"), capabilities=[contract]
    )
    arrived, release = asyncio.Event(), asyncio.Event()
    provider = KeyPair.generate(Role.SERVICE).public
    tasks = set()

    def on_message(subject: str, reply: str, headers: object, payload: bytes) -> None:
        async def answer() -> None:
            arrived.set()
            await release.wait()
            path.peer.publish(
                reply, InvocationResponse(msg=b"late", invocation_id=Invocation.decode(payload).id).encode()
            )

        tasks.add(asyncio.create_task(answer()))

    await path.peer.subscribe(subjects.provider_rpc(path.lattice, provider, "default"), on_message, queue="rpc")
    path.link(actor, provider, contract)
    call = asyncio.create_task(path.call(actor))
    await asyncio.wait_for(arrived.wait(), 5)
    stop = asyncio.create_task(path.registry.stop(actor))
    await asyncio.sleep(0.05)
    assert not stop.done()
    release.set()
    assert (await call).msg == b"late"
    await stop
    with pytest.raises(LatticeError) as caught:
        await path.call(actor)
    assert caught.value.code is Code.NO_RESPONDERS
