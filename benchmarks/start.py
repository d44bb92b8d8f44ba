"""From the command that starts an actor to its first answer, with and without its compiled code in the cache.

One ``wasmhost host``: the command is sent, then signed invocations until one is answered. The file is read, its
signatures are checked, the module is loaded or compiled, instantiated, its queue group joined. Then the actor is
stopped, and the next start begins when nobody answers for it any more. Reference: the same with an empty cache.
Run it with ``python -m benchmarks.start``.
"""

from __future__ import annotations

import asyncio
import shutil
import time
from pathlib import Path

from benchmarks.hosts import Peer, host, peer
from benchmarks.processes import nats_server
from benchmarks.report import main
from benchmarks.rounds import Plan, Reading, Result
from lattice import claims
from lattice.contracts import httpserver
from lattice.errors import Code, Unreachable
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from tests.support.processes import ROOT

MOST_MS = 25.0
_ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
_ORIGIN = Entity.provider(KeyPair.generate(Role.SERVICE).public, httpserver.CONTRACT, "default")
_REQUEST = httpserver.HttpRequest(path="/first").encode()
_STARTS = 4
"""Starts of each kind per round."""


async def _answers(there: Peer, actor: str) -> bool:
    """Whether the actor answers one call."""
    try:
        answer = await there.rpc.call(
            origin=_ORIGIN,
            target=Entity.actor(actor),
            operation=httpserver.HANDLE_REQUEST,
            msg=_REQUEST,
            timeout=5.0,
        )
    except Unreachable as error:
        if error.code in (Code.NO_RESPONDERS, Code.NOT_RUNNING):
            return False
        raise
    return httpserver.HttpResponse.decode(answer).status_code == 200


async def _start(there: Peer, actor: str) -> float:
    """Milliseconds from the command to the first answer."""
    begun = time.perf_counter()
    await there.control.launch_actor(there.host_id, _ECHO.as_uri())
    while not await _answers(there, actor):
        pass
    return (time.perf_counter() - begun) * 1e3


async def _stop(there: Peer, actor: str) -> None:
    while not await _listed(there):  # its start goes on a little after it answers
        pass
    await there.control.stop_actor(there.host_id, actor)
    async with asyncio.timeout(10):
        while await _answers(there, actor) or await _listed(there):  # noqa: ASYNC110 another process
            await asyncio.sleep(0.01)


async def _listed(there: Peer) -> bool:
    return bool((await there.control.inventory(there.host_id)).actors)


async def measure(plan: Plan) -> list[Result]:
    cluster, echo = KeyPair.generate(Role.CLUSTER), claims.read_actor(_ECHO.read_bytes())
    cached: list[float] = []
    compiled: list[float] = []
    with nats_server(jetstream=True) as server, host(server.url, cluster, echo.issuer) as (_, home):
        async with peer(server.url, cluster) as there:

            async def start(times: list[float], *, compile: bool) -> None:
                if compile:
                    _forget(home)
                times.append(await _start(there, echo.subject))
                await _stop(there, echo.subject)

            await start([], compile=True)
            for _ in range(plan.rounds):
                for _ in range(_STARTS):
                    await start(compiled, compile=True)
                    await start(cached, compile=False)
    return [
        Reading(
            name="start of a cached actor, to its first answer",
            values=cached,
            unit="ms",
            beside=f"{sorted(compiled)[len(compiled) // 2]:.1f} ms with an empty cache",
            target=MOST_MS,
        )
    ]


def _forget(home: Path) -> None:
    """Empty the cache of compiled code."""
    folder = home / ".cache" / "wasmhost" / "compiled"
    for entry in folder.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


if __name__ == "__main__":
    main(measure)
