"""The commands to one host: each is checked, begun, and acknowledged by returning.

The work goes on after the acknowledgement; how it went shows in events and in the inventory. An update is the
exception of the protocol: it is acknowledged once claims and revision were checked. Changes of keys are done when they
are acknowledged.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, Final

import structlog

from lattice.background import Background
from lattice.clustercontrol import ChangeClusterKeys, RevokeProviderKey
from lattice.control import LaunchActor, ScaleActor, StartProvider, StopActor, StopHost, StopProvider, UpdateActor
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.keys import Role, is_key
from lattice.revocation import Revocation
from wasmhost.actors.registry import ActorRegistry
from wasmhost.actors.rules import ActorError
from wasmhost.keys.cluster import Cluster
from wasmhost.policy.revocations import Revocations
from wasmhost.restore.duties import Duties
from wasmhost.supervision.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

UNSUPPORTED: Final = "unsupported subject"
WRONG_HOST: Final = "Command received by incorrect host and could not be processed"
NOT_UPDATED: Final = "Unable to perform live update"

Begin = Callable[[Any], Coroutine[Any, Any, None]]


@dataclass(frozen=True, slots=True)
class Verb:
    """One kind of command."""

    begin: Begin
    refusal: str
    """Classic words in front of what is wrong with a body."""
    wrong_host: str = WRONG_HOST


class Commands:
    """Carries out the commands to one host."""

    def __init__(
        self,
        host_id: str,
        *,
        actors: ActorRegistry,
        providers: ProviderSupervisor,
        duties: Duties,
        cordon: Callable[[bool], None],
        revocations: Revocations,
        cluster: Cluster,
        stop_host: Callable[[float | None], None],
        work: Background,
    ) -> None:
        """``cordon`` closes the host for what is new, or opens it. ``stop_host`` makes the host stop, its calls in
        flight having so many seconds (None: as configured). ``work`` keeps what goes on behind an acknowledgement.
        """
        self._host_id = host_id
        self._actors = actors
        self._providers = providers
        self._duties = duties
        self._cordon = cordon
        self._revocations = revocations
        self._cluster = cluster
        self._stop_host = stop_host
        self._behind = work
        self._verbs: Mapping[str, Verb] = {
            "la": Verb(self._launch_actor, LaunchActor.REFUSAL),
            "sa": Verb(self._stop_actor, StopActor.REFUSAL),
            "scale": Verb(self._scale_actor, ScaleActor.REFUSAL),
            "upd": Verb(self._update_actor, UpdateActor.REFUSAL),
            "lp": Verb(self._start_provider, StartProvider.REFUSAL),
            "sp": Verb(self._stop_provider, StopProvider.REFUSAL),
            "cordon": Verb(self._close, "Invalid cordon request"),
            "uncordon": Verb(self._open, "Invalid uncordon request"),
            "revoke": Verb(self._revoke, "Invalid revocation"),
            "cluster_keys": Verb(self._change_cluster_keys, ChangeClusterKeys.REFUSAL),
            "revoke_key": Verb(self._revoke_provider_key, RevokeProviderKey.REFUSAL),
            "stop": Verb(self._stop, StopHost.REFUSAL, "Target host {} is not active, stop request ignored."),
        }

    def refusal(self, verb: str) -> str:
        """What stands in front of the reason why a body of this verb cannot be read."""
        known = self._verbs.get(verb)
        return known.refusal if known is not None else UNSUPPORTED

    async def begin(self, verb: str, body: Any) -> None:
        """Check a command and begin it; returning acknowledges it. Raises LatticeError to refuse it."""
        known = self._verbs.get(verb)
        if known is None:
            raise LatticeError(f"{UNSUPPORTED}: {verb[:40]}", code=Code.UNSUPPORTED)
        named = body.get("host_id") if isinstance(body, Mapping) else None
        if isinstance(named, str) and named and named != self._host_id:
            raise LatticeError(known.wrong_host.format(named[:60]), code=Code.INVALID)
        await known.begin(body)

    async def _launch_actor(self, body: Any) -> None:
        command = LaunchActor.from_dict(body)
        self._duties.commanded(command.annotations)
        self._carry_out(self._actors.launch(command.actor_ref, command.count, command.annotations))

    async def _scale_actor(self, body: Any) -> None:
        command = ScaleActor.from_dict(body)
        self._duties.commanded(command.annotations)
        self._duties.scaled(command.actor_id or command.actor_ref, command.annotations, command.count)
        self._carry_out(
            self._actors.scale(
                command.actor_ref,
                command.actor_id or None,
                command.count,
                command.annotations,
                digest=command.image_digest,
            )
        )

    async def _update_actor(self, body: Any) -> None:
        command = UpdateActor.from_dict(body)
        verdict: asyncio.Future[LatticeError | None] = asyncio.get_running_loop().create_future()

        async def update() -> None:
            try:
                await self._actors.update(
                    command.new_actor_ref,
                    actor_id=command.actor_id,
                    annotations=command.annotations,
                    accepted=lambda: verdict.set_result(None),
                )
            except Exception as error:
                if verdict.done():
                    raise
                if not isinstance(error, LatticeError):
                    verdict.set_result(LatticeError("internal error in the host; its log says more"))
                    raise
                verdict.set_result(error)

        self._carry_out(update())
        refusal = await verdict
        if refusal is not None:
            raise LatticeError(f"{NOT_UPDATED}: {refusal}", code=refusal.code) from refusal

    async def _stop_actor(self, body: Any) -> None:
        command = StopActor.from_dict(body)
        try:
            await self._actors.check_stop(command.actor_ref, command.annotations)
        except ActorError:
            if self._duties.stopped_actor(command.actor_ref, command.annotations):
                return  # it was still to be brought back
            raise
        if not command.count:
            self._duties.stopped_actor(command.actor_ref, command.annotations)
        self._carry_out(self._actors.stop(command.actor_ref, command.count, command.annotations))

    async def _start_provider(self, body: Any) -> None:
        command = StartProvider.from_dict(body)
        self._duties.commanded(command.annotations)
        self._providers.check_start(command.provider_ref, command.link_name)
        configuration = command.configuration or ""
        if command.sealed_configuration is not None:
            sealed = command.sealed_configuration
            configuration = self._providers.unsealed(sealed, command.provider_id, command.link_name)
        self._carry_out(
            self._providers.start(
                command.provider_ref,
                link_name=command.link_name,
                configuration=configuration,
                annotations=command.annotations,
                predecessor=command.predecessor,
                provider_id=command.provider_id,
            )
        )

    async def _stop_provider(self, body: Any) -> None:
        command = StopProvider.from_dict(body)
        key = command.provider_ref
        if not is_key(key, Role.SERVICE):
            raise MalformedMessage(f"{StopProvider.REFUSAL}: provider_ref {key[:60]!r} is no provider's public key")
        await self._providers.wait_started(key, command.link_name)
        self._duties.stopped_provider(command.provider_ref, command.link_name)
        self._providers.check_stop(command.provider_ref, command.link_name)
        self._carry_out(self._providers.stop(command.provider_ref, command.link_name, drain=command.drain))

    async def _close(self, body: Any) -> None:
        self._cordon(True)

    async def _open(self, body: Any) -> None:
        self._cordon(False)

    async def _revoke(self, body: Any) -> None:
        """Ours. Acknowledged once it is stored, or known to this host where nothing can be."""
        entry = Revocation.from_dict(body)
        if entry.lifted and self._revocations.is_fixed(entry.key):
            raise LatticeError(
                f"{entry.id} is revoked by the settings of this host; remove it there (setting revoked)",
                code=Code.CONFLICT,
            )
        await self._revocations.put(entry)

    async def _change_cluster_keys(self, body: Any) -> None:
        """Acknowledged when it is done."""
        command = ChangeClusterKeys.from_dict(body)
        await self._cluster.change(command.action, command.key)

    async def _revoke_provider_key(self, body: Any) -> None:
        """Acknowledged when this host has done it; the others do it when they hear of it."""
        command = RevokeProviderKey.from_dict(body)
        await self._cluster.revoke(command.provider_id, command.link_name)

    async def _stop(self, body: Any) -> None:
        command = StopHost.from_dict(body)
        self._stop_host(command.timeout)

    def _carry_out(self, work: Coroutine[Any, Any, object]) -> None:
        """Carry out an acknowledged command; its failure was published by whoever did it."""

        async def carry_out() -> None:
            try:
                await work
            except LatticeError as error:
                log.warning("control.command_failed", reason=str(error))

        self._behind.begin(carry_out(), "control command")
