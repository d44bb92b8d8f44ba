"""The actors that run on one host: brought up, changed in number, exchanged for a newer revision, ended.

Each step tells the lattice what has become of it. That steps of one actor do not meet is the caller's part.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Final

import structlog

from lattice.errors import Code, LatticeError
from lattice.keys import Role, is_key
from wasmhost.actors.entry import ActorEntry, gather
from wasmhost.actors.events import ActorEvents
from wasmhost.actors.halts import ActorHalts
from wasmhost.actors.rules import ActorError
from wasmhost.actors.scale import Change
from wasmhost.actors.start import ActorStarter
from wasmhost.calls.directory import ActorDirectory, RunningActor
from wasmhost.guest.calls import Limits
from wasmhost.images.actor_file import ActorImage
from wasmhost.policy.expiry import ExpiryWatch
from wasmhost.policy.gate import Gate
from wasmhost.policy.halted import HaltedBook

log = structlog.get_logger()

_LAST_CALLS: Final = 1.0
"""Seconds beyond the longest call that old instances get after an update: answers have to leave, too."""


class RunningActors:
    """Those of one host; iterating yields the entry of each."""

    def __init__(
        self,
        starter: ActorStarter,
        directory: ActorDirectory,
        events: ActorEvents,
        gate: Gate,
        *,
        drain_timeout: float,
        expiry: ExpiryWatch,
        halted: HaltedBook,
        lock: Callable[[str], asyncio.Lock],
        on_change: Callable[[], None],
        put_claims: Callable[[Mapping[str, str]], Awaitable[None]],
        put_reference: Callable[[str, str], Awaitable[None]] | None,
    ) -> None:
        """``lock`` keeps the steps of an actor apart, by its key; ``on_change`` is called before anybody is told of a
        change; ``put_claims`` and ``put_reference`` as in :class:`wasmhost.actors.registry.ActorRegistry`.
        """
        self._starter = starter
        self._directory = directory
        self._events = events
        self._gate = gate
        self._drain_timeout = drain_timeout
        self._on_change = on_change
        self._put_claims = put_claims
        self._put_reference = put_reference
        self._entries: dict[str, ActorEntry] = {}
        self._draining = False
        self.halts = ActorHalts(expiry, halted, find=self.get, lock=lock, end=self._halt)

    def __iter__(self) -> Iterator[ActorEntry]:
        return iter(tuple(self._entries.values()))

    def get(self, public_key: str) -> ActorEntry | None:
        return self._entries.get(public_key)

    def find(self, public_key: str | None, reference: str) -> ActorEntry | None:
        """The one with this key; without a key the one of this reference, which may be a key as well."""
        if public_key:
            return self._entries.get(public_key)
        if is_key(reference, Role.MODULE):
            return self._entries.get(reference)
        return next((entry for entry in self if entry.actor.reference == reference), None)

    @property
    def active_calls(self) -> int:
        """Calls from the lattice that are not answered yet."""
        return sum(entry.inbound.active for entry in self)

    def require_open(self) -> None:
        """Raise ActorError when the host is stopping."""
        if self._draining:
            raise ActorError("this host is stopping; start the actor on another one", code=Code.NOT_RUNNING)

    async def start(self, image: ActorImage, instances: int, bounds: Limits) -> ActorEntry:
        """Compile, instantiate once, join the queue group: in this order, so that the lattice sees what works."""
        actor = await self._starter.ready(image, instances, bounds)
        try:
            self.require_open()
            inbound = await self._starter.serve(actor)
        except BaseException:
            await actor.pool.close()
            raise
        entry = ActorEntry(actor, inbound)
        try:
            self.require_open()
            self._gate.revocations.check(actor.claims)  # it may have been revoked meanwhile
        except LatticeError:
            await entry.close()
            raise
        self._entries[actor.key] = entry
        if not self._directory.add(actor):
            log.warning("actor.alias_taken", actor=actor.key, call_alias=actor.claims.call_alias)
        self.halts.started(entry)
        await self._introduce(actor)
        log.info(
            "actor.started", actor=actor.key, name=actor.claims.name, reference=image.reference, instances=instances
        )
        return entry

    async def exchange(self, entry: ActorEntry, image: ActorImage) -> None:
        """Start the new revision beside the old one, then switch in one step."""
        old = entry.actor
        bounds = old.pool.limits
        new = await self._starter.ready(image, entry.scale.total, bounds)
        try:
            await self._introduce(new)  # who hears of the update can look up its claims
            self.require_open()
            self._gate.revocations.check(new.claims)
            if self._entries.get(old.key) is not entry:
                raise ActorError("the actor was stopped meanwhile; start it again", code=Code.NOT_RUNNING)
        except BaseException:
            await new.pool.close()
            raise
        changes = entry.scale.renew()

        def when_gone() -> None:
            self._tell(old, [replace(stopped, remaining=entry.scale.total) for _, stopped in changes])

        # a call that may be made may last as long as the limits say, and so may the end of the old instances
        entry.switch(new, patience=bounds.deadline + _LAST_CALLS, when_gone=when_gone)
        if not self._directory.replace(old, new):
            log.warning("actor.alias_taken", actor=new.key, call_alias=new.claims.call_alias)
        self._on_change()
        for started, _ in changes:
            self._events.updated(new, started)
        self.halts.started(entry)
        log.info(
            "actor.updated",
            actor=new.key,
            name=new.claims.name,
            reference=new.reference,
            revision=new.claims.revision,
            before=old.claims.revision,
        )

    def grow(self, entry: ActorEntry, change: Change) -> None:
        """Carry out that more are wanted."""
        self._on_change()
        entry.actor.pool.resize(entry.scale.total)
        self._tell(entry.actor, [change])

    async def shrink(self, entry: ActorEntry, changes: list[Change], *, at_once: bool = False) -> None:
        """Carry out that fewer are wanted: the actor ends with its last instance, ``at_once`` or after its calls."""
        self._on_change()
        if entry.scale.total == 0 and at_once:
            await self._end(entry)
        elif entry.scale.total == 0:
            await self._finish(entry)
        else:
            entry.actor.pool.resize(entry.scale.total)
        self._tell(entry.actor, changes)

    async def drain(self, timeout: float) -> int:
        """Leave all queue groups, finish the calls in flight, then stop everything.

        After ``timeout`` seconds calls still in flight are abandoned; how many is returned.
        """
        self._draining = True
        self.halts.close()
        entries = list(self._entries.values())
        abandoned = 0
        try:
            async with asyncio.timeout(timeout):
                # all actors leave before the first ends: a call in flight may still need another actor of this host
                await gather(entry.leave_queue_group() for entry in entries)
                await gather(entry.drain() for entry in entries)
        except TimeoutError:
            abandoned = self.active_calls
            log.warning("host.calls_abandoned", calls=abandoned)
        await gather(self._end(entry) for entry in entries)
        for entry in entries:
            self._tell(entry.actor, entry.scale.remove({}))
        return abandoned

    async def _introduce(self, actor: RunningActor) -> None:
        """Tell the lattice of the claims of what begins to run; a failure is logged."""
        try:
            await self._put_claims(actor.claims.as_metadata())
            if self._put_reference is not None:
                await self._put_reference(actor.reference, actor.key)
        except LatticeError as exc:
            log.warning("actor.claims_not_published", actor=actor.key, error=str(exc))

    async def _halt(self, entry: ActorEntry, at_once: bool) -> None:
        await self.shrink(entry, entry.scale.remove({}), at_once=at_once)

    async def _finish(self, entry: ActorEntry) -> None:
        """Stop one actor: no new calls, then the ones in flight, then its instances."""
        self._directory.remove(entry.actor)
        try:
            async with asyncio.timeout(self._drain_timeout):
                await entry.leave_queue_group()
                await entry.drain()
        except TimeoutError:
            log.warning("actor.calls_abandoned", actor=entry.actor.key, calls=entry.inbound.active)
        await self._end(entry)

    async def _end(self, entry: ActorEntry) -> None:
        self._directory.remove(entry.actor)
        if self._entries.get(entry.actor.key) is entry:
            del self._entries[entry.actor.key]
            self.halts.ended(entry.actor.key)
        await entry.close()
        log.info("actor.stopped", actor=entry.actor.key, name=entry.actor.claims.name)

    def _tell(self, actor: RunningActor, changes: Iterable[Change]) -> None:
        for change in changes:
            self._events.changed(actor, change)
