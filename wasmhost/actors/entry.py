"""One actor of this host with all that belongs to it: its subject, its instances, how many are wanted, its end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import structlog

from lattice.background import begin
from lattice.inventory import ActorDescription, InstanceDescription
from wasmhost.actors.scale import Scale
from wasmhost.calls.directory import RunningActor
from wasmhost.calls.inbound import Inbound
from wasmhost.guest.pool import ActorPool

log = structlog.get_logger()


@dataclass(eq=False, slots=True)
class ActorEntry:
    """What the registry keeps about a running actor, beyond what the data path needs."""

    actor: RunningActor
    inbound: Inbound
    scale: Scale = field(default_factory=Scale)
    _leaving: dict[asyncio.Task[None], ActorPool] = field(default_factory=dict)

    def switch(self, new: RunningActor, *, patience: float, when_gone: Callable[[], None]) -> None:
        """Give every new call to ``new`` from now on; the instances before it end when their calls are answered.

        Those get ``patience`` seconds. ``when_gone`` is called when the last of the old instances has ended.
        """
        old, self.actor = self.actor, new
        self.inbound.serve(new)

        async def leave() -> None:
            try:
                async with asyncio.timeout(patience):
                    await old.pool.drain()
            except TimeoutError:
                log.warning("actor.calls_abandoned", actor=old.key, calls=old.pool.active + old.pool.waiting)
            finally:
                await old.pool.close()
                when_gone()

        task = begin(leave(), f"old instances of {old.key}")
        self._leaving[task] = old.pool
        task.add_done_callback(self._leaving.pop)

    def describe(self, *, per_set: bool) -> ActorDescription:
        """As the inventory lists it: one entry per wanted instance, or per annotation set."""
        actor = self.actor
        counts = self.scale.sets() if per_set else ((key, each, 1) for key, each in self.scale.instances())
        return ActorDescription(
            id=actor.key,
            image_ref=actor.reference,
            name=actor.claims.name,
            image_digest=actor.digest,
            error=actor.barred,
            instances=[
                InstanceDescription(
                    instance_id=instance,
                    revision=actor.claims.revision,
                    image_ref=actor.reference,
                    annotations=dict(annotations),
                    max_concurrent=count,
                )
                for instance, annotations, count in counts
            ],
        )

    async def leave_queue_group(self) -> None:
        """Take no more calls; return when every call from the lattice is answered."""
        await self.inbound.drain()

    async def drain(self) -> None:
        """Return when no call runs or waits, on old instances neither."""
        await gather(pool.drain() for pool in (self.actor.pool, *self._leaving.values()))

    async def close(self) -> None:
        """End what is left; its callers are told."""
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        if leaving:
            await asyncio.wait(leaving)
        # in this order the callers of what is abandoned are still told
        await self.actor.pool.close()
        await self.inbound.close()


async def gather(work: Iterable[Awaitable[object]]) -> None:
    """Await everything at once; the first error is raised when all are done."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
