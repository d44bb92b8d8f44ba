"""The engine refuses packages it was not written for, and is quiet when no guest runs."""

from __future__ import annotations

import asyncio
import importlib.metadata
import threading
from pathlib import Path

import pytest

from lattice.errors import Code, GuestFailed
from tests.wasmhost.guest.conftest import PoolMaker, context
from wasmhost.guest import bindings
from wasmhost.guest.engine import Engine, EngineUnusable


def test_the_installed_package_passes_the_probe(engine: Engine) -> None:
    assert engine.variant == "suspendable"


def test_another_major_version_of_wasmtime_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "51.0.0")
    with pytest.raises(EngineUnusable, match=r"wasmtime 51\.0\.0 is installed") as error:
        Engine.open(tmp_path / "c")
    assert error.value.code is Code.UNSUPPORTED


def test_a_package_whose_guests_do_not_suspend_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = threading.active_count()
    monkeypatch.setattr(bindings, "define_host_function", refuse)
    with pytest.raises(EngineUnusable, match="no such function"):
        Engine.open(tmp_path / "c")
    assert threading.active_count() == before


def refuse(*_arguments: object) -> int:
    raise bindings.EngineError("no such function")


async def test_epochs_tick_only_while_guests_run(make_pool: PoolMaker, engine: Engine) -> None:
    pool = await make_pool("echo")
    await pool.call("Echo", b"", context())
    assert not engine.parts.ticker.asleep
    async with asyncio.timeout(5):
        while not engine.parts.ticker.asleep:  # noqa: ASYNC110 - a thread of its own goes to sleep
            await asyncio.sleep(0.01)
    await pool.call("Echo", b"", context())
    assert not engine.parts.ticker.asleep


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
