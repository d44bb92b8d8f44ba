"""Every recorded call of a public actor: what crosses the bridge is what was recorded, byte for byte."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from lattice.errors import GuestError, GuestFailed, LatticeError
from tests.wasmhost.guest.conftest import PoolMaker, assemble, context
from tests.wasmhost.guest.recorded import CALLS, MODULES, guest_text
from wasmhost.guest.calls import CallContext, HostCall

FIXTURES = "WASMHOST_ACTOR_FIXTURES"


class Script:
    """Answers host calls as recorded and remembers what was asked."""

    def __init__(self, recorded: list[dict[str, Any]]) -> None:
        self._replies: Iterator[dict[str, Any]] = iter([call["reply"] for call in recorded])
        self.expected = [
            HostCall(call["binding"], call["namespace"], call["operation"], bytes.fromhex(call["payload"]))
            for call in recorded
        ]
        self.asked: list[HostCall] = []

    async def __call__(self, call: HostCall, _context: CallContext) -> bytes:
        self.asked.append(call)
        reply = next(self._replies)
        data = bytes.fromhex(reply["data"])
        if reply["status"] == 1:
            return data
        raise LatticeError(data.decode())


async def replay(call: dict[str, Any], wasm: bytes, make_pool: PoolMaker) -> None:
    script = Script(call["host_calls"])
    pool = await make_pool(wasm, host_calls=script)
    response = error = trap = None
    with structlog.testing.capture_logs() as logs:
        try:
            response = await pool.call(call["operation"], bytes.fromhex(call["request"]), context())
        except GuestError as failure:
            error = str(failure)
        except GuestFailed as failure:
            trap = str(failure)
    recorded = call["response"]
    assert (response, error) == (None if recorded is None else bytes.fromhex(recorded), call["error"])
    assert (trap is None) == (call["trap"] is None)
    assert trap is None or call["trap"] in trap
    assert script.asked == script.expected
    assert [entry["text"] for entry in logs if entry["event"] == "guest.log"] == call.get("console_log", [])
    versions = MODULES[call["module"]]["version_export"] or {"": 0}
    assert pool.api_version == next(iter(versions.values()))


@pytest.mark.parametrize("call", CALLS, ids=[call["id"] for call in CALLS])
async def test_a_guest_that_makes_the_recorded_calls_gets_the_recorded_bytes(
    call: dict[str, Any], make_pool: PoolMaker
) -> None:
    await replay(call, assemble(guest_text(call)), make_pool)


def test_every_recording_that_a_correct_host_can_produce_is_here() -> None:
    assert len(CALLS) == 118


@pytest.mark.parametrize("change", ["request", "operation", "reply", "status"])
async def test_a_generated_guest_notices_a_difference(change: str, make_pool: PoolMaker) -> None:
    """The test of the test: a host that hands over something else is caught by the guest."""
    call = next(call for call in CALLS if call["id"] == "kvcounter.increment")
    wasm = assemble(guest_text(call))
    operation, request = call["operation"], bytes.fromhex(call["request"])
    reply = bytes.fromhex(call["host_calls"][0]["reply"]["data"])

    async def answer(_call: HostCall, _context: CallContext) -> bytes:
        if change == "status":
            raise LatticeError("no")
        return bytes([reply[0] ^ 1]) if change == "reply" else reply

    if change == "request":
        request = request[:-1] + b"\1"
    elif change == "operation":
        operation = operation[:-1] + "T"
    pool = await make_pool(wasm, host_calls=answer)
    with pytest.raises(GuestError, match=r"^step "):
        await pool.call(operation, request, context())


def real_modules() -> dict[str, bytes]:
    """The recorded modules that lie in the folder named by WASMHOST_ACTOR_FIXTURES, found by their SHA-256."""
    folder = os.environ.get(FIXTURES)
    if not folder:
        return {}
    sizes = {module["size"] for module in MODULES.values()}
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.stat().st_size in sizes]
    by_digest = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in files}
    return {
        name: by_digest[module["sha256"]].read_bytes()
        for name, module in MODULES.items()
        if module["sha256"] in by_digest
    }


async def test_real_modules_answer_as_recorded(make_pool: PoolMaker, note: Callable[[str], None]) -> None:
    modules = real_modules()
    ran = 0
    for call in CALLS:
        if call["module"] in modules:
            await replay(call, modules[call["module"]], make_pool)
            ran += 1
    where = os.environ.get(FIXTURES) or f"no folder named by {FIXTURES}"
    note(f"real actors: {len(modules)} of {len(MODULES)} modules, {ran} calls ({where})")
    assert modules or not os.environ.get(FIXTURES), f"{FIXTURES} names a folder without any of the recorded modules"
