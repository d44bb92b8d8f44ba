"""Hop 5 of a call: what a guest asks of the host becomes a built-in answer, a local call or a request on the lattice.

Resolution order (classic hosts): built-in contract, link, actor key, call alias. Texts that reach guests keep the
classic phrase first, since actors and tools match on it, then say the reason and the next step.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from lattice.chunks import LARGEST
from lattice.errors import Code, LatticeError, NotAuthorized, Unreachable
from lattice.invocation import Entity
from lattice.keys import Role, is_key
from lattice.links import LinkDefinition, LinkTable
from lattice.rpc import RpcClient
from lattice.verify import authorise_capability, not_linked
from wasmhost.calls import builtin, call_log
from wasmhost.calls.admission import Admission
from wasmhost.calls.builtin import Builtin
from wasmhost.calls.call_events import CallEvents
from wasmhost.calls.directory import ActorDirectory, RunningActor
from wasmhost.calls.linked_calls import LinkedCalls
from wasmhost.calls.spies import Spies
from wasmhost.guest.calls import CallContext, HostCall, HostCallHandler
from wasmhost.policy.calls import CallPolicy

DEEPEST_LOCAL_CALL: Final = 64
"""Local calls of actors to actors that may stand on top of each other; each takes stack of this process."""
_MOST_ENTITIES: Final = 4096
_UNTOLD: Final = nullcontext()


class LatticeView(Protocol):
    """What the lattice knows of links and aliases right now; a call reads it once and never waits for it."""

    @property
    def links(self) -> LinkTable:
        """The current snapshot; a change replaces the object."""

    def alias(self, name: str) -> str | None:
        """The public key of the actor that registered this call alias anywhere in the lattice."""


def budget(context: CallContext, now: float) -> float:
    """Seconds that a host call may take: what its caller has left minus a margin.

    The margin lets the failure of the inner call be told before the outer one runs out. Raises Unreachable when
    nothing is left.
    """
    left = context.deadline - now
    allowed = left - min(0.25, max(0.01, left * 0.05))
    if allowed <= 0:
        raise Unreachable(
            "Failed to perform RPC call: request timeout: the caller's deadline has passed", code=Code.TIMED_OUT
        )
    return allowed


class Outbound:
    """Answers the host calls of all actors of this host."""

    def __init__(
        self,
        *,
        lattice: str,
        rpc: RpcClient,
        view: LatticeView,
        directory: ActorDirectory,
        admission: Admission,
        local: bool = True,
        linked: LinkedCalls | None = None,
        provider_status: Callable[[str, str], str] = lambda provider, link_name: "",
        provider_stalled: Callable[[str, str], str] = lambda provider, link_name: "",
        halted: Callable[[str], str] = lambda actor: "",
        policy: CallPolicy | None = None,
        spies: Spies | None = None,
        call_events: CallEvents | None = None,
        trace: bool = False,
    ) -> None:
        """``local``: calls to an actor in ``directory`` skip the lattice.

        ``linked`` sends calls to providers. ``provider_status(provider key, link name)`` says what is wrong with a
        provider of this host, or ""; ``provider_stalled`` why a call to one need not even be tried;
        ``halted(actor key)`` why this host has stopped that actor, or "". ``policy`` is asked about calls between
        actors of this host, ``call_events`` are told of every call, if given; ``trace``: log every call at debug level.
        """
        self._lattice = lattice
        self._rpc = rpc
        self._view = view
        self._directory = directory
        self._admission = admission
        self._local = local
        self._linked = linked or LinkedCalls(view)
        self._provider_status = provider_status
        self._provider_stalled = provider_stalled
        self._halted = halted
        self._policy = policy
        self._spies = spies or Spies()
        self._call_events = call_events
        self._trace = trace
        self._loop = asyncio.get_running_loop()
        self._entities: dict[tuple[str, str, str], Entity] = {}

    def host_call(self, actor_key: str, capabilities: frozenset[str], *, max_reply: int = LARGEST) -> HostCallHandler:
        """What answers the host calls of one actor. Its identity is fixed here, never taken from the guest.

        ``max_reply``: bytes that the actor takes as an answer; a larger one is not even fetched.
        """
        origin = Entity.actor(actor_key)
        builtins = Builtin(actor_key)
        spies = self._spies

        async def handle(call: HostCall, context: CallContext, mirror: bool = True) -> bytes:
            if mirror and spies.active and spies.watchers(actor_key):
                route, target = self._destination(actor_key, call)
                return await spies.mirrored(
                    actor_key,
                    handle(call, context, mirror=False),
                    invocation_id=context.invocation_id,
                    route=route,
                    origin=origin,
                    target=target,
                    operation=call.operation,
                    msg=call.payload,
                )
            contract = call.namespace
            if contract in builtin.CONTRACTS:
                authorise_capability(actor=actor_key, capabilities=capabilities, contract=contract)
                return builtins.answer(call)
            link = self._view.links.resolve(actor_key, contract, call.binding)
            if link is not None:
                authorise_capability(actor=actor_key, capabilities=capabilities, contract=contract)
                return await self._call_provider(link, origin, call, context, max_reply)
            return await self._call_actor(origin, self._find_actor(origin, call), call, context, max_reply)

        async def handle_and_log(call: HostCall, context: CallContext) -> bytes:
            route, target = self._destination(actor_key, call)
            reply, error, begun = None, None, self._loop.time()
            try:
                reply = await handle(call, context)
            except Exception as exc:
                error = exc
                raise
            finally:
                if route != "local":  # else it has its line as a call of that actor
                    call_log.asked(
                        route=route,
                        actor=actor_key,
                        target=target,
                        operation=call.operation,
                        invocation=context.invocation_id,
                        seconds=self._loop.time() - begun,
                        request=len(call.payload),
                        reply=None if reply is None else len(reply),
                        error=error,
                    )
            return reply

        return handle_and_log if self._trace else handle

    def _destination(self, actor_key: str, call: HostCall) -> tuple[str, Entity]:
        """Route and target that a call is going to take; the target as the guest wrote it where there is none."""
        contract = call.namespace
        if contract in builtin.CONTRACTS:
            return "builtin", Entity("", call.binding, contract)
        link = self._view.links.resolve(actor_key, contract, call.binding)
        if link is not None:
            return "nats", Entity(link.provider_id, call.binding, contract)
        found = self._directory.resolve_alias(contract)
        key = contract if is_key(contract, Role.MODULE) else found.key if found else self._view.alias(contract)
        if key is None:
            return "", Entity("", call.binding, contract)
        return "local" if self._local and self._directory.get(key) else "nats", Entity.actor(key)

    def _find_actor(self, origin: Entity, call: HostCall) -> str:
        name = call.namespace
        if is_key(name, Role.MODULE):
            return name
        found = self._directory.resolve_alias(name)
        key = found.key if found is not None else self._view.alias(name)
        if key is not None:
            return key
        raise not_linked(
            actor=origin.public_key, contract=name[:200], link_name=call.binding[:80], lattice=self._lattice
        )

    async def _call_provider(
        self, link: LinkDefinition, origin: Entity, call: HostCall, context: CallContext, max_reply: int
    ) -> bytes:
        target = self._entity(link.provider_id, link.link_name, link.contract_id)
        allowed = budget(context, self._loop.time())
        try:
            with self._told(origin, target, call):
                if stalled := self._provider_stalled(target.public_key, target.link_name):
                    raise Unreachable(stalled, code=Code.TIMED_OUT)
                return await self._linked.call(
                    link, allowed, lambda left: self._call_remote(origin, target, call, left, max_reply)
                )
        except Unreachable as exc:
            status = self._provider_status(target.public_key, target.link_name)
            reason = f"{status} ({exc})" if status else str(exc)
            raise Unreachable(
                f"Failed to perform RPC call: request timeout: {target.contract_id} on link "
                f"'{target.link_name}' (provider {target.public_key}): {reason}; see: wasmhost get providers",
                code=exc.code,
            ) from exc

    async def _call_actor(
        self, origin: Entity, key: str, call: HostCall, context: CallContext, max_reply: int
    ) -> bytes:
        allowed = budget(context, self._loop.time())
        running = self._directory.get(key) if self._local else None
        target = running.entity if running is not None else self._entity(key, "", "")
        if running is not None:
            with self._told(origin, target, call, local=True):
                if self._spies.active and self._spies.watchers(key):
                    return await self._spies.mirrored(
                        key,
                        self._call_locally(running, origin, call, context, allowed),
                        invocation_id=context.invocation_id,
                        route="local",
                        origin=origin,
                        target=target,
                        operation=call.operation,
                        msg=call.payload,
                    )
                return await self._call_locally(running, origin, call, context, allowed)
        try:  # its host tells of this call
            return await self._call_remote(origin, target, call, allowed, max_reply)
        except Unreachable as exc:
            if exc.code is Code.NO_RESPONDERS and (reason := self._halted(key)):
                raise NotAuthorized(f"Failed to perform RPC call: {reason}") from exc
            raise Unreachable(
                f"Failed to perform RPC call: request timeout: actor {key}: {exc}; see: wasmhost get actors",
                code=exc.code,
            ) from exc

    def _call_remote(
        self, origin: Entity, target: Entity, call: HostCall, allowed: float, max_reply: int
    ) -> Awaitable[bytes]:
        return self._rpc.call(
            origin=origin,
            target=target,
            operation=call.operation,
            msg=call.payload,
            timeout=allowed,
            strict=True,  # more time would only outlast whoever waits for the guest
            max_reply=max_reply,
        )

    async def _call_locally(
        self, target: RunningActor, origin: Entity, call: HostCall, context: CallContext, allowed: float
    ) -> bytes:
        guest, reply, error, deadline = None, None, None, self._loop.time() + allowed
        try:
            if context.depth >= DEEPEST_LOCAL_CALL:
                raise LatticeError(
                    f"calls between actors are nested {context.depth} deep; do they call each other in a ring?",
                    code=Code.OVERLOADED,
                )
            self._admission.require_current(target)
            if self._policy is not None and not self._policy.decided(origin, target):
                async with asyncio.timeout_at(deadline):
                    await self._policy.permit(origin, target)
                target = self._directory.get(target.key) or target  # maybe an update of it meanwhile
                self._admission.require_current(target)
            inner = CallContext(deadline=deadline, invocation_id=context.invocation_id, depth=context.depth + 1)
            guest = target.pool.begin(call.operation, call.payload, inner)
            reply = guest.result() if guest.done else await guest.wait()
        except Exception as exc:
            error = exc
            if isinstance(exc, TimeoutError | Unreachable):
                raise Unreachable(
                    f"Failed to perform RPC call: request timeout: actor {target.key} on this host: "
                    f"{exc or 'no answer of the policy service'}",
                    code=exc.code if isinstance(exc, Unreachable) else Code.TIMED_OUT,
                ) from exc
            raise
        finally:
            if self._trace:
                call_log.served(
                    route="local",
                    actor=target.key,
                    origin=origin.public_key,
                    operation=call.operation,
                    invocation=context.invocation_id,
                    call=guest,
                    request=len(call.payload),
                    reply=None if reply is None else len(reply),
                    error=error,
                )
        return reply

    def _entity(self, key: str, link_name: str, contract: str) -> Entity:
        """The entity from a cache that a guest's made-up names cannot grow without bound."""
        wanted = (key, link_name, contract)
        found = self._entities.get(wanted)
        if found is None:
            if len(self._entities) >= _MOST_ENTITIES:
                self._entities.clear()
            found = self._entities[wanted] = Entity(key, link_name, contract)
        return found

    def _told(
        self, origin: Entity, target: Entity, call: HostCall, *, local: bool = False
    ) -> AbstractContextManager[None]:
        """Publishes an event about the call inside, if those are wanted."""
        if self._call_events is None:
            return _UNTOLD
        return self._call_events.around(origin, target, call.operation, len(call.payload), local=local)
