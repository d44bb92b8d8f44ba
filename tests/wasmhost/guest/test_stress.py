"""Everything at once, and files that are nearly modules: right results, clear errors, nothing left."""

from __future__ import annotations

import asyncio
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lattice.errors import GuestError, GuestFailed, LatticeError, Unreachable
from tests.wasmhost.guest.conftest import PoolMaker, context, guest
from wasmhost.guest.calls import CallContext, HostCall, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.module import UnusableModule
from wasmhost.guest.pool import ActorPool


async def test_calls_of_all_kinds_mixed_with_cancellation_come_back_right(make_pool: PoolMaker) -> None:
    dice = random.Random(7)

    async def answer(call: HostCall, _context: CallContext) -> bytes:
        kind = call.payload[:1]
        if kind == b"s":
            await asyncio.sleep(dice.random() / 200)
        elif kind == b"e":
            raise LatticeError(call.payload.decode())
        return call.payload * 2

    asking = await make_pool("asks_host", host_calls=answer, instances=8)
    computing = await make_pool("computes", instances=4, deadline=60.0)
    spinning = await make_pool("endless_loop", instances=2, deadline=0.05)

    async def ask(number: int) -> None:
        kind = dice.choice("ise")
        payload = f"{kind}{number}".encode()
        if kind == "e":
            try:
                await asking.call("Ask", payload, context(60))
            except GuestError as error:
                assert str(error) == payload.decode()
            else:
                raise AssertionError("the error was lost")
        else:
            assert await asking.call("Ask", payload, context(60)) == payload * 2

    async def compute(number: int) -> None:
        payload = dice.randrange(1, 200).to_bytes(4, "little") + str(number).encode()
        assert await computing.call("Count", payload, context(60)) == payload

    async def spin() -> None:
        try:
            await spinning.call("Spin", b"", context(60))
        except (GuestFailed, Unreachable):
            return
        raise AssertionError("an endless loop ended")

    async def cancelled(number: int) -> None:
        task = asyncio.create_task(dice.choice((ask, compute))(number))
        await asyncio.sleep(dice.random() / 100)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() or task.exception() is None

    work = [dice.choice((ask, ask, compute, cancelled))(number) for number in range(600)]
    await asyncio.gather(*work, *(spin() for _ in range(6)))
    for pool in (asking, computing, spinning):
        assert (pool.active, pool.waiting) == (0, 0)
        assert pool.started <= pool.wanted


GOOD = {name: guest(name) for name in ("echo", "asks_host", "both", "initialises")}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    name=st.sampled_from(sorted(GOOD)),
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=3),
    payload=st.binary(max_size=40),
)
def test_a_damaged_module_is_refused_or_fails_and_nothing_worse(
    engine: Engine, name: str, changes: list[tuple[int, int]], payload: bytes
) -> None:
    wasm = bytearray(GOOD[name])
    for position, value in changes:
        wasm[position % len(wasm)] = value
    asyncio.run(_try(engine, bytes(wasm), payload))


async def _try(engine: Engine, wasm: bytes, payload: bytes) -> None:
    async def answer(call: HostCall, _context: CallContext) -> bytes:
        return call.payload

    try:
        module = await engine.load(wasm)
    except UnusableModule as error:
        assert str(error)
        return
    pool = ActorPool(engine, module, actor="M", limits=Limits(deadline=0.2), host_calls=answer, instances=1)
    try:
        await pool.call("Some.Operation", payload, context(0.2))
    except LatticeError as error:
        assert isinstance(str(error), str)
    finally:
        await pool.close()
