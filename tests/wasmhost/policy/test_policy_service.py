"""A host that asks a policy service, a process in plain nats-py that permits, denies, is silent or changes its mind."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lattice import bundled
from lattice.antiforgery import Signer
from lattice.chunks import Chunks
from lattice.claims import read_actor
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, NotAuthorized, RemoteError
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from tests.support import actors
from tests.support.policy import PolicyService
from tests.support.waiting import eventually
from tests.wasmhost.control.waiting import EventLog
from tests.wasmhost.policy.calling import PEER, call
from wasmhost.configuration.config import HostConfig
from wasmhost.configuration.policy import PolicyConfig
from wasmhost.host import Host

STORE = bundled.find("bundled:keyvalue-memory")


@pytest.fixture
def asking(config: HostConfig, service: PolicyService) -> HostConfig:
    policy = PolicyConfig(topic=service.topic, changes_topic=f"{service.topic}.changes", timeout=5.0)
    return replace(config, policy=policy)


@pytest.fixture
async def host(asking: HostConfig) -> AsyncIterator[Host]:
    async with Host(asking) as host:
        yield host


def write(folder: Path, wat: str = actors.ECHO, **claims: Any) -> tuple[str, str]:
    """The reference and the key of a new actor."""
    wasm = actors.signed(wat, **claims)
    key = read_actor(wasm).subject
    return actors.write(folder, wasm, f"{key}.wasm"), key


async def change(client: Connection, service: PolicyService, **members: Any) -> dict[str, Any]:
    """The answer to a changed decision."""
    reply = await client.request(f"{service.topic}.changes", json.dumps(members).encode(), timeout=5)
    answer: dict[str, Any] = json.loads(reply.payload)
    return answer


async def test_starts_calls_and_links_are_asked_for_once_and_then_known(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    reference, actor = write(tmp_path, capabilities=["wasmcloud:keyvalue"])
    await host.actors.launch(reference)
    (start,) = await service.asked(client)
    assert (start["action"], start["target"]["publicKey"]) == ("start_actor", actor)
    assert start["target"]["issuer"] == actors.ACCOUNT.public
    assert start["host"]["publicKey"] == host.host_id and start["host"]["latticeId"] == host.config.lattice
    assert start["host"]["labels"]["zone"] == "test"
    assert start["host"]["clusterIssuers"] == [host.identity.cluster.public]

    for _ in range(5):
        assert await call(host, client, actor) == b"x"
    (first_call,) = await service.asked(client)
    assert first_call["action"] == "perform_invocation"
    assert (first_call["source"]["publicKey"], first_call["target"]["publicKey"]) == (PEER.public_key, actor)

    await host.actors.scale(reference, actor, 3)
    assert await service.asked(client) == []  # what is known is not asked again

    await host.providers.start(STORE.reference)
    (provider,) = await service.asked(client)
    assert provider["action"] == "start_provider" and provider["target"]["contractId"] == STORE.contract_id
    await host.linking.put(LinkDefinition(actor_id=actor, provider_id=STORE.public_key, contract_id=STORE.contract_id))
    (link,) = await service.asked(client)
    assert link["action"] == "perform_invocation" and link["source"]["capabilities"] == ["wasmcloud:keyvalue"]
    assert (link["source"]["publicKey"], link["target"]["publicKey"]) == (actor, STORE.public_key)


async def test_what_is_denied_does_not_start_and_is_not_called(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path, events: EventLog
) -> None:
    reference, _ = write(tmp_path)
    await service.order(client, deny=["start_actor", STORE.public_key])
    with pytest.raises(NotAuthorized, match="Starting actor denied: the rules deny start_actor"):
        await host.actors.launch(reference)
    failed = await events.wait("actor_start_failed")
    assert failed.data["code"] == Code.NOT_AUTHORIZED
    with pytest.raises(NotAuthorized, match=f"Starting provider {STORE.public_key} denied: the rules deny"):
        await host.providers.start(STORE.reference)
    assert (await events.wait("provider_start_failed")).data["code"] == Code.NOT_AUTHORIZED

    other, called = write(tmp_path)
    await service.order(client, deny=["perform_invocation"])
    await host.actors.launch(other)
    with pytest.raises(RemoteError, match="Policy evaluation rejected invocation attempt: the rules deny") as refused:
        await call(host, client, called)
    assert refused.value.code is Code.NOT_AUTHORIZED
    with pytest.raises(NotAuthorized, match="Putting link denied"):
        await host.linking.put(
            LinkDefinition(actor_id=called, provider_id=STORE.public_key, contract_id=STORE.contract_id)
        )
    assert list(host.metadata.links) == []


async def test_calls_between_actors_of_one_host_are_asked_for_too(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    target, called = write(tmp_path, name="Called")
    source, caller = write(
        tmp_path, actors.caller(namespace=called, operation="Test.Call"), capabilities=["test:capability"]
    )
    await host.actors.launch(target)
    await host.actors.launch(source)
    assert await call(host, client, caller, b"inner") == b"inner"
    inner = [asked for asked in await service.asked(client) if asked["target"]["publicKey"] == called][-1]
    assert inner["action"] == "perform_invocation"
    assert inner["source"]["publicKey"] == caller and inner["source"]["issuer"] == actors.ACCOUNT.public
    assert inner["source"]["capabilities"] == ["test:capability"] and inner["source"]["issuedOn"].isdigit()
    assert await change(client, service, requestId=inner["requestId"], permitted=False, message="not any more") == {
        "success": True
    }
    with pytest.raises(RemoteError, match="rejected invocation attempt: not any more"):
        await call(host, client, caller)


@pytest.mark.parametrize("mode", ["garbage", "not a boolean", "other request", "empty"])
async def test_an_answer_that_is_none_denies_and_is_not_remembered(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path, mode: str
) -> None:
    reference, _ = write(tmp_path)
    await service.order(client, mode=mode)
    with pytest.raises(NotAuthorized, match=f"Policy response failed to decode: .*{service.topic}"):
        await host.actors.launch(reference)
    await service.order(client, mode="answer")
    assert await host.actors.launch(reference)


async def test_silence_denies_and_names_topic_and_time_and_a_late_answer_changes_nothing(
    asking: HostConfig, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    assert asking.policy is not None
    reference, actor = write(tmp_path)
    await service.order(client, mode="late")
    async with Host(replace(asking, policy=replace(asking.policy, timeout=0.5))) as host:
        begun = time.monotonic()
        with pytest.raises(
            NotAuthorized, match=rf"Policy request timed out: no answer from {service.topic} \(waits 500 ms\)"
        ):
            await host.actors.launch(reference)
        assert time.monotonic() - begun >= 0.5
        await asyncio.sleep(0.7)  # by now the late answer has come
        assert host.actors.counts() == {}
        await service.order(client, mode="answer", deny=[actor])
        with pytest.raises(NotAuthorized, match="Starting actor denied"):  # what came late is not known
            await host.actors.launch(reference)


async def test_without_a_service_nothing_starts_and_what_was_decided_goes_on_until_it_is_back(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    reference, actor = write(tmp_path)
    other, _ = write(tmp_path)
    await host.actors.launch(reference)
    assert await call(host, client, actor) == b"x"
    service.stop()
    with pytest.raises(NotAuthorized, match=r"No responders to policy request \(policy server not listening\?\)"):
        await host.actors.launch(other)
    assert await call(host, client, actor) == b"x"
    service.start()
    assert await host.actors.launch(other)


async def test_a_permission_that_is_taken_back_stops_what_runs_and_given_back_lets_it_start_again(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path, events: EventLog
) -> None:
    reference, actor = write(tmp_path)
    await host.actors.launch(reference, 2)
    provider = await host.providers.start(STORE.reference)
    await events.wait("provider_started")
    asked = {each["action"]: each["requestId"] for each in await service.asked(client)}

    # the spelling of the Elixir hosts
    answer = await change(client, service, request_id=asked["start_actor"], permitted=False, message="no more")
    assert answer == {"success": True}
    stopped = await events.wait("actors_stopped", public_key=actor)
    assert (stopped.data["count"], stopped.data["remaining"]) == (2, 0)
    told = await events.wait("claims_refused", public_key=actor)
    assert told.data["problem"] == "denied" and told.data["error"] == "Starting actor denied: no more"
    (halted,) = host.facts.inventory().halted
    assert (halted.id, halted.state) == (actor, "denied")
    with pytest.raises(NotAuthorized, match="no more"):
        await host.actors.launch(reference)

    await change(client, service, requestId=asked["start_provider"], permitted=False, message=None)
    await events.wait("provider_stopped", public_key=STORE.public_key)
    await eventually(lambda: provider.pid is None)

    assert await change(client, service, requestId=asked["start_actor"], permitted=True) == {"success": True}
    assert await host.actors.launch(reference) == actor
    assert [each.id for each in host.facts.inventory().halted] == [STORE.public_key]


async def test_changes_that_are_not_for_this_host_are_answered_late_and_bad_ones_refused(
    host: Host, service: PolicyService, client: Connection
) -> None:
    begun = time.monotonic()
    assert await change(client, service, requestId="of another host", permitted=True) == {"success": False}
    assert time.monotonic() - begun > 0.2  # so that whoever knows it answers first
    assert await change(client, service, permitted=True) == {"success": False}
    # an answer to anything but an inbox would publish in our name
    seen: list[str] = []
    subject = f"other.{host.config.lattice}"
    await client.subscribe(subject, lambda name, *_: seen.append(name))
    client.publish(f"{service.topic}.changes", b"{}", reply=subject)
    await client.flush()
    assert await change(client, service, permitted=True) == {"success": False}
    assert seen == []


async def test_callers_at_once_ask_once_and_an_ageing_decision_is_renewed_beside_the_calls(
    asking: HostConfig, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    assert asking.policy is not None
    async with Host(replace(asking, policy=replace(asking.policy, lifetime=1.0))) as host:
        reference, actor = write(tmp_path)
        await host.actors.launch(reference)
        await service.asked(client)
        await asyncio.gather(*(call(host, client, actor) for _ in range(20)))
        assert len(await service.asked(client)) == 1
        await asyncio.sleep(0.8)
        assert await call(host, client, actor) == b"x"  # answered from what is known, and renewed
        asked: list[dict[str, Any]] = []
        async with asyncio.timeout(5):
            while not asked:
                asked = await service.asked(client)
        assert [each["action"] for each in asked] == ["perform_invocation"]


async def test_nothing_is_fetched_for_a_large_call_that_is_denied(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    reference, actor = write(tmp_path, actors.LARGE_ECHO)
    await host.actors.launch(reference)
    chunks = Chunks(client, host.config.lattice)
    rpc = RpcClient(client, host.config.lattice, Signer(host.identity.cluster, host.host_id), chunks)

    async def large() -> bytes:
        msg = bytes(2_000_000)
        return await rpc.call(origin=PEER, target=Entity.actor(actor), operation="Test.Call", msg=msg, timeout=10)

    try:
        assert len(await large()) == 2_000_000
        (asked,) = [each for each in await service.asked(client) if each["action"] == "perform_invocation"]
        await change(client, service, requestId=asked["requestId"], permitted=False, message="too large for you")
        with pytest.raises(RemoteError, match="rejected invocation attempt: too large for you"):
            await large()
    finally:
        await chunks.close()


async def test_calls_and_links_need_not_be_asked_for(
    asking: HostConfig, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    assert asking.policy is not None
    async with Host(replace(asking, policy=replace(asking.policy, calls=False, links=False))) as host:
        reference, actor = write(tmp_path)
        await host.actors.launch(reference)
        await service.order(client, deny=["perform_invocation"])
        assert await call(host, client, actor) == b"x"
        await host.linking.put(
            LinkDefinition(actor_id=actor, provider_id=STORE.public_key, contract_id=STORE.contract_id)
        )
        assert [each["action"] for each in await service.asked(client)] == ["start_actor"]


async def test_an_update_is_asked_for_and_a_denied_one_leaves_the_old_revision(
    asking: HostConfig, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    assert asking.policy is not None
    async with Host(replace(asking, policy=replace(asking.policy, lifetime=1e-6))) as host:
        module = KeyPair.generate(Role.MODULE)
        first = actors.write(tmp_path, actors.signed(actors.ECHO, module=module, revision=1), "1.wasm")
        second = actors.write(tmp_path, actors.signed(actors.COUNTING, module=module, revision=2), "2.wasm")
        await host.actors.launch(first)
        await service.order(client, deny=[module.public])
        with pytest.raises(LatticeError, match="Starting actor denied: the rules deny"):
            await host.actors.update(second)
        with pytest.raises(LatticeError, match="Starting actor denied: the rules deny"):
            await host.actors.scale(first, module.public, 3)
        assert host.actors.counts() == {module.public: 1}
        await host.actors.scale(first, module.public, 0)  # stopping needs nobody's leave


async def test_a_call_that_waits_for_leave_meets_the_revision_that_runs_then(
    host: Host, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    module = KeyPair.generate(Role.MODULE)
    first = actors.write(tmp_path, actors.signed(actors.REFUSING, module=module, revision=1), "1.wasm")
    second = actors.write(tmp_path, actors.signed(actors.ECHO, module=module, revision=2), "2.wasm")
    source, caller = write(tmp_path, actors.caller(namespace=module.public, operation="Test.Call"))
    await host.actors.launch(source)
    with pytest.raises(RemoteError):  # there is nobody to call yet, but from now on this much is permitted
        await call(host, client, caller)
    await host.actors.launch(first)
    await service.asked(client)
    await service.order(client, mode="hold")
    answer = asyncio.create_task(call(host, client, caller))
    async with asyncio.timeout(5):
        while not await service.asked(client):  # noqa: ASYNC110 a process is asked
            await asyncio.sleep(0.01)
    await service.order(client, mode="answer")
    await host.actors.update(second)
    await service.order(client, release=True)
    assert await answer == b"x"


async def test_what_waits_for_leave_while_its_host_stops_does_not_begin(
    asking: HostConfig, service: PolicyService, client: Connection, tmp_path: Path
) -> None:
    assert asking.policy is not None
    reference, actor = write(tmp_path)
    async with Host(replace(asking, policy=replace(asking.policy, lifetime=1e-6))) as host:
        await host.actors.launch(reference)
        await service.asked(client)
        await service.order(client, mode="hold")
        scaling = asyncio.create_task(host.actors.scale(reference, actor, 3))
        async with asyncio.timeout(5):
            while not await service.asked(client):  # noqa: ASYNC110 a process is asked
                await asyncio.sleep(0.01)
        events = await EventLog.open(client, host.config.lattice)
        await host.actors.drain(5)
        await service.order(client, release=True)
        with pytest.raises(LatticeError, match="this host is stopping"):
            await scaling
        await eventually(lambda: events.named("actor_start_failed"))
        assert events.named("actor_started") == []
