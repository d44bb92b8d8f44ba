"""Answers the control subjects: queries about this host and the lattice, commands to this host, changes of links.

Requests are JSON or msgpack and are answered alike. Queue groups are those of the later classic Rust hosts, so that
mixed lattices answer a query once. Commands are acknowledged before the work is done; how the work went shows in
events and in the inventory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from lattice import subjects
from lattice.control import (
    Ack,
    Encoding,
    LaunchActor,
    ScaleActor,
    StartProvider,
    StopActor,
    StopHost,
    StopProvider,
    decode_body,
    encode_reply,
    encoding_of,
)
from lattice.errors import Code, LatticeError, MalformedMessage, Overloaded
from lattice.links import LinkDefinition
from lattice.transport import Headers, Subscription, Transport
from wasmhost.actors import ActorRegistry
from wasmhost.inventory import HostFacts
from wasmhost.linking import Linking
from wasmhost.metadata import Metadata
from wasmhost.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

UNSUPPORTED: Final = "unsupported subject"
WRONG_HOST: Final = "Command received by incorrect host and could not be processed"
_MOST_REQUESTS: Final = 256
"""Requests and commands at work at one time; more are refused at once."""

Answer = Mapping[str, Any] | None
"""A reply document; None for silence, which is how a host does not bid."""


class ControlServer:
    """Serves the control subjects of one host."""

    def __init__(
        self,
        transport: Transport,
        control: subjects.Control,
        *,
        facts: HostFacts,
        actors: ActorRegistry,
        providers: ProviderSupervisor,
        metadata: Metadata,
        linking: Linking,
        stop_host: Callable[[float | None], None],
    ) -> None:
        """``stop_host`` makes the host stop, its calls in flight having so many seconds (None: as configured)."""
        self._transport = transport
        self._control = control
        self._facts = facts
        self._actors = actors
        self._providers = providers
        self._metadata = metadata
        self._linking = linking
        self._stop_host = stop_host
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands: Mapping[str, Callable[[Any], Awaitable[None]]] = {
            "la": self._launch_actor,
            "sa": self._stop_actor,
            "scale": self._scale_actor,
            "lp": self._start_provider,
            "sp": self._stop_provider,
            "stop": self._stop,
        }

    async def start(self) -> None:
        """Subscribe to everything; requests may arrive from here on."""
        control, host = self._control, self._facts.host_id
        for subject, queue in (
            (control.get_inventory(host), ""),
            (control.get_pattern(), control.get_queue()),
            (control.linkdefs_pattern(), control.linkdefs_queue()),
            (control.command_pattern(host), ""),
            (control.auction_pattern(), ""),
            (control.registries_put(), ""),
            (control.ping_hosts(), ""),  # last: who answers a ping takes commands
        ):
            self._subscriptions.append(await self._transport.subscribe(subject, self._on_message, queue=queue))

    async def close(self) -> None:
        """Take no more requests, and give up the commands that are still at work."""
        for subscription in self._subscriptions:
            with contextlib.suppress(LatticeError):
                await subscription.unsubscribe()
        self._subscriptions.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=0.5)
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        if reply and not subjects.is_inbox(reply):
            log.warning("control.reply_refused", subject=subject, reply=reply[:200])
            return
        if len(self._tasks) >= _MOST_REQUESTS:
            refusal = Overloaded(f"this host has {_MOST_REQUESTS} control requests at work; retry later")
            self._reply(reply, _refuse(refusal), encoding_of(payload, headers))
            return
        self._spawn(self._serve(subject, reply, headers, payload))

    async def _serve(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        encoding = encoding_of(payload, headers)
        tokens = self._control.tokens(subject)
        try:
            body, _ = decode_body(payload, headers)
            answer = await self._answer(tokens, body)
        except LatticeError as error:
            log.warning("control.refused", subject=subject, reason=str(error), code=error.code.value)
            # Gathered replies must not be anything but bids and pings: silence, then.
            answer = None if tokens[0] in ("ping", "auction") else _refuse(error)
        except Exception:
            log.exception("control.failed", subject=subject)
            answer = Ack(accepted=False, error="internal error", code=Code.INTERNAL).to_dict()
        if answer is not None:
            self._reply(reply, answer, encoding)

    def _reply(self, reply: str, answer: Mapping[str, Any], encoding: Encoding) -> None:
        if not reply:
            return
        try:
            self._transport.publish(reply, encode_reply(answer, encoding))
        except LatticeError as error:
            log.warning("control.answer_lost", reply=reply, reason=str(error))

    async def _answer(self, tokens: tuple[str, ...], body: Any) -> Answer:
        match tokens:
            case ("ping", "hosts"):
                return self._facts.ping().to_dict()
            case ("get", "links"):
                return {"links": [link.to_json() for link in self._metadata.links]}
            case ("get", "claims"):
                return {"claims": [dict(claims) for claims in self._metadata.claims.values()]}
            case ("get", host, "inv") if host == self._facts.host_id:
                return self._facts.inventory().to_dict()
            case ("linkdefs", "put"):
                await self._linking.put(_link(body, "Invalid link definition put request"))
            case ("linkdefs", "del"):
                await self._linking.delete(_link(body, "Invalid link definition removal request").key)
            case ("auction", kind):
                return self._bid(kind, body)
            case ("registries", "put"):
                raise LatticeError("registry credentials are not supported yet", code=Code.UNSUPPORTED)
            case ("cmd", host, verb) if host == self._facts.host_id:
                await self._command(verb, body)
            case _:
                raise LatticeError(UNSUPPORTED, code=Code.UNSUPPORTED)
        return Ack(accepted=True).to_dict()

    async def _command(self, verb: str, body: Any) -> None:
        """Check a command and begin it; returning acknowledges it."""
        begin = self._commands.get(verb)
        if begin is None:
            raise LatticeError(f"{UNSUPPORTED}: {verb[:40]}", code=Code.UNSUPPORTED)
        named = body.get("host_id") if isinstance(body, Mapping) else None
        if named and named != self._facts.host_id:
            raise LatticeError(WRONG_HOST, code=Code.INVALID)
        log.info("control.command", verb=verb)
        await begin(body)

    async def _launch_actor(self, body: Any) -> None:
        command = LaunchActor.from_dict(body)
        self._work(self._actors.launch(command.actor_ref, command.count, command.annotations))

    async def _scale_actor(self, body: Any) -> None:
        command = ScaleActor.from_dict(body)
        self._work(self._actors.scale(command.actor_ref, command.actor_id or None, command.count, command.annotations))

    async def _stop_actor(self, body: Any) -> None:
        command = StopActor.from_dict(body)
        if self._actors.get(command.actor_ref) is None:
            raise LatticeError("actor is not running on this host", code=Code.NOT_RUNNING)
        self._work(self._actors.stop(command.actor_ref, command.count, command.annotations))

    async def _start_provider(self, body: Any) -> None:
        command = StartProvider.from_dict(body)
        self._providers.start(
            command.provider_ref,
            link_name=command.link_name,
            configuration=command.configuration or "",
            annotations=command.annotations,
        )

    async def _stop_provider(self, body: Any) -> None:
        command = StopProvider.from_dict(body)
        self._providers.check_stop(command.provider_ref, command.link_name)
        self._work(self._providers.stop(command.provider_ref, command.link_name))

    async def _stop(self, body: Any) -> None:
        command = StopHost.from_dict(body)
        self._stop_host(command.timeout)

    def _bid(self, kind: str, body: Any) -> Answer:
        """The answer to an auction: what was asked and this host's key, or silence."""
        if kind not in ("actor", "provider") or not isinstance(body, Mapping):
            raise MalformedMessage(f"auction of {kind[:40]!r} is not one for an actor or a provider")
        constraints = body.get("constraints") or {}
        if not isinstance(constraints, Mapping):
            raise MalformedMessage("auction: constraints is not an object")
        labels = self._facts.labels
        if any(labels.get(name) != value for name, value in constraints.items()):
            return None
        asked = {name: body.get(name) for name in (f"{kind}_ref", "link_name") if name in body}
        if kind == "provider":
            link_name = body.get("link_name") or subjects.DEFAULT_LINK_NAME
            for provider in self._providers:
                if (provider.image.reference, provider.link_name) == (body.get("provider_ref"), link_name):
                    return None
        return {**asked, "constraints": dict(constraints), "host_id": self._facts.host_id}

    def _work(self, work: Coroutine[Any, Any, object]) -> None:
        """Carry out an acknowledged command; its failure was published by whoever did it."""

        async def carry_out() -> None:
            try:
                await work
            except LatticeError as error:
                log.warning("control.command_failed", reason=str(error))
            except Exception:
                log.exception("control.command_broke")

        self._spawn(carry_out())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _refuse(error: LatticeError) -> dict[str, Any]:
    return Ack(accepted=False, error=str(error), code=error.code).to_dict()


def _link(body: Any, refusal: str) -> LinkDefinition:
    try:
        return LinkDefinition.from_json(body)
    except MalformedMessage as error:
        raise MalformedMessage(f"{refusal}: {error}") from error
