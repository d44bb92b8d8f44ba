"""Live update: a newer revision takes the place of a running actor without a lost call."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from lattice.errors import Code, GuestFailed, LatticeError
from lattice.invocation import InvocationResponse
from lattice.keys import KeyPair, Role
from tests.support import actors
from tests.support.waiting import eventually
from tests.wasmhost.datapath import DataPath, Provider
from wasmhost.actors.registry import ActorError

MANAGED = {"wasmcloud.dev/managed-by": "test"}
STORE = "wasmcloud:keyvalue"
ASKING = actors.caller(namespace=STORE, operation="KeyValue.Get", binding="default")


def saying(text: str) -> str:
    """An actor that answers every call with ``text``."""
    return actors.module(f"""(data (i32.const 0) "{text}")
      (func (export "__guest_call") (param i32 i32) (result i32)
        (call $response (i32.const 0) (i32.const {len(text)}))
        (i32.const 1))""")


class Revisions:
    """Files of one actor, revision after revision."""

    def __init__(self, path: DataPath) -> None:
        self.path = path
        self.module = KeyPair.generate(Role.MODULE)
        self.number = 0

    def write(self, wat: str, *, revision: int | None = None, **claims: object) -> str:
        self.number += 1
        number = self.number if revision is None else revision
        return self.path.write(wat, module=self.module, revision=number, **claims)


@pytest.fixture
def revisions(path: DataPath) -> Revisions:
    return Revisions(path)


async def test_an_update_is_told_per_instance_and_per_annotation_set(path: DataPath, revisions: Revisions) -> None:
    first, second = revisions.write(saying("one")), revisions.write(saying("two"), name="Two", capabilities=["a:b"])
    actor = await path.registry.launch(first, 2, MANAGED)
    await path.registry.launch(first, 1)
    before = {instance.instance_id for instance in path.registry.descriptions()[0].instances}
    path.events.clear()
    assert await path.registry.update(second, actor_id=actor) == actor
    assert (await path.call(actor)).msg == b"two"

    await eventually(lambda: len(path.named("actors_stopped")) == 2)
    (description,) = path.registry.descriptions()
    after = {instance.instance_id for instance in description.instances}
    assert (description.image_ref, description.name, len(after)) == (second, "Two", 3)
    assert {instance.revision for instance in description.instances} == {2} and not after & before
    assert {event["instance_id"] for event in path.named("actor_started")} == after
    assert {event["instance_id"] for event in path.named("actor_stopped")} == before
    updated = path.named("actor_updated")
    assert {event["instance_id"] for event in updated} == after
    assert {(event["public_key"], event["revision"]) for event in updated} == {(actor, 2)}
    started, stopped = path.named("actors_started"), path.named("actors_stopped")
    assert [(event["count"], event["annotations"], event["image_ref"]) for event in started] == [
        (2, MANAGED, second),
        (1, {}, second),
    ]
    assert {event["claims"]["caps"] == ["a:b"] for event in started} == {True}
    assert [(event["count"], event["remaining"], event["image_ref"]) for event in stopped] == [
        (2, 3, first),
        (1, 3, first),
    ]
    names = [name for name, _ in path.events]
    assert names.index("actors_started") < names.index("actor_updated") < names.index("actor_stopped")


async def refusal(path: DataPath, reference: str, **more: object) -> ActorError:
    """Why the update is refused: before it was acknowledged, without an event."""
    accepted: list[None] = []
    path.events.clear()
    with pytest.raises(LatticeError) as caught:
        await path.registry.update(reference, accepted=lambda: accepted.append(None), **more)
    assert (accepted, path.events) == ([], [])
    return caught.value


async def test_what_is_no_newer_revision_of_what_runs_is_refused_before_the_acknowledgement(
    path: DataPath, revisions: Revisions
) -> None:
    first = revisions.write(saying("one"), revision=5)
    assert (await refusal(path, first)).code is Code.NOT_RUNNING
    actor = await path.registry.launch(first, 1, MANAGED)
    for revision in (4, 5):
        error = await refusal(path, revisions.write(saying("two"), revision=revision))
        assert error.code is Code.CONFLICT and f"revision {revision}" in str(error) and "running 5" in str(error)
    newer = revisions.write(saying("six"), revision=6)
    other = path.write(saying("other"))
    assert (await refusal(path, other, actor_id=actor)).code is Code.CONFLICT
    assert "actor not found" in str(await refusal(path, other))
    missing = await refusal(path, newer, annotations={"no": "such"})
    assert str(missing) == "actor instance with matching annotations not found"
    assert (await refusal(path, "file:///nowhere.wasm")).code is Code.NOT_FOUND
    stranger = revisions.write(saying("x"), revision=7, account=KeyPair.generate(Role.ACCOUNT))
    assert (await refusal(path, stranger)).code is Code.NOT_AUTHORIZED
    assert (await refusal(path, revisions.write(saying("x"), revision=7, expires=1))).code is Code.NOT_AUTHORIZED
    assert (await path.call(actor)).msg == b"one"
    assert await path.registry.update(newer, annotations=MANAGED) == actor
    assert (await path.call(actor)).msg == b"six"


async def test_a_revision_that_cannot_start_leaves_the_old_one_running(path: DataPath, revisions: Revisions) -> None:
    actor = await path.registry.launch(revisions.write(saying("one")), 2, MANAGED)
    instances = {instance.instance_id for instance in path.registry.descriptions()[0].instances}
    broken = revisions.write(
        '(module (memory (export "memory") 1)'
        ' (func (export "__guest_call") (param i32 i32) (result i32) unreachable)'
        ' (func (export "_start") unreachable))'
    )
    accepted: list[None] = []
    path.events.clear()
    with pytest.raises(GuestFailed):
        await path.registry.update(broken, accepted=lambda: accepted.append(None))
    assert accepted == [None]
    failed = path.named("actor_update_failed")
    assert {event["instance_id"] for event in failed} == instances
    assert {event["revision"] for event in failed} == {2} and all("_start" in event["reason"] for event in failed)
    (plural,) = path.named("actors_start_failed")
    assert (plural["public_key"], plural["image_ref"], plural["annotations"]) == (actor, broken, MANAGED)
    assert path.named("actor_updated") == path.named("actors_stopped") == []
    assert (await path.call(actor)).msg == b"one"
    assert {instance.instance_id for instance in path.registry.descriptions()[0].instances} == instances


async def test_the_claims_of_the_new_revision_are_in_force_with_its_first_call(
    path: DataPath, revisions: Revisions
) -> None:
    provider = await Provider.serve(path, STORE)
    actor = await path.registry.launch(revisions.write(ASKING, call_alias="test/old"))
    path.link(actor, provider.key, STORE)
    assert "missing capability claim" in ((await path.call(actor, b"x")).error or "")
    await path.registry.update(revisions.write(ASKING, capabilities=[STORE], call_alias="test/new"))
    assert (await path.call(actor, b"x")).msg == b"x"
    found = path.registry.resolve_alias("test/new")
    assert found is not None and found.capabilities == {STORE} and path.registry.resolve_alias("test/old") is None
    await path.registry.update(revisions.write(ASKING))
    assert "missing capability claim" in ((await path.call(actor, b"x")).error or "")


async def test_a_call_that_had_begun_ends_on_the_old_instance_under_its_claims(
    path: DataPath, revisions: Revisions
) -> None:
    provider = await Provider.serve(path, STORE, answering=False)
    actor = await path.registry.launch(revisions.write(ASKING, capabilities=[STORE]))
    path.link(actor, provider.key, STORE)
    call = asyncio.create_task(path.call(actor, b"before", allow=5))
    await eventually(lambda: provider.received)
    await path.registry.update(revisions.write(saying("new")))
    assert (await path.call(actor)).msg == b"new"  # the one instance of the old revision is still busy
    assert path.named("actors_stopped") == []
    held = provider.received[0]
    path.peer.publish(provider.replies[0], InvocationResponse(msg=b"late", invocation_id=held.id).encode())
    assert (await call).msg == b"late"
    await eventually(lambda: path.named("actors_stopped"))


async def test_an_actor_stopped_while_it_was_updated_ends_with_all_its_calls_answered(
    path: DataPath, revisions: Revisions
) -> None:
    actor = await path.registry.launch(revisions.write(actors.SPINNING))
    spinning = asyncio.create_task(path.call(actor, allow=1))
    await eventually(lambda: path.registry.active_calls)
    await path.registry.update(revisions.write(saying("new")))
    await path.registry.stop(actor)
    assert (await spinning).code == Code.TIMED_OUT
    assert path.registry.counts() == {} and len(path.named("actors_stopped")) == 2
    assert path.named("actors_stopped")[-1]["remaining"] == 0


async def test_commands_after_an_update_wait_for_it(path: DataPath, revisions: Revisions) -> None:
    first, second = revisions.write(saying("one")), revisions.write(saying("two"))
    actor = await path.registry.launch(first)
    accepted = asyncio.Event()
    update = asyncio.create_task(path.registry.update(second, accepted=accepted.set))
    await accepted.wait()
    await path.registry.scale(second, actor, 3)
    await update
    assert path.registry.counts() == {actor: 3} and (await path.call(actor)).msg == b"two"


async def test_updates_and_scales_under_load_fail_no_call(path: DataPath, revisions: Revisions) -> None:
    actor = await path.registry.launch(revisions.write(saying("0")), 2)
    answers: list[InvocationResponse] = []
    done = False

    async def client() -> None:
        while not done:
            answers.append(await path.call(actor))

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for turn in range(1, 6):
        await path.registry.update(revisions.write(saying(str(turn))))
        await path.registry.scale("", actor, turn)
        before = len(answers)
        await eventually(lambda before=before: len(answers) > before + 20)
    done = True
    await asyncio.gather(*clients)
    assert [answer.error for answer in answers if answer.error] == []
    assert [answer.msg for answer in answers] == sorted(answer.msg for answer in answers)  # never back to an older one
    assert {answer.msg for answer in answers} == {b"0", b"1", b"2", b"3", b"4", b"5"}


async def test_a_call_whose_argument_is_being_fetched_is_answered_by_either_revision(
    path: DataPath, revisions: Revisions
) -> None:
    answers = set()
    actor = await path.registry.launch(revisions.write(saying("0")), 1)
    fetching: asyncio.Queue[str] = asyncio.Queue()
    await path.peer.subscribe(
        f"$JS.API.DIRECT.GET.OBJ_{path.lattice}.>", lambda subject, *_: fetching.put_nowait(subject)
    )
    for number in range(1, 4):
        newer = revisions.write(saying(str(number)))
        sound = path.sign(actor, b"x" * 12_000_000)
        await path.chunks.send(sound.id, sound.msg, what="it")
        call = asyncio.create_task(path.invoke(replace(sound, msg=b"")))
        await fetching.get()
        await path.registry.update(newer)
        response = await call
        assert response.error is None
        answers.add(response.msg)
    assert answers <= {b"0", b"1", b"2", b"3"}
