"""The NATS server that ``wasmhost up`` brings along, kept running."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lattice.errors import LatticeError
from wasmhost.cli.up.progress import Progress
from wasmhost.processes.nats_server import NatsServer

RESTART_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each new start of a server that ended by itself; after the last one it is given up."""
STABLE_AFTER = 60.0
"""Seconds after which a server counts as working, and the pauses begin anew."""


async def keep(server: NatsServer, progress: Progress, give_up: Callable[[str], None]) -> None:
    """Start the server again whenever it ends by itself; hosts and providers reconnect. Runs until cancelled."""
    loop = asyncio.get_running_loop()
    pauses = iter(RESTART_PAUSES)
    while True:
        begun = loop.time()
        status = await server.wait()
        if loop.time() - begun > STABLE_AFTER:
            pauses = iter(RESTART_PAUSES)
        progress.step(f"The NATS server ended by itself (exit status {status}); starting it again.")
        while True:
            pause = next(pauses, None)
            if pause is None:
                give_up(f"the NATS server ended {len(RESTART_PAUSES) + 1} times in a row")
                return
            await asyncio.sleep(pause)
            try:
                await server.restart()
            except (LatticeError, OSError) as error:
                progress.step(f"{error}")
                continue
            progress.step(f"NATS server: {server.url}")
            break
