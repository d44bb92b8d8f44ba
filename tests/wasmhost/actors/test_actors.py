"""Starting, scaling and stopping the actors of one host, and what the lattice is told of it."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from lattice.claims import ClaimsError, ClaimsRefused
from lattice.errors import Code, GuestFailed, LatticeError
from lattice.invocation import InvocationResponse
from lattice.keys import KeyPair, Role
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.waiting import eventually
from tests.wasmhost.datapath import HOST, DataPath, Provider, data_path
from wasmhost.actors.registry import MOST_INSTANCES, UNBOUNDED, ActorError

MANAGED = {"wasmcloud.dev/managed-by": "test"}


async def unreachable(path: DataPath, actor: str) -> bool:
    """Whether nobody serves the actor's subject any more."""
    try:
        await path.call(actor)
    except LatticeError as exc:
        return exc.code is Code.NO_RESPONDERS
    return False


async def test_a_started_actor_is_announced_once_per_instance_and_once_per_command(path: DataPath) -> None:
    reference = path.write(actors.ECHO, name="Echo", capabilities=["a:b"], call_alias="test/echo")
    actor = await path.registry.launch(reference, 2, MANAGED)
    single = path.named("actor_started")
    assert len(single) == 2 and len({event["instance_id"] for event in single}) == 2
    assert {event["image_ref"] for event in single} == {reference}
    (both,) = path.named("actors_started")
    assert (both["public_key"], both["count"], both["annotations"], both["host_id"]) == (actor, 2, MANAGED, HOST.public)
    assert both["claims"]["caps"] == ["a:b"] and both["claims"]["name"] == "Echo"
    assert path.view.aliases == {"test/echo": actor}
    found = path.registry.resolve_alias("test/echo")
    assert found is not None and found is path.registry.get(actor)


async def test_the_inventory_lists_every_wanted_instance_with_its_annotations(path: DataPath) -> None:
    reference = path.write(actors.ECHO, name="Echo")
    actor = await path.registry.launch(reference, 2, MANAGED)
    await path.registry.launch(reference, 1)
    (description,) = path.registry.descriptions()
    assert (description.id, description.image_ref, description.name) == (actor, reference, "Echo")
    assert sorted(len(instance.annotations) for instance in description.instances) == [0, 1, 1]
    assert len({instance.instance_id for instance in description.instances}) == 3
    assert path.registry.counts() == {actor: 3}


async def test_scaling_tells_the_difference_and_does_nothing_when_nothing_changes(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    actor = await path.registry.scale(reference, None, 3, MANAGED)
    path.events.clear()
    assert await path.registry.scale(reference, actor, 3, MANAGED) == actor
    assert path.events == []
    await path.registry.scale("", actor, 1, MANAGED)
    (down,) = path.named("actors_stopped")
    assert (down["count"], down["remaining"], down["annotations"]) == (2, 1, MANAGED)
    assert len(path.named("actor_stopped")) == 2
    assert (await path.call(actor, b"x")).msg == b"x"
    await path.registry.scale(reference, actor, 0, MANAGED)
    assert path.registry.get(actor) is None and await unreachable(path, actor)
    assert path.named("actors_stopped")[-1]["remaining"] == 0


async def test_scaling_one_annotation_set_leaves_the_others_alone(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    actor = await path.registry.scale(reference, None, 2, MANAGED)
    await path.registry.scale(reference, None, 1, {"other": "set"})
    await path.registry.scale(reference, None, 0, MANAGED)
    assert path.registry.counts() == {actor: 1} and (await path.call(actor)).error is None


async def test_no_count_means_as_many_as_needed(path: DataPath) -> None:
    actor = await path.registry.scale(path.write(actors.ECHO), None, None)
    assert path.registry.counts() == {actor: UNBOUNDED}
    running = path.registry.get(actor)
    assert running is not None and running.pool.started == 1


async def test_stop_takes_the_instances_that_carry_the_annotations(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    actor = await path.registry.launch(reference, 2, MANAGED)
    await path.registry.launch(reference, 2)
    await path.registry.stop(actor, 1, MANAGED)
    assert path.registry.counts() == {actor: 3}
    with pytest.raises(ActorError, match="no actors with matching annotations found to stop"):
        await path.registry.stop(actor, None, {"unknown": "set"})
    await path.registry.stop(actor, 0)
    assert path.registry.counts() == {}
    with pytest.raises(ActorError, match="actor is not running on this host"):
        await path.registry.stop(actor)


async def failure(path: DataPath, reference: str) -> LatticeError:
    """Why the actor does not start; checks that both failure events say the same."""
    path.events.clear()
    with pytest.raises(LatticeError) as caught:
        await path.registry.launch(reference, 1, MANAGED)
    (single,), (plural,) = path.named("actor_start_failed"), path.named("actors_start_failed")
    assert single["actor_ref"] == plural["image_ref"] == reference
    assert single["error"] == plural["error"] == str(caught.value)
    assert single["code"] == caught.value.code and plural["annotations"] == MANAGED
    if isinstance(caught.value, ClaimsError):
        assert single["problem"] == caught.value.problem
    assert path.registry.counts() == {}
    return caught.value


async def test_every_failed_start_is_told_with_the_reference_as_typed(path: DataPath) -> None:
    assert (await failure(path, "file:///nowhere/at.wasm")).code is Code.NOT_FOUND
    assert (await failure(path, "ghcr.io/x/echo:1")).code is Code.UNSUPPORTED
    stranger = KeyPair.generate(Role.ACCOUNT)
    untrusted = await failure(path, path.write(actors.ECHO, account=stranger))
    assert untrusted.code is Code.NOT_AUTHORIZED and f"--trust {stranger.public}" in str(untrusted)
    trap = '(memory (export "memory") 1) (func (export "__guest_call") (param i32 i32) (result i32) unreachable)'
    broken = await failure(path, path.write(f'(module {trap} (func (export "_start") unreachable))'))
    assert isinstance(broken, GuestFailed) and "_start" in str(broken)
    incomplete = await failure(path, path.write('(module (memory (export "memory") 1))'))
    assert "__guest_call" in str(incomplete)


async def test_one_actor_runs_from_one_reference_only(path: DataPath) -> None:
    module = KeyPair.generate(Role.MODULE)
    first, second = (path.write(actors.ECHO, module=module) for _ in range(2))
    actor = await path.registry.launch(first)
    for attempt in (path.registry.launch(second), path.registry.scale(second, actor, 2)):
        with pytest.raises(ActorError, match="already running with different reference") as caught:
            await attempt
        assert caught.value.code is Code.CONFLICT and first in str(caught.value)
    assert path.registry.counts() == {actor: 1}


async def test_a_file_that_changed_under_a_running_actor_is_noticed(path: DataPath) -> None:
    module = KeyPair.generate(Role.MODULE)
    reference = path.write(actors.ECHO, module=module)
    actor = await path.registry.launch(reference)
    replacement = path.write(actors.REFUSING, module=module).removeprefix("file://")
    os.replace(replacement, reference.removeprefix("file://"))
    with pytest.raises(ActorError, match=f"the file has changed .*stop actor {actor}"):
        await path.registry.launch(reference)
    await path.registry.stop(actor)
    await path.registry.launch(reference)
    assert (await path.call(actor)).error == "not today"


async def test_counts_out_of_range_are_refused(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    for count in (-1, MOST_INSTANCES + 1):
        with pytest.raises(ActorError, match=f"at most {MOST_INSTANCES}"):
            await path.registry.launch(reference, count)
    actor = await path.registry.scale(reference, None, 1, MANAGED)
    with pytest.raises(ActorError, match=f"at most {MOST_INSTANCES}"):
        await path.registry.scale(reference, None, MOST_INSTANCES)
    assert path.registry.counts() == {actor: 1}


async def test_an_actor_whose_claims_expire_while_it_runs_is_stopped(path: DataPath) -> None:
    actor = await path.launch(actors.ECHO, expires=int(time.time()) + 4)
    assert (await path.call(actor, b"still")).msg == b"still"
    await eventually(lambda: path.named("actors_stopped"))
    assert path.registry.get(actor) is None and await unreachable(path, actor)
    assert path.named("actors_stopped")[-1]["remaining"] == 0


async def test_expired_claims_take_no_more_instances_while_the_last_calls_are_waited_for(path: DataPath) -> None:
    wat = actors.caller(namespace="test:slow", operation="Slow.Do", binding="default")
    reference = path.write(wat, capabilities=["test:slow"], expires=int(time.time()) + 3)
    actor = await path.registry.launch(reference)
    provider = await Provider.serve(path, "test:slow", answering=False)
    path.link(actor, provider.key, "test:slow")
    calling = asyncio.create_task(path.call(actor, allow=30))
    await eventually(lambda: provider.replies)
    await eventually(lambda: path.registry.get(actor) is None, timeout=10)
    with pytest.raises(ClaimsRefused, match=f"the claims of {actor} expired at .*; have .* sign again$"):
        await path.registry.launch(reference)
    scaling = [asyncio.create_task(path.registry.scale(*command, 3)) for command in ((reference, None), ("", actor))]
    await asyncio.sleep(0)  # they wait for the end of the actor
    assert not calling.done()
    answer = InvocationResponse(msg=b"late", invocation_id=provider.received[0].id)
    path.peer.publish(provider.replies[0], answer.encode())
    assert (await calling).msg == b"late"
    for command in scaling:
        with pytest.raises(ClaimsRefused, match=f"the claims of {actor} expired at "):
            await command
    for name, failures in (("actors_start_failed", 3), ("actor_start_failed", 3), ("actor_scale_failed", 2)):
        told = path.named(name)
        assert len(told) == failures
        assert {(event["code"], event["problem"]) for event in told} == {(Code.NOT_AUTHORIZED, "expired")}
    assert path.registry.counts() == {}


async def test_claims_that_a_set_clock_has_let_expire_take_no_more_instances(
    path: DataPath, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer that stops the actor runs on another clock."""
    reference = path.write(actors.ECHO, expires=int(time.time()) + 3600)
    actor = await path.registry.scale(reference, None, 2)
    monkeypatch.setattr(path.registry, "_clock", lambda: time.time() + 7200)
    for command in ((reference, None), ("", actor)):
        with pytest.raises(ClaimsRefused, match="expired"):
            await path.registry.scale(*command, 3)
    assert path.registry.counts() == {actor: 2}
    await path.registry.scale("", actor, 1)
    assert path.registry.counts() == {actor: 1}


async def test_commands_for_one_actor_take_effect_in_their_order(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    wanted = [3, 1, 4, 1, 5, 9, 2, 6]
    keys = await asyncio.gather(*(path.registry.scale(reference, None, count) for count in wanted))
    assert path.registry.counts() == {keys[0]: wanted[-1]}


async def test_two_actors_with_one_alias_keep_the_first(path: DataPath) -> None:
    first = await path.launch(actors.ECHO, call_alias="same/alias")
    second = await path.launch(actors.REFUSING, call_alias="same/alias")
    found = path.registry.resolve_alias("same/alias")
    assert found is not None and found.key == first
    await path.registry.stop(first)
    found = path.registry.resolve_alias("same/alias")
    assert found is not None and found.key == second


async def test_draining_leaves_no_actor_and_refuses_new_ones(path: DataPath) -> None:
    one, two = await path.launch(actors.ECHO), await path.launch(actors.REFUSING)
    assert await path.registry.drain(2.0) == 0
    assert path.registry.counts() == {} and await unreachable(path, one) and await unreachable(path, two)
    assert len(path.named("actors_stopped")) == 2
    with pytest.raises(ActorError, match="stopping"):
        await path.launch(actors.ECHO)


async def test_draining_abandons_what_outlasts_its_time(path: DataPath) -> None:
    actor = await path.launch(actors.SPINNING)
    call = asyncio.create_task(path.call(actor, allow=10))
    await eventually(lambda: path.registry.active_calls)
    started = time.monotonic()
    assert await path.registry.drain(0.3) == 1
    assert time.monotonic() - started < 2
    abandoned = await call
    assert abandoned.code == Code.NOT_RUNNING and "was stopped on this host" in (abandoned.error or "")


async def test_calls_under_load_survive_scaling(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    actor = await path.registry.scale(reference, None, 4)
    answers: list[InvocationResponse] = []

    async def client(number: int) -> None:
        for turn in range(50):
            answers.append(await path.call(actor, b"%d.%d" % (number, turn)))

    clients = [asyncio.create_task(client(number)) for number in range(8)]
    for count in (1, 8, 2, 5):
        await path.registry.scale(reference, None, count)
        await asyncio.sleep(0.02)
    await asyncio.gather(*clients)
    assert len(answers) == 400 and not [answer.error for answer in answers if answer.error]


async def test_a_restarted_server_finds_the_actor_served_again(lattice: str, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    try:
        async with data_path(server.url, lattice, tmp_path) as path:
            actor = await path.launch(actors.ECHO)
            assert (await path.call(actor, b"before")).msg == b"before"
            await asyncio.to_thread(server.restart)
            async with asyncio.timeout(15):
                while True:
                    try:
                        assert (await path.call(actor, b"after")).msg == b"after"
                        break
                    except LatticeError:
                        await asyncio.sleep(0.1)
    finally:
        server.stop()
