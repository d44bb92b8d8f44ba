"""What hosts of ours tell somebody who watches: log lines about an actor or provider, and an actor's calls.

One request goes to all hosts, on a control subject; answers go to its reply subject until the lease in it has run out,
which a renewed request prolongs. Source: ours; classic hosts do not listen there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Self

from lattice.document import Document
from lattice.encoding import Encoding
from lattice.errors import MalformedMessage
from lattice.invocation import Entity
from lattice.keys import Role, role_of

LONGEST_LEASE: Final = 60.0
"""Seconds."""
USUAL_LEASE: Final = 10.0
MOST_LINES: Final = 1000
"""Lines that one host keeps, and sends, of one actor or provider."""
MOST_MIRRORED: Final = 256 * 1024
"""Bytes of one payload that are mirrored; ``size`` tells how many there were."""
_LAST_MOMENT: Final = 253_370_764_800_000_000
"""The year 9999: what comes then, nobody could show."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObserveRequest:
    """Asks for what there is about ``key``, and for what comes within ``lease`` seconds; a lease of 0 ends that."""

    key: str
    """Public key of an actor or a provider."""
    lease: float = 0.0
    lines: int = 0
    """So many of the last log lines at once."""

    def to_dict(self) -> dict[str, Any]:
        return {"key": self.key, "lease_ms": round(self.lease * 1000), "lines": self.lines}

    @classmethod
    def from_dict(cls, value: object) -> Self:
        fields = Document("observation request", value)
        key = fields.required_text("key")
        if role_of(key) not in (Role.MODULE, Role.SERVICE):
            raise MalformedMessage(f"observation request: key {key[:60]!r} is no public key of an actor or provider")
        return cls(
            key=key,
            lease=min(fields.count("lease_ms") / 1000, LONGEST_LEASE),
            lines=min(fields.count("lines"), MOST_LINES),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EventsRequest:
    """Asks for the events of the last ``age`` seconds that a host remembers."""

    age: float

    def to_dict(self) -> dict[str, Any]:
        return {"age_ms": round(self.age * 1000)}

    @classmethod
    def from_dict(cls, value: object) -> Self:
        return cls(age=Document("events request", value).count("age_ms") / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLine:
    """One line of a host's log that concerns the actor or provider."""

    time_us: int
    """Microseconds since 1970, by the host's clock."""
    source: str
    """``guest``, ``provider`` or ``host``: who said it."""
    level: str = "info"
    text: str = ""
    fields: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_dict(self) -> dict[str, Any]:
        return {
            "time_us": self.time_us,
            "source": self.source,
            "level": self.level,
            "text": self.text,
            "fields": dict(self.fields),
        }

    @classmethod
    def of(cls, fields: Document) -> Self:
        return cls(
            time_us=_moment(fields),
            source=fields.text("source", "host"),
            level=fields.text("level", "info"),
            text=fields.text("text"),
            fields=fields.mapping("fields"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LogLines:
    """Log lines of one host, oldest first."""

    host_id: str
    host_name: str
    lines: tuple[LogLine, ...] = ()
    more: bool = False
    """The answer to the request goes on in the next message."""
    live: bool = False
    """These have just been written; otherwise they are the answer to a request."""
    dropped: int = 0
    """Lines since the last message that were too many to send."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "host_id": self.host_id,
            "host_name": self.host_name,
            "lines": [line.to_dict() for line in self.lines],
            "more": self.more,
            "live": self.live,
            "dropped": self.dropped,
        }

    @classmethod
    def from_dict(cls, value: object) -> Self:
        fields = Document("log lines", value)
        return cls(
            host_id=fields.required_text("host_id"),
            host_name=fields.text("host_name"),
            lines=tuple(LogLine.of(line) for line in fields.documents("lines")),
            more=fields.flag("more"),
            live=fields.flag("live"),
            dropped=fields.count("dropped"),
        )


class CallPart(StrEnum):
    """What a mirrored message tells of."""

    WATCHING = "watching"
    """The host has the request, and mirrors from now on."""
    REQUEST = "request"
    REPLY = "reply"


@dataclass(frozen=True, slots=True, kw_only=True)
class MirroredCall:
    """One half of a call of the actor, made by it or to it. Reply and request have the same ``call``."""

    part: CallPart
    host_id: str
    host_name: str
    time_us: int = 0
    """Microseconds since 1970, by the host's clock."""
    call: str = ""
    invocation_id: str = ""
    route: str = ""
    """``nats``, ``local`` (both actors on this host), or ``builtin`` (answered by the host itself)."""
    origin: Entity = field(default_factory=lambda: Entity(""))
    target: Entity = field(default_factory=lambda: Entity(""))
    operation: str = ""
    msg: bytes = b""
    size: int = 0
    """Bytes of the whole payload; more than ``msg`` has when that was cut off."""
    error: str | None = None
    code: str = ""
    dropped: int = 0
    """Messages since the last one that were too many to mirror."""

    def encode(self, encoding: Encoding) -> bytes:
        """In JSON ``msg`` is base64 text."""
        msg: object = self.msg if encoding is Encoding.MSGPACK else base64.b64encode(self.msg).decode()
        return encoding.encode(
            {
                "part": self.part.value,
                "host_id": self.host_id,
                "host_name": self.host_name,
                "time_us": self.time_us,
                "call": self.call,
                "invocation_id": self.invocation_id,
                "route": self.route,
                "origin": _entity(self.origin),
                "target": _entity(self.target),
                "operation": self.operation,
                "msg": msg,
                "size": self.size,
                "error": self.error,
                "code": self.code,
                "dropped": self.dropped,
            }
        )

    @classmethod
    def from_dict(cls, value: object) -> Self:
        fields = Document("mirrored call", value)
        try:
            part = CallPart(fields.text("part"))
        except ValueError:
            raise MalformedMessage("mirrored call: part is none of watching, request and reply") from None
        return cls(
            part=part,
            host_id=fields.required_text("host_id"),
            host_name=fields.text("host_name"),
            time_us=_moment(fields),
            call=fields.text("call"),
            invocation_id=fields.text("invocation_id"),
            route=fields.text("route"),
            origin=_read_entity(fields.document("origin")),
            target=_read_entity(fields.document("target")),
            operation=fields.text("operation"),
            msg=_read_msg(fields.raw("msg")),
            size=fields.count("size"),
            error=fields.optional_text("error"),
            code=fields.text("code"),
            dropped=fields.count("dropped"),
        )


def _moment(fields: Document) -> int:
    moment = fields.count("time_us")
    if moment > _LAST_MOMENT:
        raise MalformedMessage(f"{fields.what}: time_us is no time")
    return moment


def _entity(entity: Entity) -> dict[str, str]:
    return {"public_key": entity.public_key, "link_name": entity.link_name, "contract_id": entity.contract_id}


def _read_entity(fields: Document) -> Entity:
    return Entity(fields.text("public_key"), fields.text("link_name"), fields.text("contract_id"))


def _read_msg(value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, bytes):
        return value
    try:
        if isinstance(value, str):
            return base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        pass
    raise MalformedMessage("mirrored call: msg is neither bytes nor base64")
