"""Moving an actor: its instances start on the other host, and when they are ready those here leave and finish.

Every command is absolute, see :mod:`wasmhost.apps.moving`. A move that was cut off anywhere is completed by
the same command.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

from lattice.cloudevents import Event
from lattice.control import ActorDescription, Inventory
from lattice.errors import LatticeError
from wasmhost.apps.moving import Annotations, Part, count_of, find_actor, lacking, parts
from wasmhost.cli.failures import start_failure
from wasmhost.cli.moving.steps import Moved, goes_on, require_ours, step
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session


async def move_actor(session: Session, actor_id: str, source: Inventory, target: Inventory) -> Moved:
    """Move all instances of an actor. Raises Problem, and the actor goes on where it was if the other host fails it."""
    here, there = find_actor(source, actor_id), find_actor(target, actor_id)
    moving = parts(source.host_id, here, there)
    known = here or there
    assert known is not None and moving, "the caller found it on one of them"
    await require_ours(session, target)
    move = _Move(session, known, source.host_id, target.host_id)
    name = known.name or known.image_ref or actor_id
    if missing := lacking(target, [part.annotations for part in moving]):
        labels = ", ".join(f"{label}={value}" for label, value in missing.items())
        raise Problem(
            f"{name} needs a host with the labels {labels}, which {target.friendly_name} lacks",
            hint="choose another host: `wasmhost get inventory` lists their labels",
        )
    begun = time.monotonic()
    try:
        for part in moving:
            if part.count:
                await move.scale(target.host_id, part.marked, part.count)
    except (LatticeError, Problem) as error:
        await move.take_back(moving)
        problem = goes_on(error, what=name, source=source, target=target)
        if (known.image_ref or "").startswith("file://") and "file" in str(problem):
            problem.hint = (
                f"copy the file to the same path on the machine of {target.friendly_name}, and let it read it"
            )
        raise problem from error
    ready = time.monotonic()
    for part in moving:
        if part.count:
            await move.scale(source.host_id, part.annotations, 0)
    if here is not None and sum(part.count for part in moving) == here.count:
        await move.gone(source.host_id)
    gone = time.monotonic()
    for part in moving:  # under their own annotations again, with those that had been there
        await move.scale(target.host_id, part.annotations, part.total)
        await move.scale(target.host_id, part.marked, 0)
    return Moved(
        kind="actor",
        public_key=actor_id,
        name=name,
        instances=sum(part.count for part in moving),
        source=source,
        target=target,
        ready_s=ready - begun,
        gone_s=gone - ready,
    )


class _Move:
    """The steps of one move, each seen to be done."""

    def __init__(self, session: Session, actor: ActorDescription, source: str, target: str) -> None:
        self._session = session
        self._actor = actor
        self._source = source
        self._target = target

    async def scale(self, host_id: str, annotations: Annotations, count: int) -> None:
        """Have so many instances with exactly these annotations."""
        client, actor = self._session.client, self._actor
        reference = actor.image_ref or ""

        async def command() -> None:
            await client.scale_actor(
                host_id,
                reference,
                actor_id=actor.id,
                count=count,
                annotations=annotations,
                image_digest=actor.image_digest if count else "",
            )

        async def done() -> bool | None:
            found = find_actor(await client.inventory(host_id), actor.id)
            return True if count_of(found, annotations) == count else None

        def failed(event: Event) -> Problem | None:
            return start_failure(event, reference, host_id)

        await step(self._session, command, done, failed=failed, late=f"it did not come to {count} instances")

    async def gone(self, host_id: str) -> None:
        """Wait until the actor has finished its calls and left the host."""

        async def nothing() -> None:
            pass

        async def done() -> bool | None:
            return True if find_actor(await self._session.client.inventory(host_id), self._actor.id) is None else None

        await step(self._session, nothing, done, late="calls in flight did not end")

    async def take_back(self, moving: Sequence[Part]) -> None:
        """Stop what has arrived; as far as the other host can be told."""
        with suppress(LatticeError, Problem):
            there = find_actor(await self._session.client.inventory(self._target), self._actor.id)
            for part in moving:
                if part.count and count_of(there, part.marked):
                    await self.scale(self._target, part.marked, 0)
