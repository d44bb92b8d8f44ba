"""The actors of one host: started from an image, scaled, stopped, drained.

Commands for one actor take effect one after another; different actors do not wait for each other. What happened is told
through events; a failure is both raised to the caller and published.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from weakref import WeakValueDictionary

import structlog

from lattice.claims import check_times
from lattice.errors import Code, LatticeError
from lattice.inventory import ActorDescription, InstanceDescription
from lattice.keys import Role, is_key
from lattice.transport import Transport
from wasmhost import limits
from wasmhost.actor_events import ActorEvents, PublishEvent
from wasmhost.admission import Admission
from wasmhost.config import HostConfig
from wasmhost.directory import ActorDirectory, RunningActor
from wasmhost.guest.calls import Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.pool import ActorPool
from wasmhost.images.actor_file import ActorImage, load_actor
from wasmhost.inbound import Inbound
from wasmhost.outbound import Outbound
from wasmhost.scale import Annotations, Change, Scale

log = structlog.get_logger()

MOST_INSTANCES: Final = 1000
"""Instances of one actor on one host."""
UNBOUNDED: Final = 100
"""What a command without a count (null: as many as needed) is taken for; instances start only when needed."""
_LONGEST_TIMER: Final = 86_400.0


class ActorError(LatticeError):
    """A command on an actor cannot be carried out; ``code`` says of which kind the reason is."""


@dataclass(eq=False, slots=True)
class _Entry:
    """What the registry keeps about one running actor, beyond what the data path needs."""

    actor: RunningActor
    inbound: Inbound
    scale: Scale = field(default_factory=Scale)
    expiry: asyncio.TimerHandle | None = None


class ActorRegistry:
    """Starts and stops actors and knows which run."""

    def __init__(
        self,
        *,
        config: HostConfig,
        host_id: str,
        engine: Engine,
        transport: Transport,
        directory: ActorDirectory,
        admission: Admission,
        outbound: Outbound,
        publish_event: PublishEvent,
        put_claims: Callable[[Mapping[str, str]], Awaitable[None]],
        clock: Callable[[], float] = time.time,
        trace: bool = False,
    ) -> None:
        """``put_claims`` makes an actor's claims known to the lattice; its failure is logged, the actor runs."""
        self._config = config
        self._engine = engine
        self._transport = transport
        self._directory = directory
        self._admission = admission
        self._outbound = outbound
        self._events = ActorEvents(publish_event, host_id)
        self._put_claims = put_claims
        self._clock = clock
        self._trace = trace
        self._entries: dict[str, _Entry] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._expirations: set[asyncio.Task[None]] = set()
        self._draining = False

    def get(self, public_key: str) -> RunningActor | None:
        return self._directory.get(public_key)

    def resolve_alias(self, alias: str) -> RunningActor | None:
        return self._directory.resolve_alias(alias)

    def counts(self) -> dict[str, int]:
        """Wanted instances by public key, as the classic heartbeat lists them."""
        return {key: entry.scale.total for key, entry in self._entries.items()}

    def descriptions(self) -> list[ActorDescription]:
        """The actors as the inventory lists them: one entry per wanted instance."""
        return [self._describe(entry) for entry in self._entries.values()]

    @property
    def active_calls(self) -> int:
        """Calls from the lattice that are not answered yet."""
        return sum(entry.inbound.active for entry in self._entries.values())

    async def launch(self, reference: str, count: int = 1, annotations: Annotations | None = None) -> str:
        """Start ``count`` more instances of the actor at ``reference``; its public key.

        Raises what :func:`load_actor` raises, or ActorError; ``actor_start_failed`` is published then.
        """
        wanted = annotations or {}
        # commands with one reference keep their order even though images are read in threads
        async with self._lock(f"ref {reference}"), _Attempt(self._events, reference, wanted) as attempt:
            image = await load_actor(reference, config=self._config, now=self._clock())
            attempt.public_key = image.claims.subject
            async with self._lock(image.claims.subject):
                running = self._entries.get(image.claims.subject)
                if running is not None:
                    self._require_same_image(running, image)
                before = running.scale.count(wanted) if running is not None else 0
                await self._reach(running, image, before + count, wanted)
        return image.claims.subject

    async def scale(
        self, reference: str, actor_id: str | None, count: int | None, annotations: Annotations | None = None
    ) -> str:
        """Have exactly ``count`` instances with exactly these annotations (None: unbounded); the public key.

        ``reference`` may be empty for an actor that runs. Scaling to the present count does nothing.
        """
        wanted = annotations or {}
        target = UNBOUNDED if count is None else count
        async with (
            self._lock(f"ref {reference or actor_id}"),
            _Attempt(self._events, reference, wanted, actor_id or "") as attempt,
        ):
            running = self._running(actor_id, reference)
            if running is None and target == 0:
                raise ActorError(f"actor {actor_id or reference} is not running on this host", code=Code.NOT_RUNNING)
            image = None
            if running is None:
                image = await load_actor(reference, config=self._config, now=self._clock())
            key = image.claims.subject if image is not None else running.actor.key if running is not None else ""
            attempt.public_key = key
            if actor_id and key != actor_id:
                raise ActorError(f"{reference} holds actor {key}, not {actor_id}", code=Code.CONFLICT)
            async with self._lock(key):
                current = self._entries.get(key)
                if current is not None and image is not None:
                    self._require_same_image(current, image)
                elif current is not None and reference and reference != current.actor.reference:
                    raise self._other_reference(current, reference)
                await self._reach(current, image, target, wanted)
        return key

    async def stop(self, public_key: str, count: int | None = None, annotations: Annotations | None = None) -> None:
        """Stop ``count`` instances (None or 0: all) that carry at least these annotations.

        Calls in flight on the stopped ones are finished first. Raises ActorError when there is nothing to stop.
        """
        wanted = annotations or {}
        async with self._lock(public_key):
            entry = self._entries.get(public_key)
            if entry is None:
                raise ActorError(f"actor is not running on this host: {public_key}", code=Code.NOT_RUNNING)
            if not entry.scale.matches(wanted):
                raise ActorError("no actors with matching annotations found to stop", code=Code.NOT_RUNNING)
            await self._shrink(entry, entry.scale.remove(wanted, count or None))

    async def drain(self, timeout: float | None = None) -> int:
        """Leave all queue groups, finish the calls in flight, then stop everything.

        After ``timeout`` seconds (None: the configured drain time) calls still in flight are abandoned; how many is
        returned.
        """
        self._draining = True
        for task in self._expirations:
            task.cancel()
        entries = list(self._entries.values())
        abandoned = 0
        try:
            async with asyncio.timeout(self._config.drain_timeout if timeout is None else timeout):
                # all actors leave before the first ends: a call in flight may still need another actor of this host
                await _all(entry.inbound.drain() for entry in entries)
                await _all(entry.actor.pool.drain() for entry in entries)
        except TimeoutError:
            abandoned = self.active_calls
            log.warning("host.calls_abandoned", calls=abandoned)
        await _all(self._end(entry) for entry in entries)
        for entry in entries:
            self._tell(entry, entry.scale.remove({}))
        return abandoned

    async def _reach(self, entry: _Entry | None, image: ActorImage | None, count: int, wanted: Annotations) -> None:
        """Bring one annotation set to ``count``, starting or ending the actor where that is what it means."""
        if self._draining:
            raise ActorError("this host is stopping; start the actor on another one", code=Code.NOT_RUNNING)
        others = entry.scale.total - entry.scale.count(wanted) if entry is not None else 0
        if not 0 <= count <= MOST_INSTANCES - others:
            raise ActorError(
                f"{count} instances are out of range; one host runs at most {MOST_INSTANCES} of one actor",
                code=Code.INVALID,
            )
        if entry is None:
            if count == 0:
                return
            if image is None:
                raise ActorError("the actor was stopped meanwhile; start it again", code=Code.NOT_RUNNING)
            entry = await self._start(image, count, self._limits(wanted))
        elif count > entry.scale.count(wanted):
            check_times(entry.actor.claims, self._clock())
            self._require_same_limits(entry, wanted)
        change = entry.scale.set(wanted, count)
        if change is None:
            return
        if change.started:
            entry.actor.pool.resize(entry.scale.total)
            self._tell(entry, [change])
        else:
            await self._shrink(entry, [change])

    def _limits(self, wanted: Annotations) -> Limits:
        """The limits of an actor that is started with these annotations. Raises LimitError."""
        return limits.changed(self._config.limits, limits.from_annotations(wanted))

    def _require_same_limits(self, running: _Entry, wanted: Annotations) -> None:
        """All instances of an actor share one pool, so limits count for all of them. Saying nothing is no wish."""
        numbers = limits.from_annotations(wanted)
        if numbers and limits.changed(running.actor.pool.limits, numbers) != running.actor.pool.limits:
            raise ActorError(
                f"{running.actor.key} runs already on this host, with other limits than "
                f"{', '.join(f'{name} {number}' for name, number in numbers.items())}; "
                f"stop it first: wasmhost stop actor {running.actor.key}",
                code=Code.CONFLICT,
            )

    async def _start(self, image: ActorImage, instances: int, bounds: Limits) -> _Entry:
        """Compile, instantiate once, join the queue group: in this order, so that the lattice sees what works."""
        claims = image.claims
        capabilities = frozenset(contract for contract in claims.capabilities if contract)
        module = await self._engine.load(image.wasm, image.digest)
        pool = ActorPool(
            self._engine,
            module,
            actor=claims.subject,
            limits=bounds,
            host_calls=self._outbound.host_call(claims.subject, capabilities),
            instances=instances,
        )
        actor = RunningActor(claims=claims, reference=image.reference, digest=image.digest, pool=pool)
        inbound = Inbound(
            actor,
            transport=self._transport,
            lattice=self._config.lattice,
            admission=self._admission,
            default_timeout=self._config.rpc_timeout,
            longest_timeout=bounds.deadline,
            trace=self._trace,
        )
        try:
            await pool.start_one()
            await inbound.start()
            if self._draining:
                raise ActorError("this host is stopping; start the actor on another one", code=Code.NOT_RUNNING)
        except BaseException:
            await inbound.close()
            await pool.close()
            raise
        entry = _Entry(actor, inbound)
        self._entries[actor.key] = entry
        if not self._directory.add(actor):
            log.warning("actor.alias_taken", actor=actor.key, call_alias=claims.call_alias)
        self._arm_expiry(entry)
        try:
            await self._put_claims(claims.as_metadata())
        except LatticeError as exc:
            log.warning("actor.claims_not_published", actor=actor.key, error=str(exc))
        log.info("actor.started", actor=actor.key, name=claims.name, reference=image.reference, instances=instances)
        return entry

    async def _shrink(self, entry: _Entry, changes: list[Change]) -> None:
        if entry.scale.total == 0:
            await self._finish(entry)
        else:
            entry.actor.pool.resize(entry.scale.total)
        self._tell(entry, changes)

    async def _finish(self, entry: _Entry) -> None:
        """Stop one actor: no new calls, then the ones in flight, then its instances."""
        self._directory.remove(entry.actor)
        try:
            async with asyncio.timeout(self._config.drain_timeout):
                await entry.inbound.drain()
                await entry.actor.pool.drain()
        except TimeoutError:
            log.warning("actor.calls_abandoned", actor=entry.actor.key, calls=entry.inbound.active)
        await self._end(entry)

    async def _end(self, entry: _Entry) -> None:
        if entry.expiry is not None:
            entry.expiry.cancel()
        self._directory.remove(entry.actor)
        if self._entries.get(entry.actor.key) is entry:
            del self._entries[entry.actor.key]
        # in this order the callers of what is abandoned are still told
        await entry.actor.pool.close()
        await entry.inbound.close()
        log.info("actor.stopped", actor=entry.actor.key, name=entry.actor.claims.name)

    def _arm_expiry(self, entry: _Entry) -> None:
        """Stop the actor when its claims expire; timers of a day at most, as the wall clock may be set."""
        expires = entry.actor.claims.expires
        if expires is None:
            return
        left = expires - self._clock()
        if left > 0:
            delay = min(left + 0.05, _LONGEST_TIMER)
            entry.expiry = asyncio.get_running_loop().call_later(delay, self._arm_expiry, entry)
            return
        task = asyncio.create_task(self._expire(entry), name=f"expiry of {entry.actor.key}")
        self._expirations.add(task)
        task.add_done_callback(self._expirations.discard)

    async def _expire(self, entry: _Entry) -> None:
        log.warning("actor.expired", actor=entry.actor.key, name=entry.actor.claims.name)
        with suppress(ActorError):
            await self.stop(entry.actor.key)

    def _running(self, actor_id: str | None, reference: str) -> _Entry | None:
        if actor_id:
            return self._entries.get(actor_id)
        if is_key(reference, Role.MODULE):
            return self._entries.get(reference)
        return next((entry for entry in self._entries.values() if entry.actor.reference == reference), None)

    def _require_same_image(self, running: _Entry, image: ActorImage) -> None:
        if running.actor.reference != image.reference:
            raise self._other_reference(running, image.reference)
        if running.actor.digest != image.digest:
            raise ActorError(
                f"Cannot start new instance of {running.actor.key} from ref '{image.reference}': the file has changed "
                f"since the running instances started; stop them first: wasmhost stop actor {running.actor.key}",
                code=Code.CONFLICT,
            )

    @staticmethod
    def _other_reference(running: _Entry, reference: str) -> ActorError:
        return ActorError(
            f"Cannot start new instance of {running.actor.key} from ref '{reference}', it is already running with "
            f"different reference. To upgrade an actor, use live update. (running: '{running.actor.reference}')",
            code=Code.CONFLICT,
        )

    def _lock(self, key: str) -> asyncio.Lock:
        """The lock of a public key, or of ``ref`` and a reference; where both are held, the reference's comes first."""
        lock = self._locks.get(key)
        if lock is None:
            lock = self._locks[key] = asyncio.Lock()
        return lock

    def _describe(self, entry: _Entry) -> ActorDescription:
        actor = entry.actor
        return ActorDescription(
            id=actor.key,
            image_ref=actor.reference,
            name=actor.claims.name,
            instances=[
                InstanceDescription(
                    instance_id=instance,
                    revision=actor.claims.revision,
                    image_ref=actor.reference,
                    annotations=dict(annotations),
                )
                for instance, annotations in entry.scale.instances()
            ],
        )

    def _tell(self, entry: _Entry, changes: Iterable[Change]) -> None:
        for change in changes:
            self._events.changed(entry.actor, change)


@dataclass(slots=True)
class _Attempt:
    """One start or scale command: publishes why it failed, then lets the error pass."""

    events: ActorEvents
    reference: str
    annotations: Annotations
    public_key: str = ""
    """Filled in as soon as it is known."""

    async def __aenter__(self) -> _Attempt:
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception):
            self.events.failed(
                error, reference=self.reference, public_key=self.public_key, annotations=self.annotations
            )


async def _all(work: Iterable[Awaitable[object]]) -> None:
    """Await everything at once; the first error is raised when all are done."""
    results = await asyncio.gather(*work, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
