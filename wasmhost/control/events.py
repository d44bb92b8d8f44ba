"""Publishes what happens on this host: every event on the general subject and on its own, and the heartbeat."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

import structlog

from lattice import cloudevents, events, subjects
from lattice.background import begin
from lattice.errors import LatticeError
from lattice.transport import Transport

log = structlog.get_logger(__name__)

HEARTBEAT_INTERVAL: Final = 30.0
"""Seconds; application managers forget a host that was silent four times as long."""
SETTLE: Final = 1.0
"""Seconds between a change and the extra heartbeat that tells it, which so tells all changes of that time."""

_CHANGES: Final = frozenset(
    {"actors_started", "actors_stopped", "actor_updated", "provider_started", "provider_stopped"}
)


class EventPublisher:
    """The one source of this host's events."""

    def __init__(self, transport: Transport, lattice: str, host_id: str) -> None:
        self._transport = transport
        self._lattice = lattice
        self._host_id = host_id
        self._beating: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    def publish(self, name: str, data: Mapping[str, Any]) -> None:
        """Publish one event; never waits and never raises. An event that cannot leave is logged and lost."""
        try:
            encoded = cloudevents.encode(name, self._host_id, data)
            self._transport.publish(subjects.events(self._lattice), encoded)
            self._transport.publish(subjects.event(self._lattice, name), encoded)
        except LatticeError as error:
            log.warning("event.lost", name=name, reason=str(error))
        if name in _CHANGES:
            self.beat_soon()

    def beat_soon(self) -> None:
        """Tell a change in what heartbeats say without waiting for the next one."""
        self._changed.set()

    def start_heartbeat(self, heartbeat: Callable[[], events.Built], interval: float = HEARTBEAT_INTERVAL) -> None:
        """Publish what ``heartbeat`` returns every ``interval`` seconds, not at once, and after each change."""
        self._beating = begin(self._beat(heartbeat, interval), "heartbeat")

    async def stop_heartbeat(self) -> None:
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait({self._beating})

    async def _beat(self, heartbeat: Callable[[], events.Built], interval: float) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time() + interval
        while True:
            try:
                async with asyncio.timeout_at(due):
                    await self._changed.wait()
                    await asyncio.sleep(SETTLE)
            except TimeoutError:
                due = max(due, loop.time() - interval) + interval  # extra ones do not shift the rhythm
            self._changed.clear()
            try:
                self.publish(*heartbeat())
            except Exception:
                log.exception("heartbeat.failed")
