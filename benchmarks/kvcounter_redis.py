"""The counter on Redis beside plain aiohttp with redis-py.

Client -> HTTP provider -> NATS -> host -> kvcounter actor -> NATS -> key-value provider -> Redis, and back: ``wasmhost
up`` with the shipped manifest, but for 64 instances of the actor; both hops are signed and verified. The reference
does the same work in one process (:mod:`benchmarks.bare_redis`). Both count in the same redis-server, under one key
each, for 64 keep-alive connections; what Redis holds at the end has to be what was answered. Run it with
``python -m benchmarks.kvcounter_redis``.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.applications import application
from benchmarks.http_load import load
from benchmarks.processes import nats_server, responder
from benchmarks.report import main
from benchmarks.rounds import Figure, Plan, Round, Side, alternate
from tests.support.nats import free_port
from tests.support.redis import RedisServer

TARGET = 0.3
"""Smallest ratio of the rates."""
CONNECTIONS = 64
INSTANCES = 64
"""One for each request that is on its way: each waits for the store most of its time."""
_START = 1_000_000_000
"""Where the counters begin, so that all answers are of one length."""
_RIGHT = re.compile(rb"\r\n\r\n\{\"counter\": ?1\d{9}\}\Z")


@contextmanager
def _redis() -> Iterator[RedisServer]:
    """A Redis server that keeps nothing on disk, as otherwise the disk would be measured."""
    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder), "--appendonly", "no")
        try:
            yield server.start()
        finally:
            server.stop()


def _counted(redis: RedisServer, path: str, url: str) -> int:
    """How often the counter of ``path`` was moved."""
    answer = redis.command("GET", f"counter::{path}", database=url)
    return int(answer.split(b"\r\n")[1]) - _START


async def measure(plan: Plan) -> list[Figure]:
    port, bare_port = free_port(), free_port()
    answered = {"bare": 0, "lattice": 0}
    with _redis() as redis, nats_server() as server:
        url = redis.database()
        for path in answered:
            redis.command("SET", f"counter::{path}", str(_START), database=url)
        with (
            responder("benchmarks.bare_redis", str(bare_port), url) as bare,
            application(
                "kvcounter-redis",
                nats_url=server.url,
                port=port,
                changes={"redis://127.0.0.1:6379/": url, "replicas: 4": f"replicas: {INSTANCES}"},
                providers={"key-value": "providers.keyvalue.redis"},
            ) as processes,
        ):
            lattice = {**processes, "nats": server.pid, "Redis": redis.pid}

            def side(to: int, path: str, processes: dict[str, int], seconds: float) -> Side:
                request = f"GET /{path} HTTP/1.1\r\nHost: 127.0.0.1:{to}\r\n\r\n".encode()

                async def once() -> Round:
                    done = load(
                        to,
                        request,
                        lambda answer: _RIGHT.search(answer) is not None,
                        connections=CONNECTIONS,
                        seconds=seconds,
                        processes=processes,
                    )
                    answered[path] += done.operations
                    return done

                return once

            await side(bare_port, "bare", {}, plan.warm_up)()
            await side(port, "lattice", {}, plan.warm_up)()
            series = await alternate(
                plan,
                {
                    "aiohttp and redis-py": side(bare_port, "bare", {"server": bare, "Redis": redis.pid}, plan.seconds),
                    "the lattice": side(port, "lattice", lattice, plan.seconds),
                },
            )
            for path, answers in answered.items():
                if _counted(redis, path, url) != answers:
                    raise RuntimeError(f"{path}: {answers} answers, but Redis counted {_counted(redis, path, url)}")
    return [
        Figure(
            name=f"kvcounter on Redis, signed, {CONNECTIONS} connections",
            reference=series["aiohttp and redis-py"],
            measured=series["the lattice"],
            target=TARGET,
        )
    ]


if __name__ == "__main__":
    main(measure)
