"""One engine per variant and test run, guests from ``tests/guests``, and pools that are closed after their test.

Every test that asks for ``engine`` or ``make_pool`` runs twice: with guests as coroutines and with guests on threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from wasmhost.guest.calls import CallContext, HostCall, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.pool import ActorPool

GUESTS = Path(__file__).parents[2] / "guests"

PoolMaker = Callable[..., Awaitable[ActorPool]]


@pytest.fixture(scope="session", params=["suspendable", "threads"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    engine = Engine.open(tmp_path_factory.mktemp("compiled"), variant=request.param)
    assert engine.variant == request.param
    yield engine
    engine.close()


def guest(name: str) -> bytes:
    """A guest of ``tests/guests`` in binary form."""
    return assemble((GUESTS / f"{name}.wat").read_text("utf-8"))


def assemble(text: str) -> bytes:
    return bytes(wasmtime.wat2wasm(text))


def context(seconds: float = 10.0) -> CallContext:
    """A caller that gives up after so many seconds."""
    return CallContext(deadline=asyncio.get_running_loop().time() + seconds)


async def no_host_calls(call: HostCall, _context: CallContext) -> bytes:
    raise AssertionError(f"unexpected host call {call}")


@pytest.fixture
async def make_pool(engine: Engine) -> AsyncIterator[PoolMaker]:
    """Makes pools; after the test they are closed and nothing of them is left."""
    before = engine.instances
    pools: list[ActorPool] = []

    async def make(
        wasm: bytes | str, *, host_calls: Any = no_host_calls, instances: int = 1, **limits: Any
    ) -> ActorPool:
        module = await engine.load(guest(wasm) if isinstance(wasm, str) else wasm)
        if engine.variant == "threads":
            limits.setdefault("deadline", 3.0)  # a computation that was cancelled goes on until then
        pool = ActorPool(
            engine, module, actor="MTEST", limits=Limits(**limits), host_calls=host_calls, instances=instances
        )
        pools.append(pool)
        return pool

    yield make
    for pool in pools:
        await pool.close()
    assert [pool.started for pool in pools] == [0] * len(pools)
    # A guest that was computing is unwound on its thread, at its next tick.
    async with asyncio.timeout(5):
        while engine.instances > before:  # noqa: ASYNC110 - a thread ends it, without an event for us
            await asyncio.sleep(0.01)
