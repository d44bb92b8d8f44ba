"""A host that serves signed invocations beside a bare nats-py responder, both asked by the same nats-py requester.

The host is the real daemon with the shipped echo actor: it decodes, verifies the signature, checks the replay window
and runs the actor for every call. The reference answers with what it got, in a process of its own. Both get messages
of the same size, 64 requests in flight. Invocations are signed before the clock of a round starts and sent once, since
a host refuses a replay. Rounds alternate; results are medians of the ratios per round. Processor time is the kernel's
accounting of the one process that is compared; requester and server share the cores. Run it with
``python -m benchmarks.host_calls``.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path

import nats
from nats.aio.client import Client

from benchmarks.transport import processor_seconds, responder
from lattice import subjects
from lattice.antiforgery import Signer
from lattice.claims import read_actor
from lattice.client import ControlClient
from lattice.connection import ConnectOptions, connect
from lattice.contracts.httpserver import HttpRequest, HttpResponse
from lattice.invocation import Entity, InvocationResponse
from lattice.keys import KeyPair, Role
from tests.support.nats import NatsServer

TARGET = 0.2
"""Smallest ratio of requests per second to the bare responder."""
IN_FLIGHT = 64
_ROUNDS = 5
_SECONDS = 2.0
_FASTEST = 15_000
"""Invocations signed for each second of a round; one that runs out of them ends early and counts as it is."""
_ECHO = Path(__file__).resolve().parent.parent / "actors" / "echo" / "echo_s.wasm"
_OPERATION = "HttpServer.HandleRequest"
_LATTICE = "bench"


@dataclass(frozen=True, slots=True)
class Side:
    """One round of one side: requests per second, processor seconds per request, failures."""

    rate: float
    cpu: float
    failures: int


@dataclass(frozen=True, slots=True)
class Result:
    """Medians over the rounds."""

    bare: Side
    host: Side
    ratio: float
    cpu_ratio: float

    @property
    def reached(self) -> bool:
        return self.ratio >= TARGET and self.bare.failures == self.host.failures == 0


@contextmanager
def _daemon(url: str, folder: Path, cluster: KeyPair, trust: str) -> Iterator[int]:
    """A running ``wasmhost host``; its process id."""
    command = [sys.executable, "-m", "wasmhost", "host", "--nats-url", url, "-x", _LATTICE, "--allow-file-load"]
    environment = {**os.environ, "WASMHOST_STATE": str(folder / "state"), "WASMCLOUD_CLUSTER_SEED": cluster.seed}
    log = (folder / "host.log").open("wb")
    with log, subprocess.Popen([*command, "--trust", trust], env=environment, stderr=log) as process:
        try:
            yield process.pid
        finally:
            process.terminate()


async def _start_echo(url: str) -> None:
    """Start the actor on the one host of the lattice, waiting for the host first."""
    connection = await connect(ConnectOptions(url=url))
    try:
        client = ControlClient(connection, _LATTICE)
        async with asyncio.timeout(30):
            while not (hosts := await client.ping_hosts(0.3)):
                pass
            await client.launch_actor(hosts[0].id, _ECHO.as_uri(), 1, {})
            while not (await client.inventory(hosts[0].id)).actors:  # noqa: ASYNC110 another process starts it
                await asyncio.sleep(0.1)
    finally:
        await connection.drain()


async def _round(
    client: Client, subject: str, waiting: Iterator[bytes], *, right: Callable[[bytes], bool], pid: int, seconds: float
) -> Side:
    answered = failures = 0
    busy, start = processor_seconds(pid), time.perf_counter()
    end = start + seconds

    async def one() -> None:
        nonlocal answered, failures
        for payload in waiting:
            if time.perf_counter() >= end:
                break
            try:
                ok = right((await client.request(subject, payload, timeout=5)).data)
            except Exception:
                ok = False
            answered += ok
            failures += not ok

    await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
    elapsed = time.perf_counter() - start
    return Side(answered / elapsed, (processor_seconds(pid) - busy) / max(answered, 1), failures)


def _is_echo(answer: bytes) -> bool:
    response = InvocationResponse.decode(answer)
    return response.error is None and HttpResponse.decode(response.msg).status_code == 200


async def measure(*, rounds: int = _ROUNDS, seconds: float = _SECONDS) -> Result:
    """Run the comparison: so many rounds of so many seconds for each side."""
    actor = read_actor(_ECHO.read_bytes())
    cluster = KeyPair.generate(Role.CLUSTER)
    signer = Signer(cluster, KeyPair.generate(Role.HOST).public)
    subject = subjects.actor_rpc(_LATTICE, actor.subject)
    request = HttpRequest(method="GET", path="/bench", header={"accept": ("application/json",)}, body=b"").encode()
    origin, target = Entity("benchmark"), Entity.actor(actor.subject)

    def signed(seconds: float) -> list[bytes]:
        return [
            signer.sign(origin=origin, target=target, operation=_OPERATION, msg=request).encode()
            for _ in range(int(_FASTEST * seconds))
        ]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        server = NatsServer(folder / "nats").start()
        try:
            with responder("bare", server.url) as bare, _daemon(server.url, folder, cluster, actor.issuer) as host:
                await _start_echo(server.url)
                client = await nats.connect(server.url)
                sides: tuple[list[Side], list[Side]] = ([], [])
                for number in range(rounds + 1):
                    length = seconds if number else 0.5
                    payloads = signed(length)
                    same = repeat(payloads[0])
                    first = await _round(client, "bare", same, right=bool, pid=bare, seconds=length)
                    second = await _round(client, subject, iter(payloads), right=_is_echo, pid=host, seconds=length)
                    if number:  # the first one warms up
                        sides[0].append(first)
                        sides[1].append(second)
                await client.close()
        finally:
            server.stop()
    return _summary(*sides)


def _summary(bare: list[Side], host: list[Side]) -> Result:
    def medians(sides: list[Side]) -> Side:
        return Side(
            rate=statistics.median(side.rate for side in sides),
            cpu=statistics.median(side.cpu for side in sides),
            failures=sum(side.failures for side in sides),
        )

    pairs = list(zip(bare, host, strict=True))
    return Result(
        bare=medians(bare),
        host=medians(host),
        ratio=statistics.median(b.rate / a.rate for a, b in pairs),
        cpu_ratio=statistics.median(b.cpu / a.cpu for a, b in pairs),
    )


def report(result: Result, show: Callable[[str], None] = print) -> None:
    """Show a result, one line per figure."""
    for name, side in (("bare nats-py", result.bare), ("host, signed", result.host)):
        show(f"{name}  {side.rate:8.0f} req/s {side.cpu * 1e6:6.1f} µs processor, {side.failures} failures")
    show(f"ratio         {result.ratio:8.2f}      target >= {TARGET}; {result.cpu_ratio:.1f} times the processor time")


if __name__ == "__main__":
    outcome = asyncio.run(measure())
    report(outcome)
    raise SystemExit(0 if outcome.reached else 1)
