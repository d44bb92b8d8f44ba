"""Commands on the actors of one host: start from an image, scale, update, stop, drain.

Commands for one actor take effect one after another; different actors do not wait for each other. What happened is told
through events; a failure is both raised to the caller and published. What a command does to an actor that runs is in
:mod:`wasmhost.actors.running`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final
from weakref import WeakValueDictionary

import structlog

from lattice.chunks import Chunks
from lattice.claims import ActorClaims, check_times
from lattice.errors import Code
from lattice.events import Publish
from lattice.inventory import ActorDescription
from lattice.transport import Transport
from wasmhost.actors.entry import ActorEntry
from wasmhost.actors.events import ActorEvents, Attempt
from wasmhost.actors.rules import (
    ActorError,
    check_downgrade,
    other_reference,
    require_digest,
    require_same_image,
    require_same_limits,
    require_stoppable,
    require_update,
)
from wasmhost.actors.running import RunningActors
from wasmhost.actors.scale import Annotations
from wasmhost.actors.start import ActorStarter
from wasmhost.calls.admission import Admission
from wasmhost.calls.call_events import CallEvents
from wasmhost.calls.directory import ActorDirectory, RunningActor
from wasmhost.calls.outbound import Outbound
from wasmhost.calls.spies import Spies
from wasmhost.configuration import limits
from wasmhost.configuration.config import HostConfig
from wasmhost.guest.calls import Limits
from wasmhost.guest.engine import Engine
from wasmhost.images.actor_file import ActorImage, load_actor
from wasmhost.policy.calls import CallPolicy
from wasmhost.policy.expiry import ClaimsClock, ExpiryWatch
from wasmhost.policy.gate import Gate
from wasmhost.policy.halted import HaltedBook
from wasmhost.starts import Starts

log = structlog.get_logger()

MOST_INSTANCES: Final = 1000
"""Instances of one actor on one host."""
UNBOUNDED: Final = 100
"""What a command without a count (null: as many as needed) is taken for; instances start only when needed."""
_START_PATIENCE: Final = 1.5
"""Seconds that a command waits for the start of its actor, which may be under way: clients wait 2 s for its answer."""


class ActorRegistry:
    """Starts and stops actors and knows which run."""

    def __init__(
        self,
        *,
        config: HostConfig,
        host_id: str,
        engine: Engine,
        transport: Transport,
        chunks: Chunks,
        directory: ActorDirectory,
        admission: Admission,
        outbound: Outbound,
        publish_event: Publish,
        put_claims: Callable[[Mapping[str, str]], Awaitable[None]],
        put_reference: Callable[[str, str], Awaitable[None]] | None = None,
        known_claims: Callable[[str], Mapping[str, str] | None] = lambda _key: None,
        call_events: CallEvents | None = None,
        gate: Gate | None = None,
        expiry: ExpiryWatch | None = None,
        halted: HaltedBook | None = None,
        call_policy: CallPolicy | None = None,
        spies: Spies | None = None,
        trace: bool = False,
    ) -> None:
        """``put_claims`` makes an actor's claims known to the lattice, ``put_reference`` which key its image holds.

        A failure of either is logged; the actor runs. ``known_claims`` is what the lattice knows of a public key.
        ``call_policy`` is asked about calls, if given.
        """
        self._config = config
        self._gate = gate or Gate()
        expiry = expiry or ExpiryWatch(ClaimsClock(), publish_event, host_id)
        self._clock = expiry.clock
        self._directory = directory
        self._events = ActorEvents(publish_event, host_id)
        self._known_claims = known_claims
        self._starts = Starts()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self.on_change: Callable[[], None] = lambda: None
        """Called whenever what is wanted here has changed, before anybody is told."""
        starter = ActorStarter(
            config=config,
            engine=engine,
            transport=transport,
            chunks=chunks,
            admission=admission,
            outbound=outbound,
            spies=spies,
            call_events=call_events,
            call_policy=call_policy,
            trace=trace,
        )
        self._running = RunningActors(
            starter,
            directory,
            self._events,
            self._gate,
            drain_timeout=config.drain_timeout,
            expiry=expiry,
            halted=halted or HaltedBook(publish_event, host_id),
            lock=self._lock,
            on_change=self._changed,
            put_claims=put_claims,
            put_reference=put_reference,
        )
        self.halts = self._running.halts

    def get(self, public_key: str) -> RunningActor | None:
        return self._directory.get(public_key)

    def resolve_alias(self, alias: str) -> RunningActor | None:
        return self._directory.resolve_alias(alias)

    def counts(self) -> dict[str, int]:
        """Wanted instances by public key, as the classic heartbeat lists them."""
        return {entry.actor.key: entry.scale.total for entry in self._running}

    def descriptions(self, *, per_set: bool = False) -> list[ActorDescription]:
        """The actors as the inventory lists them: one entry per wanted instance, or per annotation set."""
        return [entry.describe(per_set=per_set) for entry in self._running]

    @property
    def active_calls(self) -> int:
        """Calls from the lattice that are not answered yet."""
        return self._running.active_calls

    async def launch(self, reference: str, count: int = 1, annotations: Annotations | None = None) -> str:
        """Start ``count`` more instances of the actor at ``reference``; its public key.

        Raises what :func:`load_actor` raises, or ActorError; ``actor_start_failed`` is published then.
        """
        wanted = annotations or {}
        async with (
            self._starts.begin() as start,
            # commands with one reference keep their order even though images are read in threads
            self._lock(f"ref {reference}"),
            Attempt(self._events, reference, wanted) as attempt,
        ):
            image = await load_actor(reference, config=self._config, now=self._clock())
            attempt.public_key = start.key = image.claims.subject
            async with self._lock(image.claims.subject):
                running = self._running.get(image.claims.subject)
                if running is not None:
                    require_same_image(running.actor, image)
                before = running.scale.count(wanted) if running is not None else 0
                await self._reach(running, image, before + count, wanted)
        return image.claims.subject

    async def scale(
        self,
        reference: str,
        actor_id: str | None,
        count: int | None,
        annotations: Annotations | None = None,
        *,
        only_if_absent: bool = False,
        digest: str = "",
    ) -> str:
        """Have exactly ``count`` instances with exactly these annotations (None: unbounded); the public key.

        ``reference`` may be empty for an actor that runs. Scaling to the present count does nothing, and so does
        scaling to 0 what does not run; the key is empty then if it was not given. ``only_if_absent``: nothing is done
        either where instances with these annotations run already, however many. ``digest``: what the image must have.
        """
        wanted = annotations or {}
        target = UNBOUNDED if count is None else count
        async with (
            self._starts.begin(actor_id or "") as start,
            self._lock(f"ref {reference or actor_id}"),
            Attempt(self._events, reference, wanted, actor_id or "", scale_to=target) as attempt,
        ):
            running = self._running.find(actor_id, reference)
            if running is None and target == 0:
                return actor_id or ""
            image = None
            if running is None:
                if not reference:
                    raise ActorError(
                        f"actor {actor_id} is not running on this host, and no image is named to start it from",
                        code=Code.NOT_RUNNING,
                    )
                image = await load_actor(reference, config=self._config, now=self._clock())
            key = image.claims.subject if image is not None else running.actor.key if running is not None else ""
            attempt.public_key = start.key = key
            if actor_id and key != actor_id:
                raise ActorError(f"{reference} holds actor {key}, not {actor_id}", code=Code.CONFLICT)
            async with self._lock(key):
                current = self._running.get(key)
                if only_if_absent and current is not None and current.scale.count(wanted):
                    return key
                if digest:
                    require_digest(digest, image if current is None else current.actor)
                if current is not None and image is not None:
                    require_same_image(current.actor, image)
                elif current is not None and reference and reference != current.actor.reference:
                    raise other_reference(current.actor, reference)
                elif current is None and running is not None:  # its last calls were waited for
                    check_times(running.actor.claims, self._clock())
                actor = await self._reach(current, image, target, wanted)
                if actor is not None:
                    self._events.scaled(actor, wanted, target)
        return key

    async def update(
        self,
        reference: str,
        *,
        actor_id: str = "",
        annotations: Annotations | None = None,
        accepted: Callable[[], None] = lambda: None,
    ) -> str:
        """Replace the module of a running actor by the newer revision at ``reference``; its public key.

        ``accepted`` is called once everything that can be checked without running the module is: what is raised before
        it is a refusal, which nobody else is told of. The module is then compiled and started beside the old one, which
        goes on serving; if that fails, it is published and raised, and the old one stays. Calls that had begun finish
        on the old instances, under the claims they were signed with.
        """
        wanted = annotations or {}
        # as in launch: commands with one reference keep their order
        async with self._lock(f"ref {reference}"):
            image = await load_actor(reference, config=self._config, now=self._clock())
            key = image.claims.subject
            if actor_id and key != actor_id:
                raise ActorError(f"{reference} holds actor {key}, not {actor_id}", code=Code.CONFLICT)
            await self._starts.wait_for(key, lambda: self._running.get(key) is not None, _START_PATIENCE)
            async with self._lock(key):
                self._running.require_open()
                entry = require_update(self._running.get(key), image, wanted)
                await self._gate.permit_actor(image.claims)
                accepted()
                revision = image.claims.revision
                async with Attempt(self._events, reference, wanted, key, updating=entry.scale, revision=revision):
                    await self._running.exchange(entry, image)
        return key

    async def stop(self, public_key: str, count: int | None = None, annotations: Annotations | None = None) -> None:
        """Stop ``count`` instances (None or 0: all) that carry at least these annotations.

        Calls in flight on the stopped ones are finished first. Raises ActorError when there is nothing to stop.
        """
        wanted = annotations or {}
        async with self._lock(public_key):
            entry = require_stoppable(self._running.get(public_key), public_key, wanted)
            await self._running.shrink(entry, entry.scale.remove(wanted, count or None))

    async def check_stop(self, public_key: str, annotations: Annotations) -> None:
        """Raise the ActorError that :meth:`stop` would raise now.

        A start that may be of this actor is waited for, but not long: its calls are answered, and its start is
        acknowledged, before it is known here.
        """
        await self._starts.wait_for(public_key, lambda: self._is_stoppable(public_key, annotations), _START_PATIENCE)
        require_stoppable(self._running.get(public_key), public_key, annotations)

    def _is_stoppable(self, public_key: str, annotations: Annotations) -> bool:
        entry = self._running.get(public_key)
        return entry is not None and entry.scale.matches(annotations)

    async def drain(self, timeout: float | None = None) -> int:
        """Leave all queue groups, finish the calls in flight, then stop everything.

        After ``timeout`` seconds (None: the configured drain time) calls still in flight are abandoned; how many is
        returned.
        """
        return await self._running.drain(self._config.drain_timeout if timeout is None else timeout)

    async def _reach(
        self, entry: ActorEntry | None, image: ActorImage | None, count: int, wanted: Annotations
    ) -> RunningActor | None:
        """Bring one annotation set to ``count``, starting or ending the actor where that is what it means.

        The actor whose instances changed; None when there was nothing to do.
        """
        self._running.require_open()
        others = entry.scale.total - entry.scale.count(wanted) if entry is not None else 0
        if not 0 <= count <= MOST_INSTANCES - others:
            raise ActorError(
                f"{count} instances are out of range; one host runs at most {MOST_INSTANCES} of one actor",
                code=Code.INVALID,
            )
        if entry is None:
            if count == 0:
                return None
            if image is None:
                raise ActorError("the actor was stopped meanwhile; start it again", code=Code.NOT_RUNNING)
            known = self._known_claims(image.claims.subject)
            check_downgrade(image, known, refuse=self._config.refuse_downgrades)
            await self._gate.permit_actor(image.claims)
            entry = await self._running.start(image, count, self._limits(wanted))
        elif count > entry.scale.count(wanted):
            check_times(entry.actor.claims, self._clock())
            require_same_limits(entry.actor, wanted)
            await self._gate.permit_actor(entry.actor.claims)
        self._running.require_open()  # else nobody would tell of its end
        change = entry.scale.set(wanted, count)
        if change is None:
            return None
        if change.started:
            self._running.grow(entry, change)
        else:
            await self._running.shrink(entry, [change])
        return entry.actor

    def _changed(self) -> None:
        self.on_change()

    def _limits(self, wanted: Annotations) -> Limits:
        """The limits of an actor that is started with these annotations. Raises LimitError."""
        return limits.changed(self._config.limits, limits.from_annotations(wanted))

    def running_claims(self) -> list[ActorClaims]:
        """The claims of everything that runs."""
        return [entry.actor.claims for entry in self._running]

    def _lock(self, key: str) -> asyncio.Lock:
        """The lock of a public key, or of ``ref`` and a reference; where both are held, the reference's comes first."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock
