"""The engine notices packages it was not written for, and is quiet when no guest runs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import re
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
import wasmtime

from lattice.errors import Code, GuestFailed
from tests.wasmhost.guest.conftest import PoolMaker, context, guest, no_host_calls
from wasmhost.guest import bindings
from wasmhost.guest.calls import Limits
from wasmhost.guest.engine import Engine, EngineUnusable, VariantName
from wasmhost.guest.pool import ActorPool


def test_the_installed_package_passes_the_probe(tmp_path: Path) -> None:
    engine = Engine.open(tmp_path / "c")
    engine.close()
    assert (engine.variant, engine.fallback) == ("suspendable", "")


def another_major_version(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "51.0.0")
    return r"wasmtime 51\.0\.0 is installed"


def a_newer_python(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    return "not proven with Python 3.14"


def guests_that_do_not_suspend(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(bindings, "define_host_function", refuse)
    return "no such function"


def a_package_without_the_c_functions(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.delitem(sys.modules, "wasmhost.guest.suspendable", raising=False)
    monkeypatch.delitem(sys.modules, "wasmhost.guest.bindings", raising=False)
    monkeypatch.setattr("wasmtime._ffi.filename", "/nowhere/libwasmtime.so")
    return "libwasmtime"


UNFIT = [another_major_version, a_newer_python, guests_that_do_not_suspend, a_package_without_the_c_functions]


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda unfit: unfit.__name__)
async def test_where_guests_cannot_suspend_they_run_on_threads_and_the_log_says_why(
    unfit: Callable[[pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = unfit(monkeypatch)
    with structlog.testing.capture_logs() as logs:
        engine = await asyncio.to_thread(Engine.open, tmp_path / "c")
    try:
        assert engine.variant == "threads"
        assert re.search(reason, engine.fallback)
        assert [entry["reason"] for entry in logs if entry["event"] == "engine.fallback"] == [engine.fallback]
        module = await engine.load(guest("echo"))
        pool = ActorPool(engine, module, actor="M", limits=Limits(), host_calls=no_host_calls, instances=1)
        assert await pool.call("Echo.Now", b"hello", context()) == b"hello"
        await pool.close()
    finally:
        await asyncio.to_thread(engine.close)


@pytest.mark.parametrize("unfit", UNFIT, ids=lambda unfit: unfit.__name__)
def test_a_variant_that_was_asked_for_is_refused_rather_than_replaced(
    unfit: Callable[[pytest.MonkeyPatch], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = threading.active_count()
    with pytest.raises(EngineUnusable, match=unfit(monkeypatch)) as error:
        Engine.open(tmp_path / "c", variant="suspendable")
    assert error.value.code is Code.UNSUPPORTED
    assert threading.active_count() == before


def test_a_package_that_cannot_even_run_threads_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wasmtime.Store, "set_epoch_deadline", None)
    with pytest.raises(EngineUnusable, match="cannot be used"):
        Engine.open(tmp_path / "c", variant="threads")


async def test_closing_ends_a_guest_that_computes_for_nobody(tmp_path: Path) -> None:
    """Its caller gave up early; on a thread it goes on to its own deadline, but not beyond the end of the host."""
    engine = await asyncio.to_thread(lambda: Engine.open(tmp_path / "c", variant="threads"))
    module = await engine.load(guest("endless_loop"))
    pool = ActorPool(engine, module, actor="M", limits=Limits(deadline=600), host_calls=no_host_calls, instances=1)
    await pool.start_one()
    call = asyncio.create_task(pool.call("Spin.Now", b"", context(600)))
    await asyncio.sleep(0.05)
    call.cancel()
    await asyncio.wait([call])
    await pool.close()
    assert engine.instances == 1
    async with asyncio.timeout(5):
        await asyncio.to_thread(engine.close)
    assert engine.instances == 0


def refuse(*_arguments: object) -> int:
    raise bindings.EngineError("no such function")


@pytest.mark.parametrize("variant", ["suspendable", "threads"])
async def test_a_host_that_gets_no_more_threads_says_so_and_goes_on(variant: VariantName, tmp_path: Path) -> None:
    """As under a limit of processes. What was not begun must not run later, on an instance that is closed by then."""
    engine = Engine.open(tmp_path, variant=variant)
    module = await engine.load(guest("endless_loop"))
    limits = Limits(deadline=0.5)
    pools = [
        ActorPool(engine, module, actor="MTEST", limits=limits, host_calls=no_host_calls, instances=1)
        for _ in range(4)  # more than there are idle threads
    ]

    async def call_all() -> list[str]:
        calls = (pool.call("Compute.Always", b"", context()) for pool in pools)
        return [str(outcome) for outcome in await asyncio.gather(*calls, return_exceptions=True)]

    usual = threading.stack_size(1 << 47)  # more than there are addresses
    try:
        outcomes = await call_all()
    finally:
        threading.stack_size(usual)
    try:
        assert any("could not start a thread for it: the system's limit" in outcome for outcome in outcomes), outcomes
        for _ in range(2):
            outcomes = await call_all()
            assert all("past its deadline" in outcome for outcome in outcomes), outcomes
    finally:
        for pool in pools:
            await pool.close()
        await asyncio.to_thread(engine.close)
    assert engine.instances == 0


async def test_epochs_tick_only_while_guests_run(make_pool: PoolMaker, engine: Engine) -> None:
    pool = await make_pool("echo")
    await pool.call("Echo", b"", context())
    assert not engine.ticker.asleep
    async with asyncio.timeout(5):
        while not engine.ticker.asleep:  # noqa: ASYNC110 - a thread of its own goes to sleep
            await asyncio.sleep(0.01)
    await pool.call("Echo", b"", context())
    assert not engine.ticker.asleep


async def test_a_guest_that_starts_while_the_ticker_falls_asleep_is_still_interrupted(make_pool: PoolMaker) -> None:
    """Pauses around the length of the ticker's lingering, then a guest that only a tick can stop."""
    pool = await make_pool("echo")
    spinning = await make_pool("endless_loop")
    for pause in range(40, 72, 2):
        await spinning.start_one()
        await pool.call("Echo", b"", context())
        await asyncio.sleep(pause / 1000)
        started = asyncio.get_running_loop().time()
        with pytest.raises(GuestFailed, match="ran past its deadline"):
            await spinning.call("Spin", b"", context(0.03))
        assert asyncio.get_running_loop().time() - started < 2
