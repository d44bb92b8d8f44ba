"""One call at a time per instance; the rest waits in order, is refused at once, or ends with its caller."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import Code, GuestError, GuestFailed, LatticeError, Overloaded, TooLarge, Unreachable
from tests.wasmhost.guest.conftest import PoolMaker, assemble, context, guest
from wasmhost.guest.calls import CallContext, HostCall, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.planning import PATIENCE, Queue, plan, refusal
from wasmhost.guest.pool import ActorPool


async def echo_later(call: HostCall, _context: CallContext) -> bytes:
    await asyncio.sleep(0.002)
    return call.payload


async def until(condition: Callable[[], object]) -> None:
    """Wait for a condition, with a bound."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110 - the pool announces nothing that a caller does not await
            await asyncio.sleep(0.001)


# --- calls ------------------------------------------------------------------------------------------------------


async def test_a_call_with_a_free_instance_is_done_at_once(make_pool: PoolMaker, engine: Engine) -> None:
    pool = await make_pool("echo")
    await pool.start_one()
    call = pool.begin("Echo.Now", b"hello", context())
    # An epoch may pass just then; that is the only reason for a task.
    assert (call.result() if call.done else await call.wait()) == b"hello"
    done = [pool.begin("Echo.Now", b"hello", context()) for _ in range(20)]  # a turn of the loop has time for 50
    if engine.variant == "suspendable":
        assert sum(call.done for call in done) > 10
    for call in done:
        assert (call.result() if call.done else await call.wait()) == b"hello"


async def test_the_host_is_asked_and_its_answer_arrives(make_pool: PoolMaker) -> None:
    asked = []

    async def answer(call: HostCall, given: CallContext) -> bytes:
        asked.append((call, given))
        return b"answer"

    pool = await make_pool("asks_host", host_calls=answer)
    mine = CallContext(deadline=asyncio.get_running_loop().time() + 5, invocation_id="id", depth=3)
    assert await pool.call("Ask.Host", b"question", mine) == b"answer"
    assert asked == [(HostCall("link", "contract", "Ask.Host", b"question"), mine)]


async def test_waiting_for_the_host_is_not_computing(tmp_path: Path) -> None:
    """Epochs that pass during a host call do not send the guest to a worker thread, which is dear."""

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(0.03)  # some ticks, and less than the ticker goes on
        return call.payload

    engine = Engine.open(tmp_path, variant="suspendable")
    module = await engine.load(guest("asks_host"))
    pool = ActorPool(engine, module, actor="MTEST", limits=Limits(), host_calls=answer, instances=1)
    try:
        await pool.start_one()
        before = threading.active_count()
        for _ in range(20):
            assert await pool.call("Ask.Host", b"question", context()) == b"question"
        assert threading.active_count() == before
    finally:
        await pool.close()
        engine.close()


@pytest.mark.parametrize("size", [0, 1, 65_536, 1_000_000, 3_000_000])
async def test_host_calls_of_any_size_pass(size: int, make_pool: PoolMaker) -> None:
    async def answer(call: HostCall, _context: CallContext) -> bytes:
        return call.payload[::-1]

    pool = await make_pool("asks_host", host_calls=answer)
    payload = random.Random(size).randbytes(size)
    for _ in range(2):
        assert await pool.call("Ask.Host", payload, context()) == payload[::-1]


async def test_a_reply_larger_than_the_question_makes_room_for_itself(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=lambda _call, _context: reply(b"r" * 3_000_000))
    assert await pool.call("Ask.Host", b"?", context()) == b"r" * 3_000_000
    assert await pool.call("Ask.Host", b"?", context()) == b"r" * 3_000_000


async def reply(value: bytes) -> bytes:
    return value


async def test_host_calls_that_get_larger_and_larger_need_no_more_room_than_the_largest(make_pool: PoolMaker) -> None:
    """An actor that adds to a list and stores it each time."""
    grows = assemble(
        """(module
        (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
        (import "wasmbus" "__host_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
        (import "wasmbus" "__host_response_len" (func $length (result i32)))
        (import "wasmbus" "__host_response" (func $take (param i32)))
        (memory (export "memory") 32)
        (func (export "__guest_call") (param i32 i32) (result i32)
          (local $size i32)
          (loop $next
            (local.set $size (i32.add (local.get $size) (i32.const 10007)))
            (if (i32.eqz (call $call
                  (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                  (i32.const 0) (local.get $size)))
              (then (unreachable)))
            (call $take (i32.const 0))
            (br_if $next (i32.lt_u (local.get $size) (i32.const 1000000))))
          (call $response (i32.const 0) (call $length))
          (i32.const 1)))"""
    )
    sizes = []

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        sizes.append(len(call.payload))
        return len(sizes).to_bytes(1, "little") * (len(call.payload) + 1000)  # answers grow, too

    pool = await make_pool(grows, host_calls=answer, memory=4 * 1024 * 1024)
    for _ in range(2):
        sizes.clear()
        assert await pool.call("Grow.List", b"", context()) == b"\x64" * 1_001_700
        assert sizes == [10_007 * number for number in range(1, 101)]


async def test_a_failed_host_call_reaches_the_guest_as_text(make_pool: PoolMaker) -> None:
    async def answer(_call: HostCall, _context: CallContext) -> bytes:
        raise LatticeError("Invocation not authorized: añy text ☂")

    pool = await make_pool("asks_host", host_calls=answer)
    with pytest.raises(GuestError, match=r"^Invocation not authorized: añy text ☂$"):
        await pool.call("Ask.Host", b"", context())
    assert pool.started == 1


async def test_a_bug_in_the_host_is_an_internal_error_to_the_guest(make_pool: PoolMaker) -> None:
    async def answer(_call: HostCall, _context: CallContext) -> bytes:
        raise ZeroDivisionError("secret detail")

    pool = await make_pool("asks_host", host_calls=answer)
    with structlog.testing.capture_logs() as logs, pytest.raises(GuestError, match=r"^internal error$"):
        await pool.call("Ask.Host", b"", context())
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [("host_call.failed", "error")]


async def test_host_calls_and_replies_above_the_limits_fail_for_the_guest(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=lambda call, _context: reply(call.payload * 3), request=99, reply=50)
    assert await pool.call("Ask", b"x" * 10, context()) == b"x" * 30
    with pytest.raises(TooLarge, match="above its limit of 50"):  # the error text does not pass either
        await pool.call("Ask", b"x" * 20, context())
    with pytest.raises((GuestError, TooLarge)):
        await pool.call("Ask", b"x" * 98, context())
    assert pool.started == 1


async def test_200_clients_of_one_instance_are_all_answered(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=echo_later, deadline=60.0)

    async def client(number: int) -> None:
        for turn in range(3):
            payload = f"{number}/{turn}".encode()
            assert await pool.call("Ask.Host", payload, context(120)) == payload

    await asyncio.gather(*(client(number) for number in range(200)))
    assert pool.started == 1
    assert (pool.active, pool.waiting) == (0, 0)


async def test_waiting_calls_are_served_in_order(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=echo_later)
    order: list[int] = []

    async def client(number: int) -> None:
        await pool.call("Ask.Host", b"", context())
        order.append(number)

    await asyncio.gather(*(client(number) for number in range(20)))
    assert order == list(range(20))


async def test_instances_start_when_needed_up_to_the_wanted_number(make_pool: PoolMaker) -> None:
    gate = asyncio.Event()

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        await gate.wait()
        return call.payload

    pool = await make_pool("asks_host", host_calls=answer, instances=4)
    await pool.start_one()
    assert (pool.started, pool.wanted) == (1, 4)
    calls = [asyncio.create_task(pool.call("Ask.Host", b"", context())) for _ in range(10)]
    await until(lambda: pool.active == 4)
    assert (pool.started, pool.waiting) == (4, 6)
    gate.set()
    await asyncio.gather(*calls)
    assert pool.started == 4


async def test_long_computations_leave_the_loop_and_share_the_threads(make_pool: PoolMaker) -> None:
    """Four guests compute beside each other while the loop answers others; all come back right."""
    pool = await make_pool("computes", instances=4, deadline=60.0)
    echo = await make_pool("echo")
    work = [
        asyncio.create_task(pool.call("Count", n.to_bytes(4, "little"), context(60))) for n in (3000, 3001, 3002, 3003)
    ]
    lag = 0.0
    while not all(task.done() for task in work):
        before = time.monotonic()
        assert await echo.call("Echo", b"x", context()) == b"x"
        await asyncio.sleep(0.001)
        lag = max(lag, time.monotonic() - before)
    assert [int.from_bytes(task.result(), "little") for task in work] == [3000, 3001, 3002, 3003]
    assert lag < 0.25


# --- overload, deadlines, cancellation --------------------------------------------------------------------------


async def test_overload_is_refused_at_once_with_a_time_to_retry(make_pool: PoolMaker) -> None:
    async def slow(_call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(0.05)
        return b""

    pool = await make_pool("asks_host", host_calls=slow)
    for _ in range(30):  # the average has to learn it
        await pool.call("Ask.Host", b"", context())
    calls = [pool.begin("Ask.Host", b"", context(0.5)) for _ in range(100)]
    refused = [call for call in calls if call.done]
    assert 80 < len(refused) < 99
    for call in refused:
        with pytest.raises(Overloaded, match="is overloaded") as error:
            call.result()
        assert error.value.retry_after > 0.15
    results = await asyncio.gather(*(call.wait() for call in calls if not call.done), return_exceptions=True)
    assert sum(result == b"" for result in results) >= 3


async def test_a_burst_is_seen_before_it_is_served(make_pool: PoolMaker) -> None:
    """Calls that ran one after the other in the callback would leave the rest unseen, to be served when it is late."""
    pool = await make_pool("computes")
    payload = (40).to_bytes(4, "little")
    for _ in range(3):
        await pool.call("Count", payload, context())
    calls = [pool.begin("Count", payload, context(1.0)) for _ in range(2000)]
    at_once = [call for call in calls if call.done]
    results = await asyncio.gather(*(call.wait() for call in calls if not call.done), return_exceptions=True)
    assert len(at_once) > 1000, "refused, but for the first few"
    refusals = 0
    for call in at_once:
        try:
            assert call.result() == payload
        except Overloaded:
            refusals += 1
    assert refusals > 1000
    assert payload in results, "some wait, and how many of them in vain is for this machine's other work to say"


async def test_once_calls_are_fast_again_no_slow_times_before_refuse_any(make_pool: PoolMaker) -> None:
    pause = 0.5

    async def answer(_call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(pause)
        return b""

    pool = await make_pool("asks_host", host_calls=answer)
    slow = [pool.begin("Ask.Host", b"", context()) for _ in range(5)]
    await asyncio.gather(*(call.wait() for call in slow if not call.done))

    pause = 0.001
    refused = [await three_at_once(pool) for _ in range(100)]
    assert refused[0], "the slow times are known"
    assert not any(refused[50:])


async def three_at_once(pool: ActorPool) -> int:
    """How many of them were refused."""
    calls = [pool.begin("Ask.Host", b"", context(1.0)) for _ in range(3)]
    results = await asyncio.gather(*(call.wait() for call in calls), return_exceptions=True)
    return sum(isinstance(result, Overloaded) for result in results)


async def test_one_slow_call_at_the_start_refuses_no_burst(make_pool: PoolMaker) -> None:
    """The first call of an actor often takes longer than all that follow."""
    pauses = iter([0.3])

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(next(pauses, 0))
        return call.payload

    pool = await make_pool("asks_host", host_calls=answer)
    await pool.call("Ask.Host", b"", context(10))
    answers = await asyncio.gather(*(pool.call("Ask.Host", b"%d" % number, context(10)) for number in range(100)))
    assert answers == [b"%d" % number for number in range(100)]


async def test_a_refusal_can_be_asked_for_before_the_call_is_made(make_pool: PoolMaker) -> None:
    gate = asyncio.Event()

    async def answer(_call: HostCall, _context: CallContext) -> bytes:
        await gate.wait()
        return b""

    pool = await make_pool("asks_host", host_calls=answer, queue_bytes=10_000)
    await pool.start_one()
    assert pool.refusal(20_000, 1.0) is None, "an instance is free"
    calls = [pool.begin("Ask.Host", b"", context())]
    refused = pool.refusal(20_000, 1.0)
    assert isinstance(refused, Overloaded)
    assert "is overloaded" in str(refused)
    assert pool.refusal(1000, 1.0) is None
    gate.set()
    await asyncio.gather(*(call.wait() for call in calls))


async def test_an_actor_that_once_ran_out_of_time_gets_another_chance(make_pool: PoolMaker) -> None:
    slow = True

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(30 if slow else 0)
        return call.payload

    pool = await make_pool("asks_host", host_calls=answer)
    with pytest.raises(GuestFailed, match="ran past its deadline"):
        await pool.call("Ask.Host", b"", context(0.3))
    slow = False
    for _ in range(3):
        assert await pool.call("Ask.Host", b"x", context(0.3)) == b"x"


async def test_waiting_requests_are_bounded_in_bytes(make_pool: PoolMaker) -> None:
    gate = asyncio.Event()

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        await gate.wait()
        return b""

    pool = await make_pool("asks_host", host_calls=answer, queue_bytes=1_000_000)
    calls = [pool.begin("Ask.Host", b"x" * 100_000, context()) for _ in range(20)]
    assert sum(call.done for call in calls) == 11
    gate.set()
    await asyncio.gather(*(call.wait() for call in calls if not call.done))
    assert not pool.begin("Ask.Host", b"x" * 100_000, context()).done or pool.started


async def test_a_self_call_on_one_instance_ends_by_deadline_and_does_not_wedge_the_pool(make_pool: PoolMaker) -> None:
    pools: list[ActorPool] = []

    async def call_itself(call: HostCall, outer: CallContext) -> bytes:
        if call.payload != b"again":
            return call.payload
        inner = CallContext(deadline=outer.deadline - 0.1, depth=outer.depth + 1)
        return await pools[0].call("Ask.Self", b"inner", inner)

    pools.append(await make_pool("asks_host", host_calls=call_itself))
    with pytest.raises(GuestError, match="no instance of the actor was free"):
        await pools[0].call("Ask.Self", b"again", context(0.4))
    assert await pools[0].call("Ask.Self", b"plain", context()) == b"plain"
    assert pools[0].started == 1, "the actor dealt with the error itself; its instance is as good as before"
    pools[0].resize(2)
    assert await pools[0].call("Ask.Self", b"again", context()) == b"inner"


async def test_a_self_call_that_gets_the_whole_deadline_ends_too(make_pool: PoolMaker) -> None:
    pools: list[ActorPool] = []

    async def call_itself(call: HostCall, outer: CallContext) -> bytes:
        return await pools[0].call("Ask.Self", call.payload, outer)

    pools.append(await make_pool("asks_host", host_calls=call_itself))
    with pytest.raises((GuestFailed, GuestError)):
        await pools[0].call("Ask.Self", b"", context(0.2))
    assert (pools[0].active, pools[0].waiting) == (0, 0)


async def test_a_host_call_may_take_no_longer_than_the_call_in_which_it_is_made(make_pool: PoolMaker) -> None:
    """Or its failure could not be told to the guest: the call would end before."""
    left = []

    async def answer(_call: HostCall, given: CallContext) -> bytes:
        left.append(given.deadline - asyncio.get_running_loop().time())
        return b""

    pool = await make_pool("asks_host", host_calls=answer, deadline=2.0)
    await pool.call("Ask.Host", b"", context(60))
    await pool.call("Ask.Host", b"", context(1))
    assert left[0] <= 2
    assert left[1] <= 1


async def test_a_host_call_that_never_answers_ends_at_the_deadline(make_pool: PoolMaker) -> None:
    async def never(_call: HostCall, _context: CallContext) -> bytes:
        await asyncio.Event().wait()
        return b""

    pool = await make_pool("asks_host", host_calls=never)
    with pytest.raises(GuestFailed, match="waiting for the answer to a host call") as error:
        await pool.call("Ask.Host", b"", context(0.1))
    assert error.value.code is Code.TIMED_OUT
    assert pool.started == 0


async def test_a_caller_that_gave_up_in_the_queue_is_not_served(make_pool: PoolMaker) -> None:
    served: list[bytes] = []

    async def slow(call: HostCall, _context: CallContext) -> bytes:
        served.append(call.payload)
        await asyncio.sleep(0.2)
        return b""

    pool = await make_pool("asks_host", host_calls=slow)
    first = asyncio.create_task(pool.call("Ask.Host", b"first", context()))
    await until(lambda: served)
    with pytest.raises(Unreachable) as error:
        await pool.call("Ask.Host", b"second", context(0.05))
    assert error.value.code is Code.TIMED_OUT
    await first
    await pool.call("Ask.Host", b"third", context())
    assert served == [b"first", b"third"]


@pytest.mark.parametrize("guest", ["asks_host", "endless_loop"])
@pytest.mark.parametrize("after", [0.0, 0.001, 0.1])
async def test_cancelling_a_call_throws_its_instance_away(guest: str, after: float, make_pool: PoolMaker) -> None:
    async def slow(_call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(30)
        return b""

    pool = await make_pool(guest, host_calls=slow)
    await pool.start_one()
    call = asyncio.create_task(pool.call("Do.It", b"", context()))
    await asyncio.sleep(after)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert pool.active == 0
    await pool.start_one()
    assert pool.started == 1


async def test_a_cancelled_call_leaves_the_queue(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=echo_later)
    calls = [asyncio.create_task(pool.call("Ask.Host", b"%d" % number, context())) for number in range(10)]
    await asyncio.sleep(0)
    for call in calls[1::2]:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[::2] == [b"%d" % number for number in range(0, 10, 2)]
    assert all(isinstance(result, asyncio.CancelledError) for result in results[1::2])


async def test_a_call_that_nobody_awaits_does_not_keep_its_instance(make_pool: PoolMaker) -> None:
    """A task that is cancelled before its first step never gets to wait()."""
    pool = await make_pool("asks_host", host_calls=echo_later)
    await pool.start_one()
    call = pool.begin("Ask.Host", b"", context())
    assert not call.done
    task = asyncio.ensure_future(call.wait())
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    del call, task
    await until(lambda: pool.active == 0)
    assert await pool.call("Ask.Host", b"next", context()) == b"next"


# --- scaling and ending -----------------------------------------------------------------------------------------


async def test_scaling_down_lets_calls_in_flight_finish(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=echo_later, instances=5)
    calls = [asyncio.create_task(pool.call("Ask.Host", b"x", context())) for _ in range(20)]
    await until(lambda: pool.active == 5)
    pool.resize(2)
    assert await asyncio.gather(*calls) == [b"x"] * 20
    assert pool.started == 2
    pool.resize(0)
    assert pool.started == 0
    with pytest.raises(Unreachable) as error:
        await pool.call("Ask.Host", b"x", context())
    assert error.value.code is Code.NOT_RUNNING


async def test_drain_returns_when_the_last_call_is_answered(make_pool: PoolMaker) -> None:
    pool = await make_pool("asks_host", host_calls=echo_later)
    await pool.drain()
    calls = [asyncio.create_task(pool.call("Ask.Host", b"x", context())) for _ in range(10)]
    await asyncio.sleep(0)
    await pool.drain()
    assert (pool.active, pool.waiting) == (0, 0)
    assert await asyncio.gather(*calls) == [b"x"] * 10


async def test_close_ends_calls_with_an_error(make_pool: PoolMaker) -> None:
    async def slow(_call: HostCall, _context: CallContext) -> bytes:
        await asyncio.sleep(30)
        return b""

    waiting = await make_pool("asks_host", host_calls=slow)
    spinning = await make_pool("endless_loop")
    calls = [asyncio.create_task(pool.call("Do.It", b"", context())) for pool in (waiting, waiting, spinning)]
    await until(lambda: waiting.active and waiting.waiting and spinning.active)
    await asyncio.sleep(0.05)
    await asyncio.gather(waiting.close(), spinning.close())
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, Unreachable)
        assert result.code is Code.NOT_RUNNING
    assert (waiting.started, spinning.started) == (0, 0)


async def test_close_ends_calls_that_are_ending_or_that_nobody_awaits_yet(make_pool: PoolMaker) -> None:
    async def slow(_call: HostCall, _context: CallContext) -> bytes:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0.2)  # it is late, and takes a moment to end
        return b""

    late = await make_pool("asks_host", host_calls=slow)
    call = asyncio.create_task(late.call("Ask.Host", b"", context(0.1)))
    await asyncio.sleep(0.15)
    await late.close()
    with pytest.raises(LatticeError):
        await call

    new = await make_pool("asks_host", host_calls=slow)
    await new.start_one()
    begun = asyncio.create_task(new.begin("Ask.Host", b"", context()).wait())
    await new.close()
    assert new.started == 0
    with pytest.raises(Unreachable, match="was stopped on this host"):
        await begun


async def test_10_000_calls_leave_nothing_behind(make_pool: PoolMaker, engine: Engine) -> None:
    async def answer(call: HostCall, _context: CallContext) -> bytes:
        if call.payload == b"fail":
            raise LatticeError("no")
        return call.payload

    plain = await make_pool("echo", instances=2)
    asking = await make_pool("asks_host", host_calls=answer, instances=2)
    failing = await make_pool("bad_pointers", host_calls=answer)
    await until(lambda: engine.instances == 0)  # of earlier tests

    async def calls(number: int) -> None:
        for _ in range(number):
            await plain.call("Echo.Now", b"x" * 100, context())
            await asking.call("Ask.Host", b"x" * 100, context())
            with suppress(GuestError):
                await asking.call("Ask.Host", b"fail", context())

    async def poisoned(number: int) -> None:
        for _ in range(number):
            with suppress(GuestFailed):
                await failing.call("x", b"", context())

    await asyncio.gather(*(calls(100) for _ in range(4)), poisoned(30))
    before = usage()
    await asyncio.gather(*(calls(830) for _ in range(4)), poisoned(300))
    after = usage()
    assert engine.instances == plain.started + asking.started == 4
    assert after[0] == before[0]
    assert after[1] < before[1] + 8_000


async def test_hundreds_of_idle_instances_take_little_memory(make_pool: PoolMaker) -> None:
    gate, number = asyncio.Event(), 300

    async def answer(_call: HostCall, _context: CallContext) -> bytes:
        await gate.wait()
        return b""

    pool = await make_pool("asks_host", host_calls=answer, instances=number, deadline=120.0)
    await pool.start_one()
    before = usage()[1]
    calls = [asyncio.create_task(pool.call("Ask.Host", b"", context(120))) for _ in range(number)]
    async with asyncio.timeout(120):
        while pool.active < number:  # noqa: ASYNC110 - the pool announces nothing that a caller does not await
            await asyncio.sleep(0.01)
    gate.set()
    await asyncio.gather(*calls)
    assert (pool.started, pool.active) == (number, 0)
    assert (usage()[1] - before) / number < 150, "KiB each"


def usage() -> tuple[int, int]:
    """Open descriptors, resident memory in KiB."""
    gc.collect()
    with open("/proc/self/statm", encoding="ascii") as file:
        resident = int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // 1024)
    return len(os.listdir("/proc/self/fd")), resident


# --- decisions --------------------------------------------------------------------------------------------------

small = st.integers(0, 50)


@given(waiting=small, idle=small, busy=small, starting=small, wanted=small)
def test_a_plan_never_exceeds_what_is_there_or_wanted(
    waiting: int, idle: int, busy: int, starting: int, wanted: int
) -> None:
    size = idle + busy + starting
    decided = plan(waiting=waiting, idle=idle, starting=starting, size=size, wanted=wanted)
    assert decided.assign == min(waiting, idle)
    assert 0 <= decided.retire <= idle - decided.assign
    assert decided.grow == 0 or size + decided.grow <= wanted
    assert not (decided.grow and decided.retire)
    if waiting and size == 0 and wanted:
        assert decided.grow, "nobody waits without hope"
    if size <= wanted:
        assert decided.retire == 0


@given(
    waiting=st.integers(0, 10_000),
    service=st.floats(0, 10),
    pace=st.floats(0, 10),
    remaining=st.floats(0, 60),
    instances=st.integers(1, 9),
)
def test_the_expected_end_decides(waiting: int, service: float, pace: float, remaining: float, instances: int) -> None:
    queue = Queue(
        waiting=waiting,
        waiting_bytes=0,
        byte_limit=10**9,
        instances=instances,
        service_time=service,
        pace=pace,
    )
    end = (waiting + 0.5) * max(pace, service / instances) + service
    assert (refusal(queue, size=1, remaining=remaining) is not None) == (end > remaining * PATIENCE)
