"""The transport seam beside bare nats-py: as responder, and as requester.

Responder: an echo through the seam (:mod:`lattice.connection`) and a bare nats-py echo, each in a process of its own,
asked by the same nats-py requester with 64 requests in flight. Requester: the seam's own requests beside nats-py's,
both to the same bare responder. Rounds alternate; the results are medians of the ratios per round. Processor time is
the kernel's accounting of the one process that is compared. The load generator and the server share the cores. Run it
with ``python -m benchmarks.transport``.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import nats
from nats.aio.msg import Msg

from lattice.connection import ConnectOptions, connect
from lattice.transport import Headers
from tests.support.nats import NatsServer

TARGET = 0.8
"""Smallest ratio of requests per second (and of the inverse of processor time) to the bare responder."""
IN_FLIGHT = 64
PAYLOAD = bytes(range(126))
_ROUNDS = 5
_SECONDS = 2.0

Ask = Callable[[bytes], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Side:
    """One round of one side: requests per second, processor seconds per request, failures."""

    rate: float
    cpu: float
    failures: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Medians over the rounds; a ratio above 1 means that the seam is the better."""

    name: str
    reference: Side
    seam: Side
    rate_ratio: float
    cpu_ratio: float

    @property
    def failures(self) -> int:
        return self.reference.failures + self.seam.failures

    @property
    def reached(self) -> bool:
        return self.failures == 0 and min(self.rate_ratio, self.cpu_ratio) >= TARGET


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far (fields 14 and 15 of its stat file)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def load(ask: Ask, seconds: float, *, in_flight: int = IN_FLIGHT) -> tuple[int, int]:
    """Keep so many requests in flight for so long; answers right and wrong."""
    answered = failures = 0
    end = time.perf_counter() + seconds

    async def one() -> None:
        nonlocal answered, failures
        while time.perf_counter() < end:
            try:
                right = await ask(PAYLOAD) == PAYLOAD
            except Exception:
                right = False
            answered += right
            failures += not right

    await asyncio.gather(*(one() for _ in range(in_flight)))
    return answered, failures


async def _round(ask: Ask, pid: int, seconds: float) -> Side:
    busy, start = processor_seconds(pid), time.perf_counter()
    answered, failures = await load(ask, seconds)
    return Side(
        rate=answered / (time.perf_counter() - start),
        cpu=(processor_seconds(pid) - busy) / max(answered, 1),
        failures=failures,
    )


def _compared(name: str, references: list[Side], seams: list[Side]) -> Comparison:
    def medians(sides: list[Side]) -> Side:
        return Side(
            rate=statistics.median(side.rate for side in sides),
            cpu=statistics.median(side.cpu for side in sides),
            failures=sum(side.failures for side in sides),
        )

    pairs = list(zip(references, seams, strict=True))
    return Comparison(
        name=name,
        reference=medians(references),
        seam=medians(seams),
        rate_ratio=statistics.median(seam.rate / reference.rate for reference, seam in pairs),
        cpu_ratio=statistics.median(reference.cpu / seam.cpu for reference, seam in pairs),
    )


async def _serve_bare(url: str) -> None:
    client = await nats.connect(url)

    async def echo(message: Msg) -> None:
        await message.respond(message.data)

    await client.subscribe("bare", cb=echo)
    await client.flush()
    await client.flush()


async def _serve_seam(url: str) -> None:
    connection = await connect(ConnectOptions(url=url))

    def echo(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        connection.publish(reply, payload)

    await connection.subscribe("seam", echo)


@contextmanager
def responder(kind: str, url: str) -> Iterator[int]:
    """A process that answers on the subject ``kind``; its id."""
    command = [sys.executable, "-m", "benchmarks.transport", kind, url]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield process.pid
        finally:
            process.terminate()


async def measure(*, rounds: int = _ROUNDS, seconds: float = _SECONDS) -> list[Comparison]:
    """Run both comparisons: so many rounds of so many seconds for each side."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), jetstream=False).start()
        try:
            with responder("bare", server.url) as bare, responder("seam", server.url) as seam:
                client = await nats.connect(server.url)
                connection = await connect(ConnectOptions(url=server.url))

                def by_client(subject: str) -> Ask:
                    async def ask(payload: bytes) -> bytes:
                        return (await client.request(subject, payload, timeout=5)).data

                    return ask

                async def by_seam(payload: bytes) -> bytes:
                    return (await connection.request("bare", payload, timeout=5)).payload

                for ask in (by_client("bare"), by_client("seam"), by_seam):
                    await load(ask, min(seconds, 0.5))
                sides: list[list[Side]] = [[], [], [], []]
                for _ in range(rounds):
                    sides[0].append(await _round(by_client("bare"), bare, seconds))
                    sides[1].append(await _round(by_client("seam"), seam, seconds))
                    sides[2].append(await _round(by_client("bare"), os.getpid(), seconds))
                    sides[3].append(await _round(by_seam, os.getpid(), seconds))
                await client.close()
                await connection.close()
        finally:
            server.stop()
    return [_compared("responder", sides[0], sides[1]), _compared("requester", sides[2], sides[3])]


def report(results: list[Comparison], show: Callable[[str], None] = print) -> None:
    """Show the results, a few lines each."""
    for result in results:
        for name, side in (("bare nats-py", result.reference), ("the seam", result.seam)):
            show(
                f"{result.name} {name:13} {side.rate:8.0f} req/s {side.cpu * 1e6:6.1f} µs processor, "
                f"{side.failures} failures"
            )
        show(
            f"{result.name} ratios: {result.rate_ratio:.2f} of the rate, {result.cpu_ratio:.2f} by processor time; "
            f"target >= {TARGET} for the responder"
        )


async def _serve(kind: str, url: str) -> None:
    await (_serve_bare if kind == "bare" else _serve_seam)(url)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(_serve(sys.argv[1], sys.argv[2]))
    outcome = asyncio.run(measure())
    report(outcome)
    raise SystemExit(0 if outcome[0].reached else 1)
