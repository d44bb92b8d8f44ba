"""Guests that do what they must not: their call fails with the reason, everybody else goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import structlog

from lattice.errors import Code, GuestError, GuestFailed, TooLarge
from tests.wasmhost.guest.conftest import PoolMaker, assemble, context
from wasmhost.guest.calls import CallContext, HostCall

LAG = 0.25
"""Seconds the loop may stall, on a busy machine; a tick is 10 ms."""


@asynccontextmanager
async def loop_goes_on() -> AsyncIterator[None]:
    """Fail if the event loop stalls meanwhile."""
    loop = asyncio.get_running_loop()
    worst = 0.0

    async def watch() -> None:
        nonlocal worst
        while True:
            before = loop.time()
            await asyncio.sleep(0.005)
            worst = max(worst, loop.time() - before - 0.005)

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        await asyncio.gather(watcher, return_exceptions=True)
    assert worst < LAG, f"the loop stood still for {worst:.3f} s"


async def test_an_endless_loop_ends_at_its_deadline_while_other_actors_answer(make_pool: PoolMaker) -> None:
    spinning = await make_pool("endless_loop", instances=4, deadline=0.5)
    echo = await make_pool("echo")
    answered = 0
    async with loop_goes_on(), asyncio.TaskGroup() as group:
        spinners = [group.create_task(refused(spinning.call("Spin.Now", b"", context()))) for _ in range(4)]
        while not all(spinner.done() for spinner in spinners):
            assert await echo.call("Echo.Now", b"x", context()) == b"x"
            answered += 1
            await asyncio.sleep(0.001)
    assert answered > 5
    for spinner in spinners:
        assert "Spin.Now: the actor ran past its deadline of 0.5 s" in str(spinner.result())
        assert spinner.result().code is Code.TIMED_OUT
    assert spinning.started == 0, "an interrupted instance is thrown away"


async def refused(call: object) -> GuestFailed:
    with pytest.raises(GuestFailed) as failure:
        await call  # type: ignore[misc]
    return failure.value


async def test_the_callers_deadline_counts_when_it_is_earlier(make_pool: PoolMaker) -> None:
    pool = await make_pool("endless_loop", deadline=30.0)
    started = asyncio.get_running_loop().time()
    assert (await refused(pool.call("Spin.Now", b"", context(0.2)))).code is Code.TIMED_OUT
    assert asyncio.get_running_loop().time() - started < 2


async def test_endless_recursion_traps(make_pool: PoolMaker) -> None:
    pool = await make_pool("endless_recursion")
    async with loop_goes_on():
        for _ in range(3):
            error = await refused(pool.call("Dig.Deep", b"", context()))
            assert str(error) == "Dig.Deep: wasm trap: call stack exhausted"
            assert error.code is Code.GUEST_FAILED


async def test_growing_memory_ends_at_the_limit_and_says_so(make_pool: PoolMaker) -> None:
    pool = await make_pool("memory_growth", memory=4 * 1024 * 1024)
    error = await refused(pool.call("eat", b"", context()))
    assert "wasm trap: wasm `unreachable` instruction executed" in str(error)
    assert "of at most 4194304 bytes" in str(error)
    assert await pool.call("grow", b"xx", context()) == b"", "the next instance works"


async def test_an_instance_that_grew_above_the_retention_limit_is_replaced(make_pool: PoolMaker) -> None:
    pool = await make_pool("memory_growth", retain_memory=2 * 1024 * 1024)
    await pool.call("grow", b"x" * 10, context())
    assert pool.started == 1
    await pool.call("grow", b"x" * 40, context())
    assert pool.started == 0


async def test_a_large_request_does_not_stay_in_an_idle_mailbox(make_pool: PoolMaker) -> None:
    pool = await make_pool("echo", retain_memory=2 * 1024 * 1024)
    await pool.call("Echo.Now", b"x" * 3_000_000, context())
    assert pool.started == 0


@pytest.mark.parametrize("place", range(1, 12))
async def test_pointers_outside_its_memory_trap_the_guest(place: int, make_pool: PoolMaker) -> None:
    async def answer(call: HostCall, _context: CallContext) -> bytes:
        if place == 10:
            raise GuestError("no")
        return b"reply"

    pool = await make_pool("bad_pointers", host_calls=answer)
    error = await refused(pool.call("x" * place, b"payload", context()))
    assert "wasm trap: out of bounds memory access" in str(error)
    assert pool.started == 0
    assert await pool.call("", b"", context()) == b""


async def test_nothing_at_an_impossible_place_is_no_fault(make_pool: PoolMaker) -> None:
    pool = await make_pool("bad_pointers")
    assert await pool.call("x" * 12, b"", context()) == b""
    assert pool.started == 1


async def test_result_0_without_an_error_fails_with_its_exit_code(make_pool: PoolMaker) -> None:
    pool = await make_pool("no_reason")
    error = await refused(pool.call("Do.It", b"", context()))
    assert "operation failed with exit code `0`" in str(error)
    assert pool.started == 1, "that is no reason to throw the instance away"


async def test_result_1_without_a_response_is_an_empty_response(make_pool: PoolMaker) -> None:
    pool = await make_pool("no_response")
    assert await pool.call("Do.It", b"", context()) == b""


async def test_the_last_response_and_the_last_error_count(make_pool: PoolMaker) -> None:
    pool = await make_pool("both")
    assert await pool.call("Do.It", b"x", context()) == b"response"
    with pytest.raises(GuestError, match=r"^error$"):
        await pool.call("Do.It", b"", context())


async def test_a_reply_above_the_limit_is_refused_and_the_instance_kept(make_pool: PoolMaker) -> None:
    pool = await make_pool("large_reply", reply=1_000_000)
    assert len(await pool.call("Give.Me", (1_000_000).to_bytes(4, "little"), context())) == 1_000_000
    with pytest.raises(TooLarge, match="1000001 bytes is above its limit of 1000000"):
        await pool.call("Give.Me", (1_000_001).to_bytes(4, "little"), context())
    assert len(await pool.call("Give.Me", (7).to_bytes(4, "little"), context())) == 7
    assert pool.started == 1


async def test_a_request_above_the_limit_is_refused_before_the_guest_sees_it(make_pool: PoolMaker) -> None:
    pool = await make_pool("echo", request=1000)
    assert await pool.call("Echo.Now", b"x" * 1000, context()) == b"x" * 1000
    with pytest.raises(TooLarge, match="1001 bytes"):
        await pool.call("Echo.Now", b"x" * 1001, context())


async def test_a_request_that_does_not_fit_into_the_memory_limit_is_refused(make_pool: PoolMaker) -> None:
    pool = await make_pool("echo", memory=1024 * 1024)
    with pytest.raises(TooLarge, match="memory limit"):
        await pool.call("Echo.Now", b"x" * 2_000_000, context())
    assert await pool.call("Echo.Now", b"still here", context()) == b"still here"


async def test_a_log_flood_is_cut_off_with_one_notice(make_pool: PoolMaker) -> None:
    pool = await make_pool("log_flood")
    with structlog.testing.capture_logs() as logs:
        async with loop_goes_on():
            assert await pool.call("Log.Much", b"x", context()) == b""
    lines = [entry for entry in logs if entry["event"] == "guest.log"]
    assert 100 < len(lines) <= 256
    assert lines[0]["text"] == "the sky is falling\\x1b[31m\\n", "control characters do not reach the terminal"
    assert lines[0]["actor"] == "MTEST"
    assert lines[0]["log_level"] == "info"
    assert [entry["event"] for entry in logs].count("guest.log_dropped") == 1


async def test_a_guest_that_logs_for_ever_ends_at_its_deadline(make_pool: PoolMaker) -> None:
    pool = await make_pool("log_flood", deadline=0.3)
    with structlog.testing.capture_logs() as logs:
        async with loop_goes_on():
            assert (await refused(pool.call("Log.Much", b"", context()))).code is Code.TIMED_OUT
        async with asyncio.timeout(5):  # a guest on a thread ends a moment after its caller was told
            while not any(entry["event"] == "guest.log_dropped" for entry in logs):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert len([entry for entry in logs if entry["event"] == "guest.log"]) <= 256
    assert [entry["event"] for entry in logs].count("guest.log_dropped") == 1


LOOPS = "(loop $for_ever (br $for_ever))"
BROKEN = {
    "its initialisation loops": (
        f'(func (export "wapc_init") {LOOPS})',
        "the actor's initialisation ran past its deadline of 0.3 s",
    ),
    "its initialisation traps": (
        '(func (export "_start") unreachable)',
        "cannot start: its export _start failed: wasm trap",
    ),
    "its start function loops": (f"(func $s {LOOPS}) (start $s)", "ran past its deadline of 0.3 s"),
    "its start function traps": ("(func $s unreachable) (start $s)", "cannot be instantiated: wasm trap"),
    "its data lies outside its memory": ('(data (i32.const 65536) "x")', "cannot be instantiated"),
    "it wants a second memory": ("(memory 1)", "cannot be instantiated"),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_an_actor_that_cannot_start_says_why(case: str, make_pool: PoolMaker) -> None:
    part, reason = BROKEN[case]
    wasm = assemble(
        '(module (memory (export "memory") 1)'
        f' (func (export "__guest_call") (param i32 i32) (result i32) (i32.const 1)) {part})'
    )
    pool = await make_pool(wasm, deadline=0.3)
    async with loop_goes_on():
        with pytest.raises(GuestFailed) as failure:
            await pool.start_one()
    assert reason in str(failure.value)
    if "loops" not in case:  # such a call ends with its own deadline
        with pytest.raises(GuestFailed) as failure:
            await pool.call("Do.It", b"", context())
        assert reason in str(failure.value), "a call is told the same, not left waiting"


async def test_memory_below_what_the_module_declares_fails_the_start(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", memory=1024 * 1024)
    with pytest.raises(GuestFailed, match=r"exceeds memory limits \(1048576 bytes; raise memory_mib"):
        await pool.start_one()


async def test_init_exports_run_once_in_order_and_may_use_the_host(make_pool: PoolMaker) -> None:
    async def answer(call: HostCall, _context: CallContext) -> bytes:
        assert call == HostCall("", "namespace", "", b"")
        await asyncio.sleep(0.01)
        return b"hello from the host"

    pool = await make_pool("initialises", host_calls=answer)
    with structlog.testing.capture_logs() as logs:
        await pool.start_one()
    assert [entry["text"] for entry in logs if entry["event"] == "guest.log"] == ["hello from the host"]
    for _ in range(2):
        assert await pool.call("Which.Order", b"", context()) == b"IsWS"


async def test_a_guest_that_calls_the_host_for_ever_ends_at_its_deadline(make_pool: PoolMaker) -> None:
    """The host answers each call without waiting, so that nothing but the driver lets the loop run."""
    asked = 0

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        nonlocal asked
        asked += 1
        return call.payload

    pool = await make_pool("endless_calls", host_calls=answer, deadline=0.5)
    async with loop_goes_on():
        assert (await refused(pool.call("Ask.Always", b"", context()))).code is Code.TIMED_OUT
    assert asked > 100


async def test_a_host_call_above_the_limit_fails_for_the_guest(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", request=1000)
    with pytest.raises(GuestError, match=r"a host call of 1013 bytes is above the actor's limit of 1000 bytes"):
        await pool.call("x", b"x" * 1000, context())
    assert pool.started == 1


async def test_tables_are_bounded(make_pool: PoolMaker) -> None:
    wasm = assemble(
        """(module (memory (export "memory") 1) (table $table 1 funcref)
        (func (export "__guest_call") (param i32 i32) (result i32)
          (loop $more (br_if $more (i32.ne (table.grow $table (ref.null func) (i32.const 10000)) (i32.const -1))))
          (i32.const 1)))"""
    )
    pool = await make_pool(wasm)
    assert await pool.call("Grow", b"", context()) == b""
    wide = assemble(
        """(module (memory (export "memory") 1) (table 200000 funcref)
        (func (export "__guest_call") (param i32 i32) (result i32) (i32.const 1)))"""
    )
    with pytest.raises(GuestFailed, match="cannot be instantiated: table minimum size"):
        await (await make_pool(wide)).start_one()


async def test_shared_memory_on_which_a_guest_could_block_the_thread_is_refused(make_pool: PoolMaker) -> None:
    wasm = assemble(
        """(module (memory (export "memory") 1) (memory $shared 1 1 shared)
        (func (export "__guest_call") (param i32 i32) (result i32)
          (memory.atomic.wait32 $shared (i32.const 0) (i32.const 0) (i64.const -1))))"""
    )
    with pytest.raises(GuestFailed, match="shared memory"):
        await (await make_pool(wasm)).start_one()
