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


@dataclass(frozen=True, slots=True)
class LinkStatus:
    """One link as its provider sees it."""

    state: Condition
    reason: str = ""
    """Why it failed or is degraded; empty otherwise."""

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


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReply:
    """A decoded health reply. Source: classic ``HealthCheckResponse``; the extras are ours."""

    healthy: bool = False
    message: str = ""
    instance_id: str = ""
    links: Mapping[str, LinkStatus] | None = None
    """None when the provider does not report its links, as classic ones do not."""

    issuer: str = ""
    """Public key that it signs with; empty when it does not say."""
    cluster_issuers: tuple[str, ...] = ()
    """Cluster keys that it accepts."""

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raise MalformedMessage, and nothing else, whatever ``data`` is."""
        fields = wire.Fields.unpack("health reply", data)
        links = fields.raw("links")
        return cls(
            healthy=fields.flag("healthy"),
            message=fields.text("message"),
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
