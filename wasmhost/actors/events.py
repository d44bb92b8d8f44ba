"""What the lattice is told when actors of this host start, stop or fail to start.

Singular events once per instance and plural ones once per command: different tools of the classic lattice wait for
either. Events carry the reference and the annotations exactly as the command spelled them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import structlog

from lattice import events
from lattice.claims import ClaimsError
from lattice.errors import Code, LatticeError
from lattice.events import Publish
from wasmhost.actors.scale import Annotations, Change, Scale
from wasmhost.calls.directory import RunningActor

log = structlog.get_logger()


class ActorEvents:
    """Publishes in the name of one host."""

    def __init__(self, publish: Publish, host_id: str) -> None:
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

    def scaled(self, actor: RunningActor, annotations: Annotations, count: int) -> None:
        """Tell how many instances a ``scale`` command has led to."""
        self._publish(
            *events.actor_scaled(
                public_key=actor.key,
                image_ref=actor.reference,
                annotations=annotations,
                host_id=self._host_id,
                claims=actor.claims.event_document(),
                max_instances=count,
            )
        )

    def updated(self, actor: RunningActor, change: Change) -> None:
        """Tell of the instances that run a new revision."""
        self.changed(actor, change)
        for instance in change.started:
            self._publish(
                *events.actor_updated(public_key=actor.key, revision=actor.claims.revision, instance_id=instance)
            )

    def update_failed(self, error: Exception, *, public_key: str, revision: int, instances: Iterable[str]) -> None:
        """Tell that these instances stay what they were; the general failure events come on top."""
        text, code, _ = _described(error)
        for instance in instances:
            self._publish(
                *events.actor_update_failed(
                    public_key=public_key, revision=revision, instance_id=instance, reason=text, code=code
                )
            )

    def scale_failed(
        self, error: Exception, *, reference: str, public_key: str, annotations: Annotations, count: int
    ) -> None:
        """Tell why a ``scale`` command failed, to those who wait for its own event."""
        text, code, problem = _described(error)
        self._publish(
            *events.actor_scale_failed(
                public_key=public_key,
                image_ref=reference,
                annotations=annotations,
                host_id=self._host_id,
                max_instances=count,
                error=text,
                code=code,
                problem=problem,
            )
        )

    def failed(self, error: Exception, *, reference: str, public_key: str, annotations: Iterable[Annotations]) -> None:
        """Tell why a start, scale or update command failed; ``public_key`` is empty when the image was never read."""
        text, code, problem = _described(error)
        if isinstance(error, LatticeError):
            log.warning("actor.start_failed", reference=reference, actor=public_key, error=text)
        else:
            log.error("actor.start_broke", reference=reference, actor=public_key, exc_info=error)
        self._publish(*events.actor_start_failed(actor_ref=reference, error=text, code=code, problem=problem))
        for each in annotations:
            self._publish(
                *events.actors_start_failed(
                    public_key=public_key,
                    image_ref=reference,
                    annotations=each,
                    host_id=self._host_id,
                    error=text,
                    code=code,
                    problem=problem,
                )
            )


@dataclass(slots=True)
class Attempt:
    """One start, scale or update command: publishes why it failed, then lets the error pass."""

    events: ActorEvents
    reference: str
    annotations: Annotations
    public_key: str = ""
    """Filled in as soon as it is known."""
    scale_to: int | None = None
    """The wanted count of a ``scale``."""
    updating: Scale | None = None
    """The present instances, if the command is an update."""
    revision: int = 0
    """The wanted one of an update."""

    async def __aenter__(self) -> Attempt:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not isinstance(error, Exception):
            return
        sets: list[Annotations] = [self.annotations]
        if self.updating is not None:
            sets = self.updating.annotation_sets()
            instances = [instance for instance, _ in self.updating.instances()]
            self.events.update_failed(error, public_key=self.public_key, revision=self.revision, instances=instances)
        self.events.failed(error, reference=self.reference, public_key=self.public_key, annotations=sets)
        if self.scale_to is not None:
            self.events.scale_failed(
                error,
                reference=self.reference,
                public_key=self.public_key,
                annotations=self.annotations,
                count=self.scale_to,
            )


def _described(error: Exception) -> tuple[str, Code, str | None]:
    """Text, code and, for claims, problem of a failure."""
    if not isinstance(error, LatticeError):
        return "internal error in the host; its log says more", Code.INTERNAL, None
    return str(error), error.code, error.problem if isinstance(error, ClaimsError) else None
