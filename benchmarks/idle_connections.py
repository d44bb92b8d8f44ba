"""The HTTP provider beside itself: with ten thousand idle keep-alive connections, and without them.

The echo application of :mod:`benchmarks.http_echo`, asked over 16 connections. The memory of an idle connection is that
of the provider's process, without the kernel's part; plain aiohttp's stands beside it. Where the limit of open files
allows fewer connections, the name of the figure says how many there were. Run it with
``python -m benchmarks.idle_connections``.
"""

from __future__ import annotations

import asyncio

from benchmarks.applications import application
from benchmarks.http_echo import one_answer, post_request
from benchmarks.http_load import load
from benchmarks.processes import nats_server, responder
from benchmarks.report import main
from benchmarks.rounds import Figure, Plan, Round, alternate, processor_seconds, resident
from tests.support.idle import idle_connections, most_connections
from tests.support.nats import free_port

WANTED = 10_000
BUSY = 16
TARGET = 0.7
"""Smallest ratio of the rates. Waking the load generator among so many sockets is part of what is measured."""


def _memory_each(pid: int, port: int, count: int) -> float:
    """KiB of the process ``pid`` for each of ``count`` idle connections."""
    one_answer(port)
    before = resident(pid)
    with idle_connections(port, count, post_request(port)):
        return (resident(pid) - before) / count / 1024


async def _at_rest(pid: int) -> None:
    """The end of ten thousand connections is work, too, which is not measured here."""
    for _ in range(100):
        busy = processor_seconds(pid)
        await asyncio.sleep(0.1)
        if processor_seconds(pid) - busy < 0.02:
            return


async def measure(plan: Plan) -> list[Figure]:
    count = most_connections(WANTED)
    port, bare_port = free_port(), free_port()
    with responder("benchmarks.bare", "http", str(bare_port)) as bare:
        plain = _memory_each(bare, bare_port, count)
    with nats_server(jetstream=True) as server, application("echo", nats_url=server.url, port=port) as processes:
        memory = _memory_each(processes["provider"], port, count)
        request, body = post_request(port), one_answer(port)
        watched = {"provider": processes["provider"]}

        async def alone() -> Round:
            return load(port, request, body, connections=BUSY, seconds=plan.seconds, processes=watched)

        async def beside() -> Round:
            with idle_connections(port, count, request):
                done = load(port, request, body, connections=BUSY, seconds=plan.seconds, processes=watched)
            await _at_rest(processes["provider"])
            return done

        await _at_rest(processes["provider"])
        await alone()
        series = await alternate(plan, {"alone": alone, f"beside {count} idle connections": beside})
    return [
        Figure(
            name=f"HTTP echo beside {count} idle connections of {memory:.1f} KiB each (plain aiohttp {plain:.1f} KiB)",
            reference=series["alone"],
            measured=series[f"beside {count} idle connections"],
            target=TARGET,
        )
    ]


if __name__ == "__main__":
    main(measure)
