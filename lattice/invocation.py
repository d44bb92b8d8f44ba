"""The two messages of a call: the invocation and its response, msgpack maps keyed by field name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from lattice import wire
from lattice.errors import MalformedMessage

_EMPTY: Final[Mapping[str, str]] = {}
_CACHED_ENTITY_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Entity:
    """One end of a call: an actor, a provider reached through a link, or a client."""

    public_key: str
    link_name: str = ""
    contract_id: str = ""
    url: str = field(init=False, compare=False, repr=False)
    """The URL that the signature covers. Sources: wascap and weld; ``lattice`` protocol §1.6 in docs/protocol.md."""
    packed: bytes = field(init=False, compare=False, repr=False)
    """The msgpack form, in the member order of the Rust libraries."""

    def __post_init__(self) -> None:
        if self.is_actor:
            url = f"wasmbus://{self.public_key}"
        else:
            contract = self.contract_id.replace(":", "/").replace(" ", "_").lower()
            link = self.link_name.replace(" ", "_").lower()
            url = f"wasmbus://{contract}/{link}/{self.public_key}"
        packed = b"".join(
            (
                b"\x83\xaapublic_key",
                wire.packed_text(self.public_key),
                b"\xa9link_name",
                wire.packed_text(self.link_name),
                b"\xabcontract_id",
                wire.packed_text(self.contract_id),
            )
        )
        object.__setattr__(self, "url", url)
        object.__setattr__(self, "packed", packed)

    @classmethod
    def actor(cls, public_key: str) -> Entity:
        return cls(public_key)

    @classmethod
    def provider(cls, public_key: str, contract_id: str, link_name: str) -> Entity:
        return cls(public_key, link_name=link_name, contract_id=contract_id)

    @property
    def is_actor(self) -> bool:
        """Decided by the first letter of the key alone, as every peer does when it builds the URL."""
        return self.public_key[:1].upper() == "M"

    @property
    def is_provider(self) -> bool:
        return self.public_key[:1].upper() == "V"


@lru_cache(maxsize=4096)
def _entity(public_key: bytes, link_name: bytes, contract_id: bytes) -> Entity:
    """TypeError for what is not bytes, UnicodeDecodeError for what is not text."""
    if not type(public_key) is type(link_name) is type(contract_id) is bytes:
        raise TypeError
    return Entity(public_key.decode(), link_name.decode(), contract_id.decode())


def _read_entity(value: Any, name: str) -> Entity:
    try:
        key, link, contract = value[b"public_key"], value[b"link_name"], value[b"contract_id"]
        # only small ones are kept, or a peer could have us keep thousands of huge ones
        if len(key) + len(link) + len(contract) <= _CACHED_ENTITY_BYTES:
            return _entity(key, link, contract)
    except (TypeError, KeyError, UnicodeDecodeError):
        pass
    return _read_unusual_entity(value, f"invocation: {name}")


def _read_unusual_entity(value: object, what: str) -> Entity:
    """A large one, one with absent members, a positional one, or none at all."""
    if value is None:
        raise MalformedMessage(f"{what} is missing")
    if isinstance(value, list) and len(value) <= 3:
        value = dict(zip((b"public_key", b"link_name", b"contract_id"), value, strict=False))
    fields = wire.Fields.of(what, value)
    return Entity(fields.text("public_key"), fields.text("link_name"), fields.text("contract_id"))


def _text(value: object, what: str) -> str:
    """A text member that may be absent. ``what`` names it in errors."""
    if value is None:
        return ""
    return wire.text_of(what, value)


def _octets(value: object, what: str) -> bytes:
    return b"" if value is None else wire.octets_of(what, value)


def _members(what: str, data: bytes, positions: tuple[bytes, ...]) -> dict[bytes, Any]:
    members = wire.unpack_raw(what, data)
    if type(members) is dict:
        return members
    if type(members) is list and len(members) <= len(positions):
        return dict(zip(positions, members, strict=False))
    raise MalformedMessage(f"{what} is {wire.kind(members)}, not a map")


_INVOCATION_POSITIONS: Final = (
    b"origin",
    b"target",
    b"operation",
    b"msg",
    b"id",
    b"encoded_claims",
    b"host_id",
    b"content_length",
    b"traceContext",
)
_RESPONSE_POSITIONS: Final = (b"msg", b"invocation_id", b"error", b"content_length")


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call on its way to the target."""

    origin: Entity
    target: Entity
    operation: str
    """``Service.Method``."""
    msg: bytes = b""
    """The argument in the contract's encoding; empty when chunked."""
    id: str = ""
    encoded_claims: str = ""
    """The anti-forgery token, see :mod:`lattice.antiforgery`."""
    host_id: str = ""
    """Says who sent it; not covered by the signature, so it has no authority."""
    content_length: int | None = None
    """Bytes of the whole argument; more than ``len(msg)`` means chunked. None is sent as ``len(msg)``."""
    trace_context: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def chunked(self) -> bool:
        """Whether the argument is elsewhere (:mod:`lattice.chunks`): ``msg`` is not all of it."""
        return self.content_length is not None and self.content_length > len(self.msg)

    def encode(self) -> bytes:
        """A named map; ``content_length`` and all members of the entities are always there, since some peers fail
        without them."""
        msg = self.msg
        trace = self.trace_context
        length = self.content_length
        return b"".join(
            (
                b"\x89\xa6origin" if trace else b"\x88\xa6origin",
                self.origin.packed,
                b"\xa6target",
                self.target.packed,
                b"\xa9operation",
                wire.packed_text(self.operation),
                b"\xa3msg",
                wire.packed_octets_head(len(msg)),
                msg,
                b"\xa2id",
                wire.packed_text(self.id),
                b"\xaeencoded_claims",
                wire.packed_text(self.encoded_claims),
                b"\xa7host_id",
                wire.packed_text(self.host_id),
                b"\xaecontent_length",
                wire.packed_count(len(msg) if length is None else length),
                b"\xactraceContext" + wire.pack(dict(trace)) if trace else b"",
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> Invocation:
        """Raise MalformedMessage, and nothing else, whatever ``data`` is. Unknown members are ignored."""
        get = _members("invocation", data, _INVOCATION_POSITIONS).get
        msg = get(b"msg")
        trace = get(b"traceContext")
        length = get(b"content_length")
        return cls(
            origin=_read_entity(get(b"origin"), "origin"),
            target=_read_entity(get(b"target"), "target"),
            operation=_text(get(b"operation"), "invocation: operation"),
            msg=msg if type(msg) is bytes else _octets(msg, "invocation: msg"),
            id=_text(get(b"id"), "invocation: id"),
            encoded_claims=_text(get(b"encoded_claims"), "invocation: encoded_claims"),
            host_id=_text(get(b"host_id"), "invocation: host_id"),
            content_length=None if length is None else _length("invocation", length),
            trace_context=wire.Fields("invocation", {b"traceContext": trace}).mapping("traceContext")
            if trace
            else _EMPTY,
        )


def _length(what: str, value: object) -> int:
    return wire.integer_of(f"{what}: content_length", value, 0, 2**64 - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class InvocationResponse:
    """The answer to one call.

    ``code`` and ``retry_after`` are our additions, sent only with an error and ignored by classic peers.
    """

    msg: bytes = b""
    """In the contract's encoding; means nothing when ``error`` is set; empty when chunked."""
    invocation_id: str = ""
    error: str | None = None
    content_length: int | None = None
    """Bytes of the whole reply; more than ``len(msg)`` means chunked. None is sent as ``len(msg)``."""
    code: str | None = None
    """One of :class:`lattice.errors.Code`, the machine-readable reason of ``error``."""
    retry_after: float | None = None
    """Seconds after which a retry makes sense; travels as whole milliseconds."""

    @property
    def chunked(self) -> bool:
        """Whether the result is elsewhere (:mod:`lattice.chunks`): ``msg`` is not all of it."""
        return self.content_length is not None and self.content_length > len(self.msg)

    def encode(self) -> bytes:
        """A named map with ``invocation_id`` and ``content_length`` also on errors: the Rust hosts fail without."""
        msg = self.msg
        length = self.content_length
        size = len(msg) if length is None else length
        if self.error is None:
            return b"".join(
                (
                    b"\x83\xa3msg",
                    wire.packed_octets_head(len(msg)),
                    msg,
                    b"\xadinvocation_id",
                    wire.packed_text(self.invocation_id),
                    b"\xaecontent_length",
                    wire.packed_count(size),
                )
            )
        members: dict[str, object] = {
            "msg": msg,
            "invocation_id": self.invocation_id,
            "error": self.error,
            "content_length": size,
        }
        if self.code is not None:
            members["code"] = str(self.code)
        if self.retry_after is not None:
            members["retry_after"] = max(0, round(self.retry_after * 1000))
        return wire.pack(members)

    @classmethod
    def decode(cls, data: bytes) -> InvocationResponse:
        """Raise MalformedMessage, and nothing else, whatever ``data`` is. Unknown members are ignored."""
        get = _members("invocation response", data, _RESPONSE_POSITIONS).get
        # Elixir hosts send msg as a string of any bytes, or as an empty array
        msg = get(b"msg")
        if type(msg) is not bytes:
            msg = _octets(msg, "invocation response: msg")
        length = get(b"content_length")
        if length is not None:
            length = _length("invocation response", length)
        invocation_id = _text(get(b"invocation_id"), "invocation response: invocation_id")
        error = get(b"error")
        if error is None:
            return cls(msg=msg, invocation_id=invocation_id, content_length=length)
        retry = get(b"retry_after")
        if retry is not None:
            retry = wire.integer_of("invocation response: retry_after", retry, 0, 2**53) / 1000
        return cls(
            msg=msg,
            invocation_id=invocation_id,
            error=_text(error, "invocation response: error"),
            content_length=length,
            code=_text(get(b"code"), "invocation response: code") or None,
            retry_after=retry,
        )
