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
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final

import structlog

from lattice.errors import LatticeError, MalformedMessage
from wasmhost.actors import ActorRegistry
from wasmhost.duty_book import ActorDuty, Duty, ProviderDuty, decode, encode, manager_of, superseded
from wasmhost.sealing import Seal
from wasmhost.state import make_private_folder, replace_file
from wasmhost.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

RETRY: Final = 10.0
"""Seconds after which a write that failed is tried again."""
_LAST_WRITE: Final = 5.0
"""Seconds that the last write of a host may take; a hung disk must not keep it from ending."""
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
        self._forgotten: list[Duty] = []
        """Those of the active ones that a command has called off."""
        self._seal = seal
        self._actors = actors
        self._providers = providers
        self._patience = patience
        self._written = b""
        self._dirty = asyncio.Event()
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
            return
        self._actors.on_change = self._providers.on_change = self.changed
        self._writing = asyncio.create_task(self._keep(self._path), name="duties: write")
        self._restoring = asyncio.create_task(self._restore(), name="duties: restore")

    def changed(self) -> None:
        """Something runs that did not, or the other way round."""
        if self._pending:
            present = self._present()
            self._pending = [duty for duty in self._pending if not superseded(duty, present)]
        self._dirty.set()

    def commanded(self, annotations: Mapping[str, str]) -> None:
        """A command with these annotations arrived: a manager that is there decides about all of its application."""
        manager = manager_of(annotations)
        if manager is not None:
            self._forget(lambda duty: manager_of(duty.annotations) == manager)

    def forget_actor(self, named: str, annotations: Mapping[str, str], *, exactly: bool = False) -> bool:
        """Do not bring back an actor with at least (``exactly``: with just) these annotations; whether it was meant to.

        ``named`` is its key or its image reference.
        """

        def meant(duty: Duty) -> bool:
            if not isinstance(duty, ActorDuty) or named not in (duty.actor_id, duty.reference):
                return False
            if exactly:
                return duty.annotations == annotations
            return annotations.items() <= duty.annotations.items()

        return self._forget(meant)

    def forget_provider(self, provider_id: str, link_name: str) -> bool:
        """Do not bring back this provider; whether it was meant to."""
        key = provider_id, link_name
        return self._forget(lambda duty: isinstance(duty, ProviderDuty) and (duty.provider_id, duty.link_name) == key)

    async def close(self) -> None:
        """Remember what runs at this moment, and nothing that comes after: the end of the host is no change."""
        self._actors.on_change = self._providers.on_change = lambda: None
        if self._restoring is not None:
            await _end(self._restoring)
        if self._writing is None or self._path is None:
            return
        await _end(self._writing)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WRITE):
                await self._write(self._path)
        self._writing = None

    def _forget(self, meant: Callable[[Duty], bool]) -> bool:
        gone = [duty for duty in self._pending if meant(duty)]
        if gone:
            self._forgotten += [duty for duty in gone if duty in self._active]
            self._pending = [duty for duty in self._pending if duty not in gone]
            log.info("duties.left_to_others", count=len(gone))
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
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if self.problem else None):
                    await self._dirty.wait()
            self._dirty.clear()
            await self._write(path)

    async def _write(self, path: Path) -> None:
        data = encode([*self._present(), *self._pending])
        if data == self._written:
            return
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
        await self._bring_back([duty for duty in self._pending if duty not in managed])
        if managed:
            await asyncio.sleep(patient_until - loop.time())
            await self._bring_back([duty for duty in self._pending if duty in managed])

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
            for _, sets in groupby(actors, key=_actor_id):
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
            what.warning("duties.not_restored", error=str(error), hint="it is tried again when this host starts again")
        except Exception:
            what.exception("duties.restore_broke")
        else:
            if duty in self._pending:
                self._pending.remove(duty)
            what.info("duties.restored")
        finally:
            self._active.remove(duty)
            if duty in self._forgotten:
                self._forgotten.remove(duty)
            self._dirty.set()

    async def _start_actor(self, duty: ActorDuty) -> None:
        await self._actors.scale(duty.reference, duty.actor_id, duty.count, duty.annotations, only_if_absent=True)
        if duty in self._forgotten:
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
            duty.reference, link_name=duty.link_name, configuration=configuration, annotations=duty.annotations
        )
        if duty in self._forgotten:
            await self._providers.stop(*started.key)


def _actor_id(duty: ActorDuty) -> str:
    return duty.actor_id


def _read(path: Path) -> list[Duty]:
    """The duties in the file; a file that cannot be used is set aside, or left where it is if that fails, too."""
    try:
        return decode(path.read_bytes())
    except FileNotFoundError:
        return []
    except OSError as error:
        log.warning("duties.not_read", path=str(path), reason=error.strerror)
        return []
    except MalformedMessage as error:
        aside = path.with_suffix(".json.damaged")
        with contextlib.suppress(OSError):
            path.replace(aside)
        log.warning("duties.set_aside", path=str(aside), reason=str(error), hint="nothing is brought back; start anew")
        return []


def _replace(path: Path, data: bytes) -> None:
    make_private_folder(path.parent)
    replace_file(path, data)


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task and see it end; a write at work in its thread goes on."""
    task.cancel()
    await asyncio.wait({task})
