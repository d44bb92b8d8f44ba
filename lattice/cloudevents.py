"""The envelope of lattice events: CloudEvents 1.0 in JSON, with the name of the event in their type."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from lattice import document
from lattice.document import Document
from lattice.errors import MalformedMessage

TYPE_PREFIX: Final = "com.wasmcloud.lattice."


def encode(
    name: str, source: str, data: Mapping[str, Any], *, id: str | None = None, time: datetime | None = None
) -> bytes:
    """One encoded event. ``source`` is the public key of the host, which consumers take as the host id."""
    moment = (time or datetime.now(UTC)).isoformat(timespec="microseconds").replace("+00:00", "Z")
    return document.encode(
        {
            "specversion": "1.0",
            "type": TYPE_PREFIX + name,
            "source": source,
            "id": id or str(uuid.uuid4()),
            "time": moment,
            "datacontenttype": "application/json",
            "data": dict(data),
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event as it was received."""

    name: str
    """Without the common prefix: ``actor_started``."""
    source: str
    """Public key of the host, or ``n/a`` from Elixir hosts for link events."""
    id: str = ""
    time: str = ""
    """RFC 3339."""
    data: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def decode(cls, payload: bytes) -> Event:
        """Raise MalformedMessage, and nothing else. Absent ``data`` are read as none."""
        return cls.of(document.parse("event", payload))

    @classmethod
    def of(cls, value: object) -> Event:
        """The event that a parsed document is. Raises MalformedMessage."""
        fields = Document("event", value)
        kind = fields.required_text("type")
        if not kind.startswith(TYPE_PREFIX):
            raise MalformedMessage(f"event: type {kind[:80]!r} does not begin with {TYPE_PREFIX}")
        data = fields.raw("data")
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise MalformedMessage("event: data is not an object")
        return cls(
            name=kind.removeprefix(TYPE_PREFIX),
            source=fields.text("source"),
            id=fields.text("id"),
            time=fields.text("time"),
            data=data,
        )
