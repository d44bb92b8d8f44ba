"""What a provider says about itself when asked for its health.

The classic reply is ``{healthy, message?}``. Our own providers add ``state``, ``links`` (per actor),
``instance_id``, ``issuer`` and ``cluster_issuers``, which classic hosts ignore.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Self

from lattice import wire
from lattice.errors import MalformedMessage


class Condition(StrEnum):
    """How a provider, or one of its links, is doing."""

    STARTING = "starting"
    READY = "ready"
    DEGRADED = "degraded"
    FAILED = "failed"
    STOPPING = "stopping"
    """It takes nothing new and finishes what is under way; of providers only."""
    REMOVED = "removed"
    """Of links only."""


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link as its provider sees it."""

    state: Condition
    reason: str = ""
    """Why it failed or is degraded; empty otherwise."""

    def to_dict(self) -> dict[str, str]:
        return {"state": str(self.state), "reason": self.reason} if self.reason else {"state": str(self.state)}

    def encode(self) -> bytes:
        """The answer to ``linkdefs.put``, which classic hosts do not read."""
        return wire.pack(self.to_dict())

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """The answer of our own providers to ``linkdefs.put``; raises MalformedMessage."""
        return cls._read(wire.Fields.unpack("link state", data))

    @classmethod
    def read_all(cls, value: object) -> dict[str, Self]:
        """The member ``links`` of a health reply, unpacked raw: by actor key; raises MalformedMessage."""
        if not isinstance(value, dict):
            raise MalformedMessage(f"health reply: links is {wire.kind(value)}, not a map")
        return {
            wire.text_of("health reply: a key of links", actor): cls._read(wire.Fields.of("link state", status))
            for actor, status in value.items()
        }

    @classmethod
    def _read(cls, fields: wire.Fields) -> Self:
        name = fields.text("state")
        try:
            return cls(Condition(name), fields.text("reason"))
        except ValueError:
            return cls(Condition.FAILED, f"unknown state {name[:40]!r}")


@dataclass(frozen=True, slots=True)
class HealthQuestion:
    """What a host asks. A process on our SDK answers when it is the one that is meant, classic ones always."""

    instance_id: str = ""
    """Empty where any may answer, as when a classic host asks."""

    def encode(self) -> bytes:
        return wire.pack({"placeholder": True, "instance_id": self.instance_id})

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Classic hosts send anything, so nothing is wrong with it."""
        try:
            return cls(wire.Fields.unpack("health question", data).text("instance_id") if data else "")
        except MalformedMessage:
            return cls()


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReply:
    """The health reply. Source: classic ``HealthCheckResponse``; the extras are ours."""

    healthy: bool = False
    message: str = ""
    state: str = ""
    """Of the provider as a whole, for people; one of :class:`Condition`."""
    instance_id: str = ""
    links: Mapping[str, LinkStatus] | None = None
    """None when the provider does not report its links, as classic ones do not."""

    issuer: str = ""
    """Public key that it signs with; empty when it does not say."""
    cluster_issuers: tuple[str, ...] = ()
    """Cluster keys that it accepts."""

    def encode(self) -> bytes:
        """As one of our providers answers: the classic members, then ours."""
        document: dict[str, object] = {"healthy": self.healthy}
        if self.message:
            document["message"] = self.message
        document["state"] = str(self.state)
        document["instance_id"] = self.instance_id
        document["issuer"] = self.issuer
        document["cluster_issuers"] = list(self.cluster_issuers)
        document["links"] = {actor: status.to_dict() for actor, status in (self.links or {}).items()}
        return wire.pack(document)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raise MalformedMessage, and nothing else, whatever ``data`` is."""
        fields = wire.Fields.unpack("health reply", data)
        links = fields.raw("links")
        return cls(
            healthy=fields.flag("healthy"),
            message=fields.text("message"),
            state=fields.text("state"),
            instance_id=fields.text("instance_id"),
            links=None if links is None else LinkStatus.read_all(links),
            issuer=fields.text("issuer"),
            cluster_issuers=fields.texts("cluster_issuers"),
        )

    @property
    def failure(self) -> str:
        """Why the provider is not all right; empty when it is."""
        for status in (self.links or {}).values():
            if status.state in (Condition.FAILED, Condition.DEGRADED):
                return status.reason or f"a link {status.state}"
        return "" if self.healthy else self.message or "reports itself as unhealthy"
