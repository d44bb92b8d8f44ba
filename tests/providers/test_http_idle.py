"""Ten thousand idle connections: the provider goes on answering, and each costs little."""

from __future__ import annotations

import asyncio
import warnings

from benchmarks.rounds import processor_seconds
from lattice import bundled
from lattice.contracts.httpserver import HttpResponse
from tests.support.idle import idle_connections, median_answer, most_connections, resident, still_open
from tests.support.nats import NatsServer, free_port
from tests.support.providers import HostSide

WANTED = 10_000
MOST_EACH = 12 * 1024
"""Bytes of memory per connection; about half of it is measured, the kernel's part not counted."""
REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


async def test_ten_thousand_idle_connections_are_kept_and_hold_up_nobody(nats_server: NatsServer, lattice: str) -> None:
    count = most_connections(WANTED)
    if count < WANTED:
        warnings.warn(f"the limit of open files allows {count} connections only", stacklevel=1)
    provider, port = bundled.find("bundled:httpserver"), free_port()
    host = await HostSide.open(nats_server.url, lattice)
    try:
        answer = HttpResponse(body=b"here").encode()
        actor = await host.actor(lambda _: answer)
        link = host.link(actor, provider.public_key, provider.contract_id, address=f"127.0.0.1:{port}")
        process = await host.start(provider.module, host.host_data(provider.public_key, link))
        assert process.process is not None
        pid = process.process.pid

        def scene() -> None:
            alone = median_answer(port, REQUEST)
            before = resident(pid)
            with idle_connections(port, count, REQUEST) as idle:
                each = (resident(pid) - before) / count
                beside = median_answer(port, REQUEST)
                print(f"{count} idle connections: {each / 1024:.1f} KiB each")
                print(f"one request takes {beside * 1000:.2f} ms beside them, {alone * 1000:.2f} ms alone")
                assert still_open(idle) == count
                assert each < MOST_EACH
                assert beside < 10 * alone + 0.05

        await asyncio.to_thread(scene)
        busy = processor_seconds(pid)
        await asyncio.sleep(1)
        assert processor_seconds(pid) - busy < 0.5
        # All of them went at once; that is no reason to complain.
        assert {event["level"] for event in process.events} == {"info"}, process.output
    finally:
        await host.close()
