"""HTTP through the lattice beside plain aiohttp: client -> HTTP provider -> NATS -> host -> echo actor and back.

``wasmhost up`` with the shipped echo manifest: nats-server, host and provider are processes, every invocation is
signed and verified. The reference is an aiohttp server in one process which answers a request with its body; the actor
answers with method, path, query and body as JSON. Both get the same requests over 1, 16, 64 and 256 keep-alive
connections from the generator of :mod:`benchmarks.http_load`. Run it with ``python -m benchmarks.http_echo``.
"""

from __future__ import annotations

import http.client

from benchmarks.applications import application
from benchmarks.http_load import load
from benchmarks.processes import nats_server, responder
from benchmarks.report import main
from benchmarks.rounds import Figure, Plan, Round, Side, alternate
from tests.support.nats import free_port

TARGET = 0.25
"""Smallest ratio of the rates at 64 connections."""
CONNECTIONS = (1, 16, 64, 256)
_BODY = b"0123456789" * 5
_TARGET_PATH = "/some/path?a=1"


def one_answer(port: int) -> bytes:
    """The body of one answer, which has to be that of all."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("POST", _TARGET_PATH, body=_BODY)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    if response.status != 200:
        raise RuntimeError(f"port {port} answers {response.status}: {body[:500]!r}")
    return body


def post_request(port: int) -> bytes:
    head = f"POST {_TARGET_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(_BODY)}\r\n\r\n"
    return head.encode() + _BODY


async def measure(plan: Plan) -> list[Figure]:
    port, bare_port = free_port(), free_port()
    figures: list[Figure] = []
    with (
        nats_server(jetstream=True) as server,
        responder("benchmarks.bare", "http", str(bare_port)) as bare,
        application("echo", nats_url=server.url, port=port) as processes,
    ):
        bodies = {each: one_answer(each) for each in (bare_port, port)}
        for body in bodies.values():
            if _BODY not in body:
                raise RuntimeError(f"not an echo: {body!r}")

        def side(to: int, connections: int, processes: dict[str, int], seconds: float = plan.seconds) -> Side:
            async def once() -> Round:
                return load(
                    to, post_request(to), bodies[to], connections=connections, seconds=seconds, processes=processes
                )

            return once

        lattice = {"provider": processes["provider"], "nats": server.pid, "host": processes["host"]}
        for connections in CONNECTIONS:
            for to in (bare_port, port):
                await side(to, connections, {}, plan.warm_up)()
            series = await alternate(
                plan,
                {
                    "plain aiohttp": side(bare_port, connections, {"server": bare}),
                    "the lattice": side(port, connections, lattice),
                },
            )
            figures.append(
                Figure(
                    name=f"HTTP echo, signed, {connections} connection{'s' if connections > 1 else ''}",
                    reference=series["plain aiohttp"],
                    measured=series["the lattice"],
                    target=TARGET if connections == 64 else None,
                )
            )
    return figures


if __name__ == "__main__":
    main(measure)
