"""Answers the control subjects: queries about this host and the lattice, commands to this host, changes of links.

Requests are JSON or msgpack and are answered alike. Queue groups are those of the later classic Rust hosts, so that
mixed lattices answer a query once. Commands are acknowledged before the work is done; how the work went shows in
events and in the inventory.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, Final

import structlog

from lattice import subjects
from lattice.control import (
    Ack,
    Encoding,
    decode_body,
    encode_reply,
    encoding_of,
)
from lattice.errors import Code, LatticeError, MalformedMessage, Overloaded
from lattice.links import LinkDefinition
from lattice.transport import Headers, Subscription, Transport
from wasmhost.actors import ActorRegistry
from wasmhost.commands import UNSUPPORTED, Commands
from wasmhost.inventory import HostFacts
from wasmhost.linking import Linking
from wasmhost.metadata import Metadata
from wasmhost.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

BAD_LINK: Final = "Invalid link definition put request"
BAD_REMOVAL: Final = "Invalid link definition removal request"
BAD_REGISTRIES: Final = "Failed to update registry credential map"
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
        self._providers = providers
        self._metadata = metadata
        self._linking = linking
        self._subscriptions: list[Subscription] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._commands = Commands(
            facts.host_id, actors=actors, providers=providers, stop_host=stop_host, spawn=self._spawn
        )

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
            body, _ = decode_body(payload, headers, self._what(tokens))
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

    def _what(self, tokens: tuple[str, ...]) -> str:
        """What a body that cannot be read at all is called: the words that classic hosts refuse it with."""
        match tokens:
            case ("cmd", _, verb):
                return self._commands.refusal(verb)
            case ("linkdefs", "put"):
                return BAD_LINK
            case ("linkdefs", "del"):
                return BAD_REMOVAL
            case ("registries", "put"):
                return BAD_REGISTRIES
        return "control request"

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
                await self._linking.put(_link(body, BAD_LINK))
            case ("linkdefs", "del"):
                await self._linking.delete(_link(body, BAD_REMOVAL).key)
            case ("auction", kind):
                return self._bid(kind, body)
            case ("registries", "put"):
                raise LatticeError("registry credentials are not supported yet", code=Code.UNSUPPORTED)
            case ("cmd", host, verb) if host == self._facts.host_id:
                await self._commands.begin(verb, body)
            case _:
                raise LatticeError(UNSUPPORTED, code=Code.UNSUPPORTED)
        return Ack(accepted=True).to_dict()

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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _refuse(error: LatticeError) -> dict[str, Any]:
    return Ack(accepted=False, error=str(error), code=error.code).to_dict()


def _link(body: Any, refusal: str) -> LinkDefinition:
    try:
        return LinkDefinition.from_json(body)
    except MalformedMessage as error:
        raise MalformedMessage(f"{refusal}: {error}") from error
