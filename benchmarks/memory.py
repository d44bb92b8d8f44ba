"""What stays in memory: 1,000 idle instances of an actor, and 10,000 calls that are over.

Instances: one ``wasmhost host`` with the shipped counter, whose key-value provider is this process and answers nobody
before all 1,000 calls wait for it. Then each instance exists, and idles. Beside: the same host with one.

Calls: the shipped counter as ``wasmhost up`` runs it, asked 10,000 times over HTTP per round by clients that come and
go. No descriptor may be left of them, and no bytes but the ids which host and key-value provider remember for some
minutes, lest an invocation be accepted twice: about 50 bytes each, bounded in number. Beside: the processes' sizes.
Run it with ``python -m benchmarks.memory``.
"""

from __future__ import annotations

import asyncio
import time
from itertools import pairwise

from benchmarks.applications import application
from benchmarks.hosts import LATTICE, Peer, host, peer
from benchmarks.http_crowd import crowd
from benchmarks.processes import nats_server
from benchmarks.report import main
from benchmarks.rounds import Plan, Reading, Result, descriptors, resident
from lattice import claims, subjects, wire
from lattice.contracts import httpserver, keyvalue
from lattice.errors import LatticeError
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.transport import Headers
from tests.support.nats import free_port
from tests.support.processes import ROOT

INSTANCES = 1000
MOST_MIB = 150.0
"""What so many idle instances may take."""
CALLS = 10_000
MOST_LEFT = 150.0
"""Bytes that a finished call may leave in all processes: two remembered ids, and less than any object beside them."""
_COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"
_TIMEOUT = 30.0
_CLIENTS = 16
_SETTLES = 0.5
"""Seconds in which a provider has noticed that its clients are gone."""
_MIB = 2**20


async def measure(plan: Plan) -> list[Result]:
    return [await _idle_instances(), *await asyncio.to_thread(_finished_calls, plan)]


# --- instances ---


class _Gate:
    """A key-value provider that counts whoever asks, and answers everybody once the gate is open."""

    def __init__(self, there: Peer) -> None:
        self._there = there
        self._held: list[tuple[str, str]] = []
        self._open = True
        self._full = asyncio.Event()

    def on_call(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self._held.append((reply, Invocation.decode(payload).id))
        if self._open:
            self.release()
        elif len(self._held) == INSTANCES:
            self._full.set()

    def close(self) -> None:
        self._open = False

    async def filled(self) -> None:
        """Wait until as many wait as there are instances; then let them go."""
        async with asyncio.timeout(_TIMEOUT):
            await self._full.wait()

    def release(self) -> None:
        held, self._held = self._held, []
        for reply, invocation in held:
            answer = InvocationResponse(msg=wire.pack(1), invocation_id=invocation)
            self._there.connection.publish(reply, answer.encode())


async def _idle_instances() -> Reading:
    cluster, provider = KeyPair.generate(Role.CLUSTER), KeyPair.generate(Role.SERVICE).public
    counter = claims.read_actor(_COUNTER.read_bytes())
    with nats_server(jetstream=True) as server, host(server.url, cluster, counter.issuer) as (running, _):
        async with peer(server.url, cluster) as there:
            gate = _Gate(there)
            await there.connection.subscribe(subjects.provider_rpc(LATTICE, provider, "default"), gate.on_call)
            await there.control.put_link(
                LinkDefinition(actor_id=counter.subject, provider_id=provider, contract_id=keyvalue.CONTRACT)
            )
            await there.control.launch_actor(there.host_id, _COUNTER.as_uri(), INSTANCES)
            await _count(there, counter.subject)
            base = resident(running.process.pid)
            gate.close()
            calls = [asyncio.create_task(_count(there, counter.subject, once=True)) for _ in range(INSTANCES)]
            await gate.filled()
            gate.release()
            await asyncio.gather(*calls)
            size = resident(running.process.pid)
    return Reading(
        name=f"{INSTANCES} idle instances",
        values=[(size - base) / _MIB],
        unit="MiB",
        beside=f"{base / _MIB:.0f} MiB of the same host with one instance",
        target=MOST_MIB,
    )


async def _count(there: Peer, actor: str, *, once: bool = False) -> None:
    """One call of the counter; again and again until it is answered, unless ``once``."""
    origin = Entity.provider(KeyPair.generate(Role.SERVICE).public, httpserver.CONTRACT, "default")
    msg = httpserver.HttpRequest(path="/idle").encode()
    async with asyncio.timeout(_TIMEOUT):
        while True:
            try:
                answer = await there.rpc.call(
                    origin=origin,
                    target=Entity.actor(actor),
                    operation=httpserver.HANDLE_REQUEST,
                    msg=msg,
                    timeout=_TIMEOUT,
                )
            except LatticeError:
                if once:
                    raise
                await asyncio.sleep(0.02)
                continue
            response = httpserver.HttpResponse.decode(answer)
            if response.status_code == 200:
                return
            if once:
                raise RuntimeError(f"status {response.status_code}: {response.body!r}")


# --- calls ---


def _finished_calls(plan: Plan) -> list[Reading]:
    port = free_port()
    with (
        nats_server(jetstream=True) as server,
        application(
            "kvcounter", nats_url=server.url, port=port, providers={"key-value": "providers.keyvalue.jetstream"}
        ) as processes,
    ):
        failures = 0
        sizes: list[int] = []
        open_files: list[int] = []
        for _ in range(max(plan.rounds, 3) + 1):  # the median passes over a table that grew
            failures += _ask(port, CALLS)
            time.sleep(_SETTLES)
            sizes.append(sum(resident(pid) for pid in processes.values()))
            open_files.append(sum(descriptors(pid) for pid in processes.values()))
    return [
        Reading(
            name="a finished call leaves",
            values=[(after - before) / CALLS for before, after in pairwise(sizes)],
            unit="bytes",
            beside=f"{sizes[0] / _MIB:.0f} MiB of host and two providers after the first {CALLS} calls",
            target=MOST_LEFT,
            failures=failures,
        ),
        Reading(
            name=f"{CALLS} finished calls leave",
            values=[after - before for before, after in pairwise(open_files)],
            unit="descriptors",
            beside=f"{open_files[0]} after the first {CALLS} calls",
            target=0,
            failures=failures,
        ),
    ]


def _ask(port: int, calls: int) -> int:
    """So many calls; how many failed."""
    # The counter that is moved by nothing has the same answer every time.
    request = f"GET /leaks?amount=0 HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    done = failed = 0
    while done < calls:
        told = crowd(port, request, b'{"counter":0}', clients=_CLIENTS, seconds=0.5, pause=0, processes={})
        done += len(told.accepted)
        failed += len(told.refused) + told.failed.total()
        if failed:
            break
    return failed


if __name__ == "__main__":
    main(measure)
