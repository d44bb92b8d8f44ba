"""Publishes what happens on this host: every event on the general subject and on its own, and the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from lattice import events, subjects
from lattice.errors import LatticeError
from lattice.transport import Transport

log = structlog.get_logger(__name__)

HEARTBEAT_INTERVAL: Final = 30.0
"""Seconds; application managers forget a host that was silent four times as long."""


class EventPublisher:
    """The one source of this host's events."""

    def __init__(self, transport: Transport, lattice: str, host_id: str) -> None:
        self._transport = transport
        self._lattice = lattice
        self._host_id = host_id
        self._beating: asyncio.Task[None] | None = None

    def publish(self, name: str, data: Mapping[str, Any]) -> None:
        """Publish one event; never waits and never raises. An event that cannot leave is logged and lost."""
        try:
            encoded = events.event(name, self._host_id, data)
            self._transport.publish(subjects.events(self._lattice), encoded)
            self._transport.publish(subjects.event(self._lattice, name), encoded)
        except LatticeError as error:
            log.warning("event.lost", name=name, reason=str(error))

    def start_heartbeat(self, heartbeat: Callable[[], events.Built], interval: float = HEARTBEAT_INTERVAL) -> None:
        """Publish what ``heartbeat`` returns every ``interval`` seconds, not at once."""
        self._beating = asyncio.create_task(self._beat(heartbeat, interval), name="heartbeat")

    async def stop_heartbeat(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})

    async def _beat(self, heartbeat: Callable[[], events.Built], interval: float) -> None:
        while True:
            await asyncio.sleep(interval)
            try:
                self.publish(*heartbeat())
            except Exception:
                log.exception("heartbeat.failed")
