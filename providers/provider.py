"""What the author of a provider sees: a class with one handler per operation, and hooks for its links."""

from __future__ import annotations

import inspect
import socket
import typing
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

from lattice.connection import Connection
from lattice.contracts.forms import Form
from lattice.errors import Code, LatticeError, Unreachable
from lattice.hostdata import HostData
from lattice.links import LinkDefinition
from providers.codecs import (
    Decoder,
    Encoder,
    FormDecoder,
    FormEncoder,
    decoder,
    encoder,
    form_decoder,
    form_encoder,
)
from providers.handover import Predecessor

_Function = TypeVar("_Function", bound=Callable[..., Awaitable[Any]])


class LinkFailed(LatticeError):
    """A link cannot be put into effect now. The message is the reason that operators read; it is tried again."""

    code = Code.PROVIDER_ERROR


@dataclass(slots=True)
class Call:
    """Who asked, and until when."""

    link: LinkDefinition
    """The link of the calling actor, with its values."""
    operation: str
    invocation: str
    """The id of the invocation."""
    deadline: float
    """``loop.time()`` at which the handler is cancelled: a little before the caller gives up, so that it is told."""
    seconds: float
    """How long that is from the arrival of the call."""
    form: Form = Form.MSGPACK
    """How to encode what goes back to this actor, also in calls to it; MSGPACK unless the contract is spoken in CBOR.

    A call without an argument does not tell: it is answered as the actor's last one that had one.
    """

    @property
    def actor(self) -> str:
        """Public key of the calling actor."""
        return self.link.actor_id


class ActorCalls(Protocol):
    """Calls from a provider to linked actors."""

    async def call(self, actor: str, operation: str, msg: bytes, timeout: float | None = None) -> bytes:
        """Call ``actor`` and return its answer. ``timeout`` in seconds; None takes the host's RPC timeout.

        Raises RemoteError, Unreachable, Overloaded, TooLarge or MalformedMessage, each with the id of the
        invocation in ``invocation_id``.
        """


def operation(name: str) -> Callable[[_Function], _Function]:
    """Mark a coroutine method as the handler of an operation, as in ``@operation("KeyValue.Get")``.

    Its signature is ``(self, call)`` or ``(self, call, argument)``; the annotations of argument and result choose how
    they travel (:mod:`providers.codecs`). A LatticeError becomes the error of the response, any other exception is
    logged and becomes "internal error".
    """

    def mark(function: _Function) -> _Function:
        function.__operation__ = name  # type: ignore[attr-defined]
        return function

    return mark


@dataclass(frozen=True, slots=True)
class Handler:
    """One operation of a provider, ready to be called."""

    name: str
    function: Callable[..., Awaitable[Any]]
    decode: Decoder | None
    """None when the operation has no argument."""
    encode: Encoder

    async def answer(self, call: Call, payload: bytes) -> bytes:
        if self.decode is None:
            return self.encode(await self.function(call))
        return self.encode(await self.function(call, self.decode(payload)))


@dataclass(frozen=True, slots=True)
class FormHandler:
    """The same for a contract that is spoken in CBOR, too."""

    name: str
    function: Callable[..., Awaitable[Any]]
    decode: FormDecoder | None
    encode: FormEncoder

    async def answer(self, call: Call, payload: bytes) -> bytes:
        if self.decode is None:
            return self.encode(await self.function(call), call.form)
        argument, came = self.decode(payload)
        call.form = came.of_answer
        return self.encode(await self.function(call, argument), call.form)


class Provider:
    """Base of all providers. ``run`` (:mod:`providers.runtime`) makes one instance per process."""

    contract_id: ClassVar[str]
    """The contract it offers, as in ``wasmcloud:keyvalue``."""
    spoken_in_cbor: ClassVar[bool] = False
    """True for the contracts that some generations of actors speak in CBOR: blobstore, mlinference, testing."""

    lattice: ActorCalls
    """Calls to linked actors. Set before ``started``."""
    connection: Connection
    """The provider's own connection to NATS, for those that keep data there. Set before ``started``."""
    host_data: HostData
    """What the host told this process. Set before ``started``."""
    predecessor: Predecessor | None = None
    """The process on this machine whose listening sockets this one takes over. Set before ``started``."""

    async def started(self) -> None:
        """Called once, connected, before the first link."""

    async def stopped(self) -> None:
        """Called once, after the last link was removed, still connected."""

    def leave(self) -> None:
        """Called first when the process is to stop: take nothing more from outside the lattice. Must not wait."""

    async def finish(self, timeout: float) -> None:
        """Let what came from outside end, within ``timeout`` seconds. Only called when the process is moved away."""

    def listening(self, name: str) -> socket.socket | None:
        """The listening socket of that name, for a successor on this machine that asks for it by ``predecessor.take``.

        Override it, and a process that follows this one continues with its sockets. Both have it for a while; the
        successor may accept once ``predecessor.gone`` is set, which is after ``leave``.
        """
        return None

    async def link_added(self, link: LinkDefinition) -> None:
        """Put a link into effect; the link is ready when this returns.

        Raise LinkFailed (or any LatticeError) with the reason when that is impossible now: the link is shown as
        failed and tried again after 0.5 to 30 s, or at once when it is put again with other values.
        """

    async def link_removed(self, link: LinkDefinition) -> None:
        """Undo ``link_added``. Never called for a link that failed."""

    async def link_changed(self, old: LinkDefinition, new: LinkDefinition) -> None:
        """The same actor's link has new values. Override it to switch without a gap.

        When it raises, ``old`` must still be in effect; it stays so, and the change is tried again.
        """
        raise NotImplementedError  # without an override: link_removed, then link_added

    def link_trouble(self, link: LinkDefinition) -> str:
        """Why calls through this link, which is in effect, fail at present; empty when they do not.

        Override it to show that what stands behind a link has gone away: the link is ``degraded`` then, with this
        reason. Called with every health check; must not wait.
        """
        return ""

    def late(self, call: Call) -> LatticeError:
        """What is told to a caller whose call was not done in time. Override it to name what did not answer."""
        return Unreachable(
            f"timeout: {self.contract_id}: {call.operation} was not done within {call.seconds:.1f} s",
            code=Code.TIMED_OUT,
        )

    @classmethod
    def changes_in_place(cls) -> bool:
        """True when ``link_changed`` is overridden."""
        return cls.link_changed is not Provider.link_changed

    @classmethod
    def hands_over(cls) -> bool:
        """True when ``listening`` is overridden."""
        return cls.listening is not Provider.listening

    def handlers(self) -> Mapping[str, Handler | FormHandler]:
        """Every operation by name. TypeError, naming the method, for a handler whose signature has no codec."""
        found: dict[str, Handler | FormHandler] = {}
        for attribute, function in inspect.getmembers(self, inspect.iscoroutinefunction):
            name = getattr(function, "__operation__", None)
            if name is None:
                continue
            if name in found:
                raise TypeError(f"{type(self).__name__} has two handlers for {name}")
            try:
                found[name] = _handler(name, function, self.spoken_in_cbor)
            except TypeError as error:
                raise TypeError(f"{type(self).__name__}.{attribute}: {error}") from error
        return found


def _handler(name: str, function: Callable[..., Awaitable[Any]], spoken_in_cbor: bool) -> Handler | FormHandler:
    hints = typing.get_type_hints(function, include_extras=True)
    parameters = list(inspect.signature(function).parameters)
    if len(parameters) not in (1, 2):
        raise TypeError("a handler takes (self, call) or (self, call, argument)")
    missing = [part for part in (*parameters[1:], "return") if part not in hints]
    if missing:
        raise TypeError(f"annotate {', '.join(missing)}: the annotations choose the encoding")
    argument, result = hints[parameters[1]] if len(parameters) == 2 else None, hints["return"]
    if spoken_in_cbor:
        decode_form = form_decoder(argument, name) if len(parameters) == 2 else None
        return FormHandler(name, function, decode_form, form_encoder(result))
    decode = decoder(argument, name) if len(parameters) == 2 else None
    return Handler(name, function, decode, encoder(result))
