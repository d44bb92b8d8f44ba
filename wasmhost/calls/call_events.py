"""An event for every call that this host answers or makes, on a subject of its own; off unless asked for.

Elixir hosts publish these for whoever draws calls on a map. Time and hosts are additions of ours.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import structlog

from lattice import cloudevents, events, subjects
from lattice.errors import LatticeError
from lattice.invocation import Entity, Invocation
from lattice.transport import Transport

log = structlog.get_logger(__name__)


class CallEvents:
    """Publishes ``invocation_succeeded`` and ``invocation_failed`` in the name of one host."""

    def __init__(self, transport: Transport, lattice: str, host_id: str) -> None:
        self._transport = transport
        self._subject = subjects.rpc_events(lattice)
        self._host_id = host_id
        self._loop = asyncio.get_running_loop()
        self._begun: dict[str, tuple[Invocation, float]] = {}

    def now(self) -> float:
        return self._loop.time()

    def begin(self, invocation: Invocation) -> None:
        """Note a call from the lattice."""
        self._begun[invocation.id] = (invocation, self.now())

    def end(self, invocation_id: str, error: Exception | None = None) -> None:
        """Tell how a noted call ended."""
        found = self._begun.pop(invocation_id, None)
        if found is not None:
            invocation, begun = found
            self.tell(
                invocation.origin,
                invocation.target,
                invocation.operation,
                max(len(invocation.msg), invocation.content_length or 0),
                begun=begun,
                error=error,
                source_host=invocation.host_id,
                dest_host=self._host_id,
            )

    @contextmanager
    def around(self, origin: Entity, target: Entity, operation: str, size: int, *, local: bool) -> Iterator[None]:
        """Tell of the call that is made inside; ``local``: to an actor of this host."""
        begun = self.now()
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            failure = error
            raise
        finally:
            dest_host = self._host_id if local else None
            self.tell(origin, target, operation, size, begun=begun, error=failure, dest_host=dest_host)

    def tell(
        self,
        origin: Entity,
        target: Entity,
        operation: str,
        size: int,
        *,
        begun: float,
        error: Exception | None = None,
        source_host: str = "",
        dest_host: str | None = None,
    ) -> None:
        """Publish one call; never raises. ``begun`` is of :meth:`now`; ``dest_host`` None where it is not known."""
        build = events.invocation_succeeded if error is None else events.invocation_failed
        name, data = build(
            source=_entity(origin),
            dest=_entity(target),
            operation=operation,
            size=size,
            elapsed_ms=round((self.now() - begun) * 1000, 3),
            source_host=source_host or self._host_id,
            dest_host=dest_host,
            **({} if error is None else {"error": str(error)[:500]}),
        )
        try:
            self._transport.publish(self._subject, cloudevents.encode(name, self._host_id, data))
        except LatticeError as lost:
            log.debug("event.lost", name=name, reason=str(lost))


def _entity(entity: Entity) -> dict[str, Any]:
    """As Elixir hosts spell it: an actor has neither contract nor link name."""
    return {
        "public_key": entity.public_key,
        "contract_id": entity.contract_id or None,
        "link_name": entity.link_name or None,
    }
