"""All comparisons, one after the other: what ``make bench`` runs. ``--quick`` for a look instead of a result."""

from __future__ import annotations

from benchmarks import (
    guest_call,
    host_rpc,
    http_echo,
    idle_connections,
    kvcounter_redis,
    live_update,
    memory,
    moving,
    overload,
    payloads,
    start,
    transport,
)
from benchmarks.report import main

if __name__ == "__main__":
    main(
        guest_call.measure,
        transport.measure,
        host_rpc.measure,
        http_echo.measure,
        kvcounter_redis.measure,
        idle_connections.measure,
        payloads.measure,
        overload.measure,
        live_update.measure,
        moving.measure,
        memory.measure,
        start.measure,
    )
