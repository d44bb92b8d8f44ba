"""The transport seam beside bare nats-py: as responder, and as requester.

Responder: an echo through the seam (:mod:`lattice.connection`) and a bare nats-py echo, each in a process of its own,
asked by the same nats-py requester. Requester: the seam's own requests beside nats-py's, both to the same bare
responder. 64 requests of 126 bytes in flight. Run it with ``python -m benchmarks.transport``.
"""

from __future__ import annotations

import asyncio
import os
import sys
from itertools import repeat

import nats

from benchmarks.processes import nats_server, responder
from benchmarks.report import main
from benchmarks.requester import IN_FLIGHT, TIMEOUT, Ask, asking, keep_asking
from benchmarks.rounds import Figure, Plan, Round, Side, alternate, timed
from lattice.connection import ConnectOptions, connect
from lattice.transport import Headers

TARGET = 0.8
"""Smallest ratio of the responder's rate to the bare one's."""
_PAYLOAD = bytes(range(126))


async def measure(plan: Plan) -> list[Figure]:
    with (
        nats_server() as server,
        responder("benchmarks.bare", "nats", server.url, "bare") as bare,
        responder("benchmarks.transport", server.url, "seam") as seam,
    ):
        client = await nats.connect(server.url)
        connection = await connect(ConnectOptions(url=server.url))
        own = os.getpid()

        async def by_seam(payload: bytes) -> bytes:
            return (await connection.request("bare", payload, timeout=TIMEOUT)).payload

        def side(ask: Ask, process: str, pid: int, seconds: float = plan.seconds) -> Side:
            async def once() -> Round:
                with timed(**{process: pid}) as clock:
                    answers = await keep_asking(ask, repeat(_PAYLOAD), seconds=seconds)
                right = answers.received.count(_PAYLOAD)
                wrong = len(answers.received) - right + len(answers.errors)
                return Round(operations=right, seconds=clock.seconds, failures=wrong, processor=clock.processor)

            return once

        try:
            for ask in (asking(client, "bare"), asking(client, "seam"), by_seam):
                await side(ask, "requester", own, plan.warm_up)()
            answering = await alternate(
                plan,
                {
                    "bare nats-py": side(asking(client, "bare"), "responder", bare),
                    "the seam": side(asking(client, "seam"), "responder", seam),
                },
            )
            requesting = await alternate(
                plan,
                {
                    "bare nats-py": side(asking(client, "bare"), "requester", own),
                    "the seam": side(by_seam, "requester", own),
                },
            )
        finally:
            await client.close()
            await connection.close()
    return [
        Figure(
            name=f"transport as responder, {IN_FLIGHT} in flight",
            reference=answering["bare nats-py"],
            measured=answering["the seam"],
            target=TARGET,
        ),
        Figure(
            name=f"transport as requester, {IN_FLIGHT} in flight",
            reference=requesting["bare nats-py"],
            measured=requesting["the seam"],
        ),
    ]


async def _serve(url: str, subject: str) -> None:
    connection = await connect(ConnectOptions(url=url))

    def echo(_subject: str, reply: str, _headers: Headers, payload: bytes) -> None:
        connection.publish(reply, payload)

    await connection.subscribe(subject, echo)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    if len(sys.argv) == 3:
        asyncio.run(_serve(*sys.argv[1:]))
    main(measure)
