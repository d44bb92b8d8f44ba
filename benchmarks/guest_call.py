"""A warm guest call beside its Wasm alone, in one process and one run.

The guest takes a request of 126 bytes, computes for about 7 µs as a real echo actor does (writes its request as hex
text, again and again), and answers with what it got. Reference: the same function repeated inside Wasm with imports
that do nothing, so that what remains is the guest's own work. Rounds alternate; the result is the median of the ratios
per round. What is compared is processor time of the whole process, all threads: neither side waits for anything, and
on a busy machine elapsed time would measure the neighbours. Run it with ``python -m benchmarks.guest_call``.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from pathlib import Path

import wasmtime

from benchmarks.report import main
from benchmarks.rounds import Figure, Plan, Round, alternate
from wasmhost.guest import bindings
from wasmhost.guest.calls import CallContext, HostCall, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.pool import ActorPool

TARGET = 2.5
"""Largest ratio of a warm call to its Wasm alone."""
COMPUTE = 7e-6
"""Seconds that the guest computes."""
_REQUEST = bytes(range(126))
_OPERATION = "HttpServer.HandleRequest"

_GUEST = """
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (memory (export "memory") 2)
  (data (i32.const 512) "0123456789abcdef")
  (func $guest_call (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    (local $left i32) (local $byte i32) (local $at i32)
    (call $request (i32.const 0) (i32.const 1024))
    (local.set $left (i32.const {turns}))
    (loop $again
      (local.set $at (i32.rem_u (local.get $left) (i32.const 126)))
      (local.set $byte (i32.load8_u offset=1024 (local.get $at)))
      (i32.store8 offset=4096
        (i32.shl (local.get $at) (i32.const 1))
        (i32.load8_u offset=512 (i32.shr_u (local.get $byte) (i32.const 4))))
      (i32.store8 offset=4097
        (i32.shl (local.get $at) (i32.const 1))
        (i32.load8_u offset=512 (i32.and (local.get $byte) (i32.const 15))))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (call $response (i32.const 1024) (local.get $payload))
    (i32.const 1))
  (func (export "repeat") (param $times i32) (param $operation i32) (param $payload i32)
    (loop $again
      (drop (call $guest_call (local.get $operation) (local.get $payload)))
      (local.set $times (i32.sub (local.get $times) (i32.const 1)))
      (br_if $again (local.get $times)))))
"""

_STUBS = """
(module
  (func (export "__guest_request") (param i32 i32))
  (func (export "__guest_response") (param i32 i32)))
"""


class WasmAlone:
    """Repeats the guest's function inside Wasm, on an engine with the settings of the host."""

    def __init__(self, wasm: bytes) -> None:
        engine = bindings.new_engine()
        self._store = wasmtime.Store(engine)
        self._store.set_epoch_deadline(1 << 40)
        linker = wasmtime.Linker(engine)
        stubs = wasmtime.Instance(self._store, wasmtime.Module(engine, bytes(wasmtime.wat2wasm(_STUBS))), [])
        linker.define_instance(self._store, "wasmbus", stubs)
        instance = linker.instantiate(self._store, wasmtime.Module(engine, wasm))
        repeat = instance.exports(self._store)["repeat"]
        assert isinstance(repeat, wasmtime.Func)
        self._repeat = repeat

    def run(self, seconds: float) -> Round:
        calls, start = 0, time.process_time()
        end = start + seconds
        while time.process_time() < end:
            self._repeat(self._store, 1000, len(_OPERATION), len(_REQUEST))
            calls += 1000
        return Round(operations=calls, seconds=time.process_time() - start)


async def _no_host_calls(_call: HostCall, _context: CallContext) -> bytes:
    raise AssertionError("this guest asks for nothing")


async def _warm_calls(pool: ActorPool, seconds: float) -> Round:
    """Each call as the host makes it for a message."""
    loop = asyncio.get_running_loop()
    calls = failures = 0
    start = time.process_time()
    end = start + seconds
    while time.process_time() < end:
        for _ in range(100):
            call = pool.begin(_OPERATION, _REQUEST, CallContext(deadline=loop.time() + 2.0))
            answer = call.result() if call.done else await call.wait()
            failures += answer != _REQUEST
        calls += 100
    return Round(operations=calls, seconds=time.process_time() - start, failures=failures)


def _guest(turns: int) -> bytes:
    return bytes(wasmtime.wat2wasm(_GUEST.replace("{turns}", str(turns))))


def _calibrated() -> bytes:
    """A guest that computes for about 7 µs on this machine."""
    sample = 10_000
    per_turn = min(WasmAlone(_guest(sample)).run(0.1).each for _ in range(3)) / sample
    return _guest(max(1, round(COMPUTE / per_turn)))


async def measure(plan: Plan) -> list[Figure]:
    wasm = _calibrated()
    alone = WasmAlone(wasm)
    with tempfile.TemporaryDirectory() as folder:
        engine = Engine.open(Path(folder) / "compiled")
        pool = ActorPool(
            engine, await engine.load(wasm), actor="bench", limits=Limits(), host_calls=_no_host_calls, instances=1
        )

        async def alone_round(seconds: float = plan.seconds) -> Round:
            return alone.run(seconds)

        async def warm_round(seconds: float = plan.seconds) -> Round:
            return await _warm_calls(pool, seconds)

        try:
            await pool.start_one()
            await alone_round(plan.warm_up)
            await warm_round(plan.warm_up)
            series = await alternate(plan, {"Wasm alone": alone_round, "warm call": warm_round})
        finally:
            await pool.close()
            engine.close()
    return [
        Figure(
            name="guest call, warm",
            reference=series["Wasm alone"],
            measured=series["warm call"],
            target=TARGET,
            of_time=True,
        )
    ]


if __name__ == "__main__":
    main(measure)
