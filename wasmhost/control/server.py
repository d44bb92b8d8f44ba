"""Serves the control subjects: queries about this host and the lattice, commands to this host, changes of links.

Requests are JSON or msgpack and are answered alike. Queue groups are those of the later classic Rust hosts, so that
mixed lattices answer a query once. Commands are acknowledged before the work is done; how the work went shows in
events and in the inventory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import structlog

from lattice import subjects
from lattice.background import Background
from lattice.control import Ack, Encoding, decode_body, encode_reply, encoding_of
from lattice.errors import Code, LatticeError, Overloaded, TooLarge
from lattice.subscribing import subscribe_all, unsubscribe_all
from lattice.transport import Headers, Subscription, Transport
from wasmhost.actors.registry import ActorRegistry
from wasmhost.control import audit
from wasmhost.control.answers import Answer, Answers, has_raw_body, ignores_body, is_gathered, waits_for_nothing
from wasmhost.control.commands import Commands
from wasmhost.control.config_store import ConfigStore
from wasmhost.control.events import EventPublisher
from wasmhost.control.inventory import HostFacts
from wasmhost.control.registries import Registries
from wasmhost.keys.cluster import Cluster
from wasmhost.keys.security import HostSecurity
from wasmhost.knowledge.metadata import Metadata
from wasmhost.policy.revocations import Revocations
from wasmhost.restore.duties import Duties
from wasmhost.supervision.linking import Linking
from wasmhost.supervision.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

MOST_BYTES: Final = 1024 * 1024
"""Of one request; a server may let more through."""
_MOST_REQUESTS: Final = 256
"""Requests and commands at work at one time; more are refused at once, but for questions that cost next to nothing:
a host that has much to do is there and says what it does."""

_ANSWER_PATIENCE: Final = 2.0
"""Seconds for requests that were taken when the host stops: as long as their clients wait."""
_WORK_PATIENCE: Final = 0.5
"""Seconds for commands that were acknowledged."""
_STOPPING: Final = LatticeError("this host is stopping and cannot finish the request; send it again")


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
        cluster: Cluster,
        configuration: ConfigStore,
        registries: Registries,
        revocations: Revocations,
        security: HostSecurity,
        publisher: EventPublisher,
        duties: Duties,
        stop_host: Callable[[float | None], None],
    ) -> None:
        """``stop_host`` makes the host stop, its calls in flight having so many seconds (None: as configured)."""
        self._transport = transport
        self._control = control
        self._host_id = facts.host_id
        self._facts = facts
        self._publisher = publisher
        self._subscriptions: list[Subscription] = []
        self._answering = Background()
        self._work = Background()
        """Commands that were acknowledged."""
        self._answers = Answers(
            facts=facts,
            providers=providers,
            metadata=metadata,
            linking=linking,
            configuration=configuration,
            registries=registries,
            revocations=revocations,
            security=security,
            publisher=publisher,
            commands=Commands(
                facts.host_id,
                actors=actors,
                providers=providers,
                duties=duties,
                cordon=self._cordon,
                revocations=revocations,
                cluster=cluster,
                stop_host=stop_host,
                work=self._work,
            ),
        )

    async def start(self) -> None:
        """Subscribe to everything; requests may arrive from here on."""
        control, host = self._control, self._host_id
        wanted = (
            (control.get_host_pattern(host), ""),
            (control.get_pattern(), control.get_queue()),
            (control.get_config_pattern(), control.get_config_queue()),
            (control.linkdefs_pattern(), control.linkdefs_queue()),
            (control.config_pattern(), control.config_queue()),
            (control.command_pattern(host), ""),
            (control.labels_pattern(host), ""),
            (control.auction_pattern(), ""),
            (control.registries_put(), ""),
        )
        self._subscriptions += await subscribe_all(self._transport, wanted, self._on_message)
        # last: who answers a ping takes commands
        self._subscriptions.append(await self._transport.subscribe(control.ping_hosts(), self._on_message))

    async def close(self) -> None:
        """Take no more requests, answer those that were taken, and give up the commands that are still at work."""
        await unsubscribe_all(self._subscriptions)
        self._subscriptions.clear()
        await self._answering.end(patience=_ANSWER_PATIENCE)
        await self._work.end(patience=_WORK_PATIENCE)

    def _on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        if reply and not subjects.is_inbox(reply):
            log.warning("control.reply_refused", subject=subject[:200], reply=reply[:200])
            return
        tokens = self._control.tokens(subject)
        encoding = encoding_of(b"" if has_raw_body(tokens) else payload, headers)
        if len(self._answering) + len(self._work) >= _MOST_REQUESTS and not waits_for_nothing(tokens):
            refusal = Overloaded(f"this host has {_MOST_REQUESTS} control requests at work; retry later")
            if not is_gathered(tokens):
                self._reply(reply, tokens, _refuse(refusal), encoding)
            return
        self._answering.begin(self._serve(tokens, reply, headers, payload, encoding), f"control {_shown(tokens)}")

    async def _serve(
        self, tokens: tuple[str, ...], reply: str, headers: Headers, payload: bytes, encoding: Encoding
    ) -> None:
        answer: Answer
        body: Any = None
        refusal: LatticeError | None = None
        try:
            if len(payload) > MOST_BYTES:
                raise TooLarge(f"{self._answers.name_of(tokens)}: {len(payload)} bytes, at most {MOST_BYTES} are read")
            body = self._body(tokens, payload, headers)
            answer = await self._answers.answer(tokens, body)
        except asyncio.CancelledError:
            self._reply(reply, tokens, _refuse(_STOPPING), encoding)
            raise
        except Exception as caught:
            error = caught
            if isinstance(error, LatticeError):
                log.warning("control.refused", subject=_shown(tokens), reason=str(error), code=error.code.value)
            else:
                log.exception("control.failed", subject=_shown(tokens))
                error = LatticeError("internal error in the host; its log says more")
            refusal = error
            answer = None if is_gathered(tokens) else _refuse(error)
        if audit.changes(tokens):
            audit.record(tokens, body, reply=reply, headers=headers, refusal=refusal)
        if answer is not None:
            self._reply(reply, tokens, answer, encoding)

    def _cordon(self, closed: bool) -> None:
        if self._facts.cordon.set(closed):
            log.info("host.cordoned" if closed else "host.uncordoned")
            self._publisher.beat_soon()

    def _body(self, tokens: tuple[str, ...], payload: bytes, headers: Headers) -> Any:
        if has_raw_body(tokens):
            return payload
        if ignores_body(tokens):
            return None
        return decode_body(payload, headers, self._answers.name_of(tokens))[0]

    def _reply(self, reply: str, tokens: tuple[str, ...], answer: Answer, encoding: Encoding) -> None:
        if not reply:
            return
        try:
            try:
                self._publish(reply, answer, encoding)
            except TooLarge as error:
                if is_gathered(tokens):
                    raise
                text = f"the answer does not fit into one message ({error}); raise max_payload of the NATS server"
                refusal = _refuse(LatticeError(text, code=Code.REPLY_TOO_LARGE))
                self._publish(reply, self._answers.shorter(tokens) or refusal, encoding)
        except LatticeError as error:
            log.warning("control.answer_lost", subject=_shown(tokens), reply=reply[:200], reason=str(error))

    def _publish(self, reply: str, answer: Answer, encoding: Encoding) -> None:
        self._transport.publish(reply, answer if isinstance(answer, bytes) else encode_reply(answer, encoding))


def _shown(tokens: tuple[str, ...]) -> str:
    return ".".join(tokens)[:200]


def _refuse(error: LatticeError) -> dict[str, Any]:
    return Ack(accepted=False, error=str(error), code=error.code).to_dict()
