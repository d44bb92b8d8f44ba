"""Large payloads: written, read and deleted through our object store beside nats-py's own, on the same server.

One payload at a time, as a call does it; every one is compared with what was written. Both sides hash what they write
and what they read, and the server keeps it in a file. Run it with ``python -m benchmarks.payloads``.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from itertools import count
from time import perf_counter

import nats
from nats.js.object_store import ObjectStore

from benchmarks.processes import nats_server
from benchmarks.report import main
from benchmarks.rounds import Figure, Plan, Round, Side, alternate, timed
from lattice.connection import ConnectOptions, connect
from lattice.objects import ObjectBucket

TARGETS = {1: 0.8, 8: 3.0}
"""Smallest ratio of the rates by payload size in MiB."""

_MIB = 1024 * 1024

Exchange = Callable[[str, bytes], Awaitable[bytes]]
"""Put, get and delete under a name that was not used before; what was got."""


def _by_nats(store: ObjectStore) -> Exchange:
    async def exchange(name: str, payload: bytes) -> bytes:
        await store.put(name, payload)
        result = await store.get(name)
        await store.delete(name)
        return result.data or b""

    return exchange


def _by_us(bucket: ObjectBucket) -> Exchange:
    async def exchange(name: str, payload: bytes) -> bytes:
        await bucket.put(name, payload)
        info = await bucket.find(name)
        assert info is not None
        found = await bucket.read(info)
        await bucket.delete(info)
        return found

    return exchange


def _side(exchange: Exchange, size: int, seconds: float) -> Side:
    names = count()

    async def once() -> Round:
        payload = os.urandom(size)
        done = wrong = 0
        with timed(**{"this process": os.getpid()}) as clock:
            end = perf_counter() + seconds
            while perf_counter() < end or not done:
                wrong += await exchange(f"{size:x}-{next(names)}", payload) != payload
                done += 1
        return Round(operations=done, seconds=clock.seconds, failures=wrong, processor=clock.processor)

    return once


async def measure(plan: Plan) -> list[Figure]:
    figures = []
    with nats_server(jetstream=True) as server:
        client = await nats.connect(server.url)
        connection = await connect(ConnectOptions(url=server.url))
        bucket = ObjectBucket(connection, "ours", max_age=600)
        try:
            theirs, ours = _by_nats(await client.jetstream().create_object_store("theirs")), _by_us(bucket)
            for mib, target in TARGETS.items():
                for exchange in (theirs, ours):
                    await _side(exchange, mib * _MIB, plan.warm_up)()
                sides = {
                    "nats-py": _side(theirs, mib * _MIB, plan.seconds),
                    "ours": _side(ours, mib * _MIB, plan.seconds),
                }
                done = await alternate(plan, sides)
                figures.append(
                    Figure(
                        name=f"object store: put, get and delete {mib} MiB",
                        reference=done["nats-py"],
                        measured=done["ours"],
                        target=target,
                    )
                )
        finally:
            await bucket.close()
            await connection.close()
            await client.close()
    return figures


if __name__ == "__main__":
    main(measure)
