"""What a host was asked to run: kept in its state folder, and brought back when the host starts again.

The file follows what runs, a moment later: it is written whole, beside the loop, and many changes make one write. What
is to be brought back stays in it until it runs, or until a command decides otherwise. The end of the host is no change,
so that a host that was stopped, in whatever way, comes back with everything.

What a manager of applications started waits for that manager: it may have moved the work elsewhere meanwhile. Only when
the manager was silent for a while does the host bring it back by itself.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import structlog

from lattice import background
from lattice.errors import LatticeError, MalformedMessage
from wasmhost.actors.registry import ActorRegistry
from wasmhost.keys.sealing import Seal
from wasmhost.private_files import StateError, make_private_folder, read_private, replace_file
from wasmhost.restore.duty_book import ActorDuty, Duty, ProviderDuty, decode, encode, manager_of, open_ones
from wasmhost.supervision.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

RETRY: Final = 10.0
"""Seconds after which a write that failed is tried again."""
AGAIN: Final = (5.0, 30.0, 300.0, 3600.0)
"""Seconds between attempts to bring back what could not be; the last one counts for all that follow."""
_LAST_WRITE: Final = 5.0
"""Seconds that the last write of a host may take; a hung disk must not keep it from ending."""
_PAUSE: Final = 10.0
"""Between two writes, times what preparing the first one took: a host of a thousand actors has other things to do."""
_LONGEST_PAUSE: Final = 1.0
_AT_ONCE: Final = 4
"""Actors that are brought back at one time; compiling them is most of the work."""


class Duties:
    """Remembers for one host in one lattice. Made by :meth:`open`; without a folder it remembers nothing."""

    def __init__(
        self,
        path: Path | None,
        pending: Iterable[Duty],
        *,
        seal: Seal,
        actors: ActorRegistry,
        providers: ProviderSupervisor,
        patience: float,
    ) -> None:
        self._path = path
        self._pending = list(pending)
        """What is not running yet, or could not be brought back."""
        self._active: list[Duty] = []
        """Those of them that are being started now."""
        self._called_off: list[Duty] = []
        """Those of the active ones that a command has stopped meanwhile."""
        self._seal = seal
        self._actors = actors
        self._providers = providers
        self._patience = patience
        self._written = encode(self._pending)
        """What the file holds, a missing one being as good as an empty one."""
        self._dirty = asyncio.Event()
        self._closing = asyncio.Event()
        self._restored = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._restoring: asyncio.Task[None] | None = None
        self.problem: str | None = None
        """Why the file does not say what runs; None when it does."""

    @classmethod
    async def open(
        cls,
        folder: Path | None,
        lattice: str,
        *,
        seal: Seal,
        actors: ActorRegistry,
        providers: ProviderSupervisor,
        patience: float,
    ) -> Duties:
        """Read what the host of this state folder was asked to run in ``lattice``; what cannot be read is set aside.

        ``patience``: seconds that a manager has for what is its own.
        """
        path = folder / "duties" / f"{lattice}.json" if folder is not None else None
        pending = await asyncio.to_thread(_read, path) if path is not None else []
        return cls(path, pending, seal=seal, actors=actors, providers=providers, patience=patience)

    def begin(self) -> None:
        """From now on remember, and bring back what there is, without waiting for it here."""
        if self._path is None:
            self._restored.set()
            return
        self._actors.on_change = self._providers.on_change = self.changed
        self._dirty.set()  # commands may have come before this
        self._writing = background.begin(self._keep(self._path), "duties: write")
        self._restoring = background.begin(self._restore(), "duties: restore")

    async def wait_restored(self) -> None:
        """Return when all was tried that needs no manager: who starts only what is absent waits for that."""
        await self._restored.wait()

    def changed(self) -> None:
        """Something runs that did not, or the other way round."""
        self._dirty.set()

    def commanded(self, annotations: Mapping[str, str]) -> None:
        """A command with these annotations arrived: a manager that is there decides about all of its application."""
        manager = manager_of(annotations)
        if manager is not None:
            self._forget([duty for duty in self._pending if manager_of(duty.annotations) == manager])

    def scaled(self, named: str, annotations: Mapping[str, str], count: int | None) -> None:
        """A command says how many instances of an actor (key or image) there shall be with just these annotations."""
        meant = [duty for duty in self._named(named) if duty.annotations == annotations]
        self._forget(meant, call_off=count == 0)

    def stopped_actor(self, named: str, annotations: Mapping[str, str]) -> bool:
        """A command stops an actor (key or image) with at least these annotations; whether it was yet to come back."""
        meant = [duty for duty in self._named(named) if annotations.items() <= duty.annotations.items()]
        return self._forget(meant, call_off=True)

    def stopped_provider(self, provider_id: str, link_name: str) -> None:
        """A command stops this provider."""
        providers = [duty for duty in self._pending if isinstance(duty, ProviderDuty)]
        key = provider_id, link_name
        self._forget([duty for duty in providers if (duty.provider_id, duty.link_name) == key], call_off=True)

    async def close(self) -> None:
        """Remember what runs at this moment, and nothing that comes after: the end of the host is no change."""
        self._actors.on_change = self._providers.on_change = lambda: None
        if self._restoring is None or self._writing is None:
            return
        self._restoring.cancel()
        await asyncio.wait({self._restoring})
        self._closing.set()
        self._dirty.set()
        _, late = await asyncio.wait({self._writing}, timeout=_LAST_WRITE)
        if late:
            log.warning("duties.last_write_abandoned", path=str(self._path))
            self._writing.cancel()
            await asyncio.wait({self._writing})

    def _named(self, named: str) -> list[ActorDuty]:
        actors = [duty for duty in self._pending if isinstance(duty, ActorDuty)]
        return [duty for duty in actors if named in (duty.actor_id, duty.reference)]

    def _forget(self, gone: Sequence[Duty], *, call_off: bool = False) -> bool:
        """Bring these back no more; ``call_off``: stop those, too, that are just being started."""
        if gone:
            if call_off:
                self._called_off += [duty for duty in gone if duty in self._active]
            self._pending = [duty for duty in self._pending if duty not in gone]
            log.info("duties.decided_by_command", count=len(gone))
            self._dirty.set()
        return bool(gone)

    def _present(self) -> list[Duty]:
        """What runs, as it would have to be asked for again."""
        found: list[Duty] = [
            ActorDuty(
                actor_id=actor.id,
                reference=actor.image_ref or "",
                count=instances.count,
                annotations=instances.annotations,
            )
            for actor in self._actors.descriptions(per_set=True)
            for instances in actor.instances
        ]
        for provider in self._providers:
            configuration = provider.configuration
            found.append(
                ProviderDuty(
                    provider_id=provider.image.public_key,
                    reference=provider.image.reference,
                    link_name=provider.link_name,
                    sealed_configuration=self._seal.close(configuration) if configuration else "",
                    annotations=provider.annotations,
                )
            )
        return found

    # ---- writing

    async def _keep(self, path: Path) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if self.problem else None):
                    await self._dirty.wait()
            self._dirty.clear()
            spent = await self._write(path)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_LONGEST_PAUSE, _PAUSE * spent)):
                    await self._closing.wait()
        await self._write(path)

    async def _write(self, path: Path) -> float:
        """Bring the file up to date if it can be; for how many seconds that kept the loop from other work."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        present = self._present()
        self._pending = open_ones(self._pending, present)
        data = encode([*present, *self._pending])
        spent = loop.time() - began
        if data != self._written:
            await self._replace(path, data)
        return spent

    async def _replace(self, path: Path, data: bytes) -> None:
        try:
            await asyncio.to_thread(_replace, path, data)
        except (OSError, LatticeError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            problem = f"what this host runs cannot be written to {path}: {reason}; it would not come back with it"
            if problem != self.problem:
                log.warning("duties.not_written", path=str(path), reason=reason)
            self.problem = problem
            return
        if self.problem:
            log.info("duties.written_again", path=str(path))
        self.problem = None
        self._written = data

    # ---- bringing back

    async def _restore(self) -> None:
        loop = asyncio.get_running_loop()
        patient_until = loop.time() + self._patience
        managed = [duty for duty in self._pending if manager_of(duty.annotations) is not None]
        if managed:
            log.info("duties.waiting_for_manager", count=len(managed), seconds=self._patience)
        try:
            await self._bring_back([duty for duty in self._pending if duty not in managed])
        finally:
            self._restored.set()
        if managed:
            await asyncio.sleep(patient_until - loop.time())
            await self._bring_back([duty for duty in self._pending if duty in managed])
        pauses = itertools.chain(AGAIN, itertools.repeat(AGAIN[-1]))
        while self._pending:  # a file system, a policy service, a login may only come after the host
            await asyncio.sleep(next(pauses))
            await self._bring_back(self._pending)

    async def _bring_back(self, duties: Iterable[Duty]) -> None:
        """Actors first, so that a port opens when who answers behind it is there."""
        listed = list(duties)
        some = asyncio.Semaphore(_AT_ONCE)

        async def one_actor(sets: list[ActorDuty]) -> None:
            async with some:
                for duty in sets:  # in their order: the first set has decided the limits of all
                    await self._start(duty)

        actors = sorted((duty for duty in listed if isinstance(duty, ActorDuty)), key=_actor_id)
        async with asyncio.TaskGroup() as group:
            for _, sets in itertools.groupby(actors, key=_actor_id):
                group.create_task(one_actor(list(sets)))
        async with asyncio.TaskGroup() as group:
            for duty in listed:
                if isinstance(duty, ProviderDuty):
                    group.create_task(self._start(duty))

    async def _start(self, duty: Duty) -> None:
        """Start one thing unless it runs or was called off meanwhile; what failed was published by whoever tried."""
        if duty not in self._pending:
            return
        self._active.append(duty)
        what = log.bind(reference=duty.reference)
        try:
            match duty:
                case ActorDuty():
                    await self._start_actor(duty)
                case ProviderDuty():
                    await self._start_provider(duty)
        except LatticeError as error:
            what.warning("duties.not_restored", error=str(error), hint="it is tried again until it works or is stopped")
        except Exception:
            what.exception("duties.restore_broke")
        else:
            if duty in self._pending:
                self._pending.remove(duty)
            what.info("duties.restored")
        finally:
            self._active.remove(duty)
            if duty in self._called_off:
                self._called_off.remove(duty)
            self._dirty.set()

    async def _start_actor(self, duty: ActorDuty) -> None:
        running = self._actors.get(duty.actor_id)
        if running is not None and running.reference != duty.reference:
            return  # somebody has put another image in its place
        await self._actors.scale(duty.reference, duty.actor_id, duty.count, duty.annotations, only_if_absent=True)
        if duty in self._called_off:
            await self._actors.stop(duty.actor_id, None, duty.annotations)

    async def _start_provider(self, duty: ProviderDuty) -> None:
        if self._providers.find(duty.provider_id, duty.link_name) is not None:
            return
        try:
            configuration = self._seal.open(duty.sealed_configuration) if duty.sealed_configuration else ""
        except MalformedMessage as error:
            reason = MalformedMessage(f"its configuration cannot be read from the state folder: {error}; start it anew")
            self._providers.tell_failure(reason, duty.reference, duty.link_name)
            raise reason from error
        started = await self._providers.start(
            duty.reference,
            link_name=duty.link_name,
            configuration=configuration,
            annotations=duty.annotations,
            provider_id=duty.provider_id,
        )
        if duty in self._called_off:
            await self._providers.stop(*started.key)


def _actor_id(duty: ActorDuty) -> str:
    return duty.actor_id


def _read(path: Path) -> list[Duty]:
    """The duties in the file; a file that cannot be used is set aside, since the next change will write a new one."""
    try:
        return decode(read_private(path))
    except FileNotFoundError:
        return []
    except (OSError, StateError, MalformedMessage) as error:
        aside = path.with_suffix(".json.damaged")
        with contextlib.suppress(OSError):
            path.replace(aside)
        reason = str(error.strerror if isinstance(error, OSError) else error)
        log.warning("duties.set_aside", path=str(aside), reason=reason, hint="nothing is brought back; start anew")
        return []


def _replace(path: Path, data: bytes) -> None:
    make_private_folder(path.parent)
    replace_file(path, data)
