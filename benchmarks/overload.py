"""More clients than an actor can serve: 500 over HTTP on one instance of an actor that computes for 0.65 ms.

``wasmhost up`` with a slow actor on one instance, whose callers give up after a quarter of a second. Rounds alternate
between few clients, who can all be served, and a crowd, most of whom have to be refused. What counts: the crowd's
accepted calls keep the rate of the few, hardly any is accepted in vain (504), the refused ones are told at once,
processes stay as large as they were, and when the crowd is gone the next answer comes as fast as ever. Anything but the
right answer, a 503 with ``Retry-After`` or a 504 is a failure. A refused client asks again after 0.2 s; in the last
figure, at once. Run it with ``python -m benchmarks.overload``.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import wasmtime

from benchmarks.applications import application
from benchmarks.http_crowd import Crowd, crowd
from benchmarks.processes import nats_server
from benchmarks.report import main
from benchmarks.rounds import Figure, Plan, Reading, Result, Round, Series, resident
from lattice.contracts.httpserver import HttpResponse
from tests.support.nats import free_port

TARGET = 0.8
"""Smallest ratio of the rate of accepted calls to that of a few clients alone, where refusals share the cores."""
REFUSED_P50 = 50.0
"""Largest median time to a refusal, in milliseconds; the load generator and three processes share two cores."""
FIRST_ANSWER = 50.0
"""Milliseconds to the first answer when the crowd is gone."""
LATE = 5.0
"""Of 1,000 accepted calls so many may be answered too late."""
GROWTH = 8.0
"""MiB by which host and provider together may grow from the first crowd to the last."""
CLIENTS = 500
FEW = 16
COMPUTE = 0.65e-3
"""Seconds that the actor computes."""
PATIENCE = 250
"""Milliseconds that the HTTP provider gives the actor."""
PAUSE = 0.2
"""Seconds until a refused client asks again."""
_BODY = b"slow\n"
_OPERATION = "HttpServer.HandleRequest"

_GUEST = """
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "{response}")
  (func (export "__guest_call") (param i32 i32) (result i32)
    (local $left i32)
    (local $state i32)
    (local.set $left (i32.const {turns}))
    (loop $again
      (local.set $state
        (i32.add (i32.mul (local.get $state) (i32.const 1664525)) (i32.const 1013904223)))
      (i32.store (i32.const 1024) (local.get $state))
      (local.set $left (i32.sub (local.get $left) (i32.const 1)))
      (br_if $again (local.get $left)))
    (call $response (i32.const 0) (i32.const {length}))
    (i32.const 1)))
"""


def _guest(turns: int) -> bytes:
    response = HttpResponse(body=_BODY).encode()
    text = _GUEST.format(response="".join(f"\\{byte:02x}" for byte in response), turns=turns, length=len(response))
    return bytes(wasmtime.wat2wasm(text))


def _seconds(wasm: bytes) -> float:
    """Processor time of one call of the guest alone."""
    engine = wasmtime.Engine()
    store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
    two = wasmtime.FuncType([wasmtime.ValType.i32()] * 2, [])
    for name in ("__guest_request", "__guest_response"):
        linker.define_func("wasmbus", name, two, lambda _at, _length: None)
    call = linker.instantiate(store, wasmtime.Module(engine, wasm)).exports(store)["__guest_call"]
    assert isinstance(call, wasmtime.Func)
    took = []
    for _ in range(5):
        begun = time.process_time()
        call(store, len(_OPERATION), 0)
        took.append(time.process_time() - begun)
    return min(took)


def _calibrated() -> bytes:
    """A guest that computes for :data:`COMPUTE` on this machine."""
    sample = 1_000_000
    return _guest(max(1, round(sample * COMPUTE / _seconds(_guest(sample)))))


@contextmanager
def _application(url: str, port: int) -> Iterator[dict[str, int]]:
    with tempfile.TemporaryDirectory() as folder:
        actor = Path(folder) / "slow.wasm"
        actor.write_bytes(_calibrated())
        changes = {
            "../actors/echo/echo_s.wasm": str(actor),
            "replicas: 4": "replicas: 1",
            "values:": f'values:\n              timeout_ms: "{PATIENCE}"',
        }
        with application("echo", nats_url=url, port=port, changes=changes) as processes:
            yield processes


def _at(values: Sequence[float], part: float) -> float:
    """A percentile, in milliseconds."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * part))] * 1e3 if ordered else 0.0


def _series(name: str, crowds: Sequence[Crowd]) -> Series:
    """Accepted calls as operations."""
    return Series(
        name,
        [
            Round(
                operations=len(each.accepted),
                seconds=each.seconds,
                failures=each.failed.total(),
                processor=each.processor,
                p50=_at(each.accepted, 0.5) / 1e3,
            )
            for each in crowds
        ],
    )


async def measure(plan: Plan) -> list[Result]:
    port = free_port()
    request = f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    few: list[Crowd] = []
    many: list[Crowd] = []
    stubborn: list[Crowd] = []
    first_answers: list[float] = []
    sizes: list[float] = []
    with nats_server(jetstream=True) as server, _application(server.url, port) as processes:
        watched = {**processes, "nats": server.pid}

        def ask(clients: int, seconds: float = plan.seconds, *, pause: float = PAUSE) -> Crowd:
            return crowd(port, request, _BODY, clients=clients, seconds=seconds, pause=pause, processes=watched)

        ask(FEW, plan.warm_up)
        ask(CLIENTS, plan.warm_up)
        for _ in range(plan.rounds):
            few.append(ask(FEW))
            many.append(ask(CLIENTS))
            first_answers.append(_at(ask(1, 0.0).accepted, 0.0))
            stubborn.append(ask(CLIENTS, pause=0.0))
            sizes.append(sum(resident(pid) for pid in processes.values()) / 2**20)
    reference = _series(f"{FEW} clients", few)
    refused = [each.refused for each in many]
    beside = f"accepted calls of the same crowd: {_medians([each.accepted for each in many])}"
    return [
        Figure(
            name=f"overload, {CLIENTS} clients, accepted calls",
            reference=reference,
            measured=_series(f"{CLIENTS} clients", many),
            target=TARGET,
        ),
        Reading(
            name="overload, accepted and then too late",
            values=[each.late / max(1, len(each.accepted) + each.late) * 1e3 for each in many],
            unit="in 1000",
            beside=f"{PATIENCE} ms that callers wait; {sum(each.late for each in stubborn)} late and"
            f" {sum(len(each.accepted) for each in stubborn)} in time where the refused ask again at once",
            target=LATE,
        ),
        Reading(
            name="overload, time to a refusal, median",
            values=[_at(each, 0.5) for each in refused],
            unit="ms",
            beside=beside,
            target=REFUSED_P50,
        ),
        Reading(
            name="overload, time to a refusal, 99 of 100",
            values=[_at(each, 0.99) for each in refused],
            unit="ms",
            beside=f"{sum(map(len, refused)) / sum(each.seconds for each in many):.0f} refusals a second",
        ),
        Reading(
            name="overload, first answer after it",
            values=first_answers,
            unit="ms",
            beside=f"{FEW} clients: {_medians([each.accepted for each in few])}",
            target=FIRST_ANSWER,
        ),
        Reading(
            name="overload, host and provider grew by",
            values=[sizes[-1] - sizes[0]],
            unit="MiB",
            beside=f"{sizes[0]:.0f} MiB after the first crowd",
            target=GROWTH,
        ),
        Figure(
            name="overload, the refused ask again at once",
            reference=reference,
            measured=_series(f"{CLIENTS} clients", stubborn),
        ),
    ]


def _medians(rounds: Sequence[Sequence[float]]) -> str:
    everything = [each for times in rounds for each in times]
    return f"p50 {_at(everything, 0.5):.0f} ms, p99 {_at(everything, 0.99):.0f} ms"


if __name__ == "__main__":
    main(measure)
