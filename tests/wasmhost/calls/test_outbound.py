"""What actors ask of the host: built-ins, providers, other actors; and the words they get when it fails."""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from lattice import antiforgery, subjects, wire
from lattice.chunks import MAX_MSG
from lattice.errors import Code
from lattice.keys import KeyPair, Role
from lattice.rpc import DEADLINE_HEADER
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.storing import Storing
from tests.support.waiting import eventually
from tests.wasmhost.datapath import CLUSTER, HOST, DataPath, Provider, data_path
from wasmhost.guest.calls import Limits

KV = "wasmcloud:keyvalue"
LOGGING = "wasmcloud:builtin:logging"
NUMBERGEN = "wasmcloud:builtin:numbergen"
TO_KV = actors.caller(namespace=KV, operation="KeyValue.Get", binding="default")


async def test_a_provider_gets_a_signed_call_with_less_time_than_the_actor_has(path: DataPath) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    provider = await Provider.serve(path, KV)
    path.link(actor, provider.key, KV)
    assert (await path.call(actor, b"key", allow=1.0)).msg == b"key"
    (received,), (headers,) = provider.received, provider.headers
    assert (received.origin.public_key, received.origin.contract_id, received.origin.link_name) == (actor, "", "")
    assert received.target.url == f"wasmbus://wasmcloud/keyvalue/default/{provider.key}"
    assert (received.operation, received.host_id) == ("KeyValue.Get", HOST.public)
    assert antiforgery.parse(received.encoded_claims).issuer == CLUSTER.public
    assert headers is not None and 700 < int(headers[DEADLINE_HEADER]) < 1000


async def test_arguments_and_answers_are_passed_untouched_whatever_their_form(path: DataPath) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    provider = await Provider.serve(path, KV)
    path.link(actor, provider.key, KV)
    forms = [b"\x7f\x82\x61a\x61b", b"\xc1\xa1k", b"\xa2\x61a\x01\x61b\x02", b"\x7f", b"\xc1", b"\x00\xff\xfe", b""]
    for msg in forms:
        assert (await path.call(actor, msg)).msg == msg
    assert [received.msg for received in provider.received] == forms


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"\x82\xa3msg\xa2\xff\xfe\xadinvocation_id\xa0", b"\xff\xfe"),  # Elixir hosts: a string of any bytes
        (b"\x81\xa3msg\x92\x01\xcc\xff", b"\x01\xff"),  # serde: an array of small integers
        (b"\x82\xa3msg\x90\xa5error\xa4gone", "gone"),  # Elixir hosts: an empty array beside an error
    ],
)
async def test_answers_with_a_string_or_an_array_of_bytes_are_understood(
    path: DataPath, answer: bytes, told: bytes | str
) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    provider = await Provider.serve(path, KV, answering=False)
    path.link(actor, provider.key, KV)
    asked = asyncio.create_task(path.call(actor))
    await eventually(lambda: bool(provider.replies))
    path.peer.publish(provider.replies[0], answer)
    response = await asked
    assert (response.error or response.msg) == told


async def test_a_provider_is_reached_only_with_claim_and_link(path: DataPath) -> None:
    provider = await Provider.serve(path, KV)
    unclaimed, unlinked = await path.launch(TO_KV), await path.launch(TO_KV, capabilities=[KV])
    path.link(unclaimed, provider.key, KV)
    without_claim = (await path.call(unclaimed)).error or ""
    assert without_claim.startswith(f"Invocation not authorized: missing capability claim for {KV}")
    without_link = (await path.call(unlinked)).error or ""
    assert without_link.startswith(f"Invocation not authorized: missing link definition for {KV} on {path.lattice}")
    assert f"wasmhost link put {unlinked}" in without_link
    path.link(unlinked, provider.key, KV, link_name="other")
    assert "missing link definition" in ((await path.call(unlinked)).error or "")
    assert provider.received == []


async def test_a_link_counts_from_the_next_call_on(path: DataPath) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    one, two = await Provider.serve(path, KV), await Provider.serve(path, KV)
    for provider in (one, two):
        path.link(actor, provider.key, KV)
        assert (await path.call(actor, b"x")).error is None
    assert (len(one.received), len(two.received)) == (1, 1)


async def test_an_absent_provider_is_named_at_once_with_contract_and_link(path: DataPath) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    gone = KeyPair.generate(Role.SERVICE).public
    path.link(actor, gone, KV)
    started = time.monotonic()
    error = (await path.call(actor)).error or ""
    assert time.monotonic() - started < 1
    assert error.startswith("Failed to perform RPC call: request timeout")
    assert KV in error and "'default'" in error and gone in error


async def test_a_silent_provider_is_told_before_the_callers_own_deadline(path: DataPath) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    provider = await Provider.serve(path, KV, answering=False)
    path.link(actor, provider.key, KV)
    response = await path.call(actor, allow=0.6)
    assert (response.error or "").startswith("Failed to perform RPC call: request timeout")
    assert response.code == Code.GUEST_ERROR


async def test_the_error_of_a_provider_reaches_the_actor_verbatim(path: DataPath) -> None:
    actor = await path.launch(TO_KV, capabilities=[KV])
    provider = await Provider.serve(path, KV, error="redis is on fire")
    path.link(actor, provider.key, KV)
    assert (await path.call(actor)).error == "redis is on fire"


@pytest.mark.parametrize("local", [True, False])
async def test_actors_call_each_other_by_key_and_by_alias(
    nats_server: NatsServer, lattice: str, tmp_path: Path, local: bool
) -> None:
    async with data_path(nats_server.url, lattice, tmp_path, local=local) as path:
        echo = await path.launch(actors.ECHO, call_alias="test/echo")
        by_key = await path.launch(actors.caller(namespace=echo, operation="E.E"))
        by_alias = await path.launch(actors.caller(namespace="test/echo", operation="E.E"))
        seen: list[bytes] = []
        subject = subjects.actor_rpc(lattice, echo)
        await path.peer.subscribe(subject, lambda subject, reply, headers, payload: seen.append(payload))
        with capture_logs() as logs:
            for caller in (by_key, by_alias):
                assert (await path.call(caller, b"ping")).msg == b"ping"
        await path.peer.flush()
        assert len(seen) == (0 if local else 2)
        called = [entry for entry in logs if entry["event"] == "call.finished" and entry["actor"] == echo]
        assert [(entry["route"], entry["origin"]) for entry in called] == [
            ("local" if local else "nats", caller) for caller in (by_key, by_alias)
        ]
        for entry in called:
            assert (entry["outcome"], entry["operation"], entry["request_bytes"]) == ("ok", "E.E", len(b"ping"))
            assert 0 <= entry["wait_s"] < 1 and 0 < entry["run_s"] < 1
        asked = [entry["route"] for entry in logs if entry["event"] == "host_call.finished"]
        assert asked == ([] if local else ["nats"] * 2), "a local call has one line, one over the lattice at each end"


async def test_an_actor_of_another_host_is_reached_over_the_lattice(
    path: DataPath, nats_server: NatsServer, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    async with data_path(nats_server.url, path.lattice, folder) as other:
        echo = await other.launch(actors.ECHO)
        caller = await path.launch(actors.caller(namespace=echo, operation="E.E"))
        assert (await path.call(caller, b"over there")).msg == b"over there"


async def test_the_error_of_a_called_actor_is_the_same_on_both_routes(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    texts = []
    for local in (True, False):
        folder = tmp_path / str(local)
        folder.mkdir()
        async with data_path(nats_server.url, lattice, folder, local=local) as path:
            refusing = await path.launch(actors.REFUSING)
            trapping = await path.launch(actors.TRAPPING)
            answers = []
            for target in (refusing, trapping):
                caller = await path.launch(actors.caller(namespace=target, operation="E.E"))
                answers.append((await path.call(caller)).error)
            texts.append(answers)
    assert texts[0] == texts[1] and texts[0][0] == "not today"


async def test_an_unknown_alias_is_refused_in_the_classic_words(path: DataPath) -> None:
    actor = await path.launch(actors.caller(namespace="nobody/here", operation="E.E"))
    error = (await path.call(actor)).error or ""
    assert error.startswith(f"Invocation not authorized: missing link definition for nobody/here on {path.lattice}")


async def test_an_actor_that_calls_itself_with_one_instance_fails_by_deadline_and_lives_on(path: DataPath) -> None:
    module = KeyPair.generate(Role.MODULE)
    actor = await path.launch(actors.caller(namespace=module.public, operation="E.E"), module=module)
    for _ in range(2):
        started = time.monotonic()
        response = await path.call(actor, allow=0.4)
        assert response.error is not None and time.monotonic() - started < 2
    assert path.registry.active_calls == 0


async def test_logging_is_answered_by_the_host_for_actors_with_the_claim(path: DataPath) -> None:
    wat = actors.caller(namespace=LOGGING, operation="Logging.WriteLog", binding="default")
    granted, bare = await path.launch(wat, capabilities=[LOGGING]), await path.launch(wat)
    entry = wire.pack({"level": "warn", "text": "one\ntwo"})
    with capture_logs() as logs:
        assert (await path.call(granted, entry)).msg == b""
        assert "missing capability claim for " + LOGGING in ((await path.call(bare, entry)).error or "")
    (line,) = [line for line in logs if line["event"] == "guest.log"]
    assert (line["log_level"], line["actor"], line["text"]) == ("warning", granted, "one\\ntwo")


async def test_random_numbers_are_answered_by_the_host(path: DataPath) -> None:
    async def ask(operation: str, argument: bytes = b"") -> object:
        wat = actors.caller(namespace=NUMBERGEN, operation=operation, binding="default")
        response = await path.call(await path.launch(wat, capabilities=[NUMBERGEN]), argument)
        assert response.error is None, response.error
        return wire.unpack_value(response.msg)

    guid, number = await ask("NumberGen.GenerateGuid"), await ask("NumberGen.Random32")
    assert isinstance(guid, str) and len(guid) == 36 and guid[14] == "4"
    assert isinstance(number, int) and 0 <= number < 2**32
    swapped = wire.pack({"min": 6, "max": 5})
    assert {await ask("NumberGen.RandomInRange", swapped) for _ in range(12)} <= {5, 6}


async def test_an_unknown_builtin_operation_and_a_broken_argument_are_errors(path: DataPath) -> None:
    unknown = await path.launch(
        actors.caller(namespace=LOGGING, operation="Logging.Erase", binding="default"), capabilities=[LOGGING]
    )
    assert "no operation 'Logging.Erase'" in ((await path.call(unknown)).error or "")
    broken = await path.launch(
        actors.caller(namespace=LOGGING, operation="Logging.WriteLog", binding="default"), capabilities=[LOGGING]
    )
    assert "not msgpack" in ((await path.call(broken, b"\xc1")).error or "")


# --- payloads in the object store -------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [MAX_MSG, MAX_MSG + 1, 8 * 1024 * 1024])
async def test_large_payloads_reach_a_provider_and_come_back(path: DataPath, size: int) -> None:
    actor = await path.launch(
        actors.caller(namespace=KV, operation="KeyValue.Get", binding="default", large=True), capabilities=[KV]
    )
    provider = KeyPair.generate(Role.SERVICE).public
    serving = Storing(path.peer, path.chunks)
    await path.peer.subscribe(subjects.provider_rpc(path.lattice, provider, "default"), serving)
    path.link(actor, provider, KV)
    payload = os.urandom(size)
    assert await path.call_large(actor, payload) == payload
    ((invocation, headers),) = serving.asked
    assert (invocation.chunked, invocation.content_length) == (size > MAX_MSG, size)
    # The actor's caller waits 5 s, and 13 s more for a chunked call: the provider gets no more than that.
    assert headers is not None and int(headers[DEADLINE_HEADER]) <= (18_000 if size > MAX_MSG else 5_000)


async def test_large_payloads_reach_an_actor_of_another_host_and_come_back(
    path: DataPath, nats_server: NatsServer, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    async with data_path(nats_server.url, path.lattice, folder) as other:
        echo = await other.launch(actors.LARGE_ECHO)
        caller = await path.launch(actors.caller(namespace=echo, operation="E.E", large=True))
        payload = os.urandom(5_000_000)
        assert await path.call_large(caller, payload) == payload


async def test_a_large_call_gets_no_more_time_than_the_actors_caller_has(path: DataPath) -> None:
    actor = await path.launch(
        actors.caller(namespace=KV, operation="KeyValue.Get", binding="default"), capabilities=[KV]
    )
    provider = KeyPair.generate(Role.SERVICE).public
    serving = Storing(path.peer, path.chunks)
    serving.seconds = 5
    await path.peer.subscribe(subjects.provider_rpc(path.lattice, provider, "default"), serving)
    path.link(actor, provider, KV)
    started = time.monotonic()
    sound = path.sign(actor, b"x" * (MAX_MSG + 1))
    await path.chunks.send(sound.id, b"x" * (MAX_MSG + 1), what="it")
    response = await path.invoke(replace(sound, msg=b""), allow=0.8)
    assert time.monotonic() - started < 3
    assert response.error is not None and "request timeout" in response.error
    ((_, headers),) = serving.asked
    assert headers is not None and int(headers[DEADLINE_HEADER]) < 800


async def test_an_answer_above_the_actors_limit_is_refused_unread(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    async with data_path(nats_server.url, lattice, tmp_path, limits=Limits(reply=1_000_000)) as path:
        actor = await path.launch(
            actors.caller(namespace=KV, operation="KeyValue.Get", binding="default"), capabilities=[KV]
        )
        provider = KeyPair.generate(Role.SERVICE).public
        serving = Storing(path.peer, path.chunks, size=1_000_001)
        await path.peer.subscribe(subjects.provider_rpc(path.lattice, provider, "default"), serving)
        path.link(actor, provider, KV)
        response = await path.call(actor)
        assert response.error == "the answer to KeyValue.Get has 1000001 bytes; at most 1000000 are taken here"
