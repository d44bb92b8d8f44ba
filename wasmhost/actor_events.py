"""What the lattice is told when actors of this host start, stop or fail to start.

Singular events once per instance and plural ones once per command: different tools of the classic lattice wait for
either. Events carry the reference and the annotations exactly as the command spelled them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import structlog

from lattice import events
from lattice.claims import ClaimsError
from lattice.errors import Code, LatticeError
from wasmhost.directory import RunningActor
from wasmhost.scale import Annotations, Change

log = structlog.get_logger()

PublishEvent = Callable[[str, Mapping[str, Any]], None]
"""``(event name, data)``; never waits, never raises."""


class ActorEvents:
    """Publishes in the name of one host."""

    def __init__(self, publish: PublishEvent, host_id: str) -> None:
        self._publish = publish
        self._host_id = host_id

    def changed(self, actor: RunningActor, change: Change) -> None:
        """Tell of the instances that one command started or stopped."""
        claims = actor.claims.event_document()
        for instance in change.started:
            self._publish(
                *events.actor_started(
                    public_key=actor.key,
                    image_ref=actor.reference,
                    instance_id=instance,
                    annotations=change.annotations,
                    claims=claims,
                )
            )
        if change.started:
            self._publish(
                *events.actors_started(
                    public_key=actor.key,
                    image_ref=actor.reference,
                    annotations=change.annotations,
                    host_id=self._host_id,
                    claims=claims,
                    count=len(change.started),
                )
            )
        for instance in change.stopped:
            self._publish(
                *events.actor_stopped(public_key=actor.key, instance_id=instance, annotations=change.annotations)
            )
        if change.stopped:
            self._publish(
                *events.actors_stopped(
                    host_id=self._host_id,
                    public_key=actor.key,
                    image_ref=actor.reference,
                    count=len(change.stopped),
                    remaining=change.remaining,
                    annotations=change.annotations,
                )
            )

    def failed(self, error: Exception, *, reference: str, public_key: str, annotations: Annotations) -> None:
        """Tell why a start or scale command failed; ``public_key`` is empty when the image was never read."""
        if isinstance(error, LatticeError):
            text, code = str(error), error.code
            log.warning("actor.start_failed", reference=reference, actor=public_key, error=text)
        else:
            text, code = "internal error in the host; its log says more", Code.INTERNAL
            log.error("actor.start_broke", reference=reference, actor=public_key, exc_info=error)
        problem = error.problem if isinstance(error, ClaimsError) else None
        self._publish(*events.actor_start_failed(actor_ref=reference, error=text, code=code, problem=problem))
        self._publish(
            *events.actors_start_failed(
                public_key=public_key,
                image_ref=reference,
                annotations=annotations,
                host_id=self._host_id,
                error=text,
                code=code,
                problem=problem,
            )
        )
