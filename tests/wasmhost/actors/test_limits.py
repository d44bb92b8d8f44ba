"""Limits of actors: of the host by settings, of one actor by annotations."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from lattice.errors import Code, LatticeError
from tests.support import actors
from tests.support.processes import run, user_environment
from tests.wasmhost.datapath import DataPath
from wasmhost.actors.registry import ActorError
from wasmhost.configuration import limits
from wasmhost.configuration.config import ConfigError, load
from wasmhost.configuration.limits import LIMITS, LimitError
from wasmhost.guest.calls import Limits

MIB = 2**20
GROWING = actors.module("""
  (func (export "__guest_call") (param i32 i32) (result i32)
    (drop (memory.grow (i32.const 1600)))
    (i32.store (i32.const 0) (memory.size))
    (call $response (i32.const 0) (i32.const 4))
    (i32.const 1))""")
"""Starts with 4 MiB of memory, wants 100 more, and answers with the pages that it has."""


def annotated(**numbers: int) -> dict[str, str]:
    return {f"wasmhost/limits.{name}": str(number) for name, number in numbers.items()}


def test_every_member_of_the_limits_can_be_set_and_its_default_is_what_the_table_says() -> None:
    assert {limit.field for limit in LIMITS} == set(Limits.__dataclass_fields__)
    assert limits.changed(Limits(), {limit.name: limit.default for limit in LIMITS}) == Limits()
    for limit in LIMITS:
        assert limit.problem(limit.default) is None
        assert limit.problem(limit.example) is None


def test_numbers_become_bytes_and_seconds() -> None:
    numbers = {"memory_mib": 8, "deadline_ms": 1500, "request_kib": 2, "log_kib": 0}
    changed = limits.changed(Limits(), numbers)
    assert (changed.memory, changed.deadline, changed.request, changed.log_bytes_per_call) == (8 * MIB, 1.5, 2048, 0)
    assert changed.retain_memory == 8 * MIB, "no more is retained than there may be"
    assert limits.from_annotations({**limits.to_annotations(numbers), "wasmcloud.dev/spread_name": "1"}) == numbers


def test_everything_wrong_is_said_at_once() -> None:
    with pytest.raises(LimitError) as error:
        limits.changed(Limits(), {"memory_mb": 3, "deadline_ms": 0, "reply_kib": 2**40, "log_kib": 4})
    for part in ("did you mean memory_mib?", "deadline_ms: 0 is no number of milliseconds", "reply_kib: 1099511627776"):
        assert part in str(error.value)
    assert "log_kib" not in str(error.value)
    assert error.value.code is Code.INVALID
    with pytest.raises(LimitError, match=r"memory_mib: '1\.5' is no whole number; queue_kib: '' is no whole number"):
        limits.from_annotations({"wasmhost/limits.memory_mib": "1.5", "wasmhost/limits.queue_kib": ""})


def test_the_host_has_a_setting_for_each(tmp_path: Path) -> None:
    environ = {"HOME": str(tmp_path), "WASMHOST_ACTOR_MEMORY_MIB": "128", "WASMHOST_ACTOR_REPLY_KIB": "64"}
    config = load({"actor_deadline_ms": "500", "guest_threads": True}, environ)
    assert config.limits == replace(Limits(), memory=128 * MIB, reply=65536, deadline=0.5)
    assert config.guest_threads
    untouched = load({}, {"HOME": str(tmp_path)})
    assert (untouched.limits, untouched.guest_threads) == (Limits(), False)
    with pytest.raises(ConfigError) as error:
        load({}, {"HOME": str(tmp_path), "WASMHOST_ACTOR_QUEUE_KIB": "0", "WASMHOST_ACTOR_LOG_KIB": "some"})
    assert error.value.problems == (
        "WASMHOST_ACTOR_QUEUE_KIB: 0 is no number of KiB from 1 to 4194304 (example: 65536)",
        "WASMHOST_ACTOR_LOG_KIB: 'some' is not a whole number of KiB (example: 64)",
    )


@pytest.mark.parametrize(
    ("typed", "said"),
    [("memry_mib=1", "did you mean memory_mib?"), ("memory_mib", "'' is no whole number"), ("log_kib=1.5", "'1.5' is")],
)
def test_a_limit_typed_wrongly_ends_the_command_before_it_asks_anybody(typed: str, said: str, tmp_path: Path) -> None:
    done = run(["start", "actor", "actor.wasm", "--limit", typed], env=user_environment(tmp_path))
    assert done.returncode == 2
    assert said in done.stderr
    assert "--limit memory_mib=128" in done.stderr


async def test_annotations_set_the_limits_of_the_actor_that_they_start(path: DataPath) -> None:
    reference = path.write(GROWING)
    actor = await path.registry.launch(reference, 1, annotated(memory_mib=8))
    assert (await path.call(actor)).msg == (64).to_bytes(4, "little"), "it stays as it was"
    await path.registry.stop(actor)
    await path.registry.launch(reference, 1, annotated(memory_mib=256))
    assert (await path.call(actor)).msg == (1664).to_bytes(4, "little")


async def test_request_reply_and_deadline_are_those_of_the_actor(path: DataPath) -> None:
    echo = await path.launch(actors.ECHO, annotations=annotated(request_kib=2))
    assert len((await path.call(echo, b"x" * 2048)).msg) == 2048
    answer = await path.call(echo, b"x" * 2049)
    assert "a request of 2049 bytes is above this actor's limit of 2048 bytes" in (answer.error or "")
    short = await path.launch(actors.ECHO, annotations=annotated(reply_kib=1))
    answer = await path.call(short, b"x" * 1025)
    assert "the actor's answer of 1025 bytes is above its limit of 1024 bytes" in (answer.error or "")
    spinning = await path.launch(actors.SPINNING, annotations=annotated(deadline_ms=100))
    answer = await path.call(spinning, b"", allow=5)
    told = re.search(r"ran past its deadline of ([\d.]+) s", answer.error or "")
    assert told is not None and 0.05 < float(told[1]) <= 0.1  # less the time that the call was on its way


async def test_wrong_limits_are_refused_with_their_reason_and_nothing_starts(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    for wrong, reason in (
        ({"wasmhost/limits.memory_mib": "lots"}, "memory_mib: 'lots' is no whole number"),
        (annotated(memory_mib=0), "memory_mib: 0 is no number of MiB from 1 to 4096"),
        (annotated(memry_mib=1), "did you mean memory_mib?"),
    ):
        with pytest.raises(LatticeError, match=reason) as error:
            await path.registry.launch(reference, 1, wrong)
        assert error.value.code is Code.INVALID
    assert path.registry.counts() == {}
    assert len(path.named("actors_start_failed")) + len(path.named("actor_start_failed")) >= 3


async def test_instances_of_one_actor_share_their_limits(path: DataPath) -> None:
    reference = path.write(actors.ECHO)
    actor = await path.registry.launch(reference, 1, {"set": "one", **annotated(memory_mib=16)})
    with pytest.raises(ActorError, match=r"with other limits than memory_mib 32; stop it first") as error:
        await path.registry.launch(reference, 1, {"set": "two", **annotated(memory_mib=32)})
    assert error.value.code is Code.CONFLICT
    await path.registry.launch(reference, 1, {"set": "two", **annotated(memory_mib=16)})
    await path.registry.scale(reference, actor, 2, {"set": "three"})
    assert path.registry.counts() == {actor: 4}
    running = path.registry.get(actor)
    assert running is not None
    assert running.pool.limits.memory == 16 * MIB
