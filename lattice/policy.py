"""What a host asks a policy service, and what that service says: JSON, in the shape of the classic hosts.

Sources: wasmcloud-otp ``host_core/lib/host_core/policy/manager.ex``, wasmCloud ``crates/host/src/policy.rs``. Each
generation leaves out, or fills with null, what another one reads; what we send is what both read.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from lattice import document
from lattice.document import Document
from lattice.errors import MalformedMessage

START_LIFETIME: Final = 60
"""Seconds from now at which the empty source of a start expires, as the Elixir hosts say."""
_LONGEST_MESSAGE = 500


class Action(StrEnum):
    """What is to be permitted. Services of classic lattices know these three and no others."""

    PERFORM_INVOCATION = "perform_invocation"
    START_ACTOR = "start_actor"
    START_PROVIDER = "start_provider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Who wants something. What is not known stays empty: a caller without known claims is a matter of the policy."""

    public_key: str = ""
    contract_id: str | None = None
    link_name: str | None = None
    capabilities: tuple[str, ...] = ()
    issuer: str = ""
    issued_at: int | None = None
    """Seconds since the epoch; sent as a text."""
    expires_at: int | None = None

    def to_dict(self, now: float) -> dict[str, Any]:
        return {
            "publicKey": self.public_key,
            "contractId": self.contract_id,
            "linkName": self.link_name,
            "capabilities": list(self.capabilities),
            "issuer": self.issuer,
            "issuedOn": "" if self.issued_at is None else str(self.issued_at),
            "expiresAt": self.expires_at,
            "expired": self.expires_at is not None and self.expires_at < now,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is started or called."""

    public_key: str
    issuer: str = ""
    contract_id: str | None = None
    link_name: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {
            "publicKey": self.public_key,
            "issuer": self.issuer,
            "contractId": self.contract_id,
            "linkName": self.link_name,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Asker:
    """The host that asks."""

    public_key: str
    issuer: str
    """Its cluster key; only Elixir hosts send it."""
    lattice: str
    labels: Mapping[str, str]
    cluster_issuers: Collection[str]

    def to_dict(self) -> dict[str, Any]:
        return {
            "publicKey": self.public_key,
            "issuer": self.issuer,
            "latticeId": self.lattice,
            "labels": dict(self.labels),
            "clusterIssuers": sorted(self.cluster_issuers),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """May ``source`` do ``action`` to ``target``? For starts there is no source."""

    action: Action
    target: Target
    source: Source | None = None

    def encode(self, request_id: str, asker: Asker, now: float) -> bytes:
        """The request; ``now`` is Unix time in seconds."""
        source = self.source or Source(contract_id="", link_name="", expires_at=int(now) + START_LIFETIME)
        return document.encode(
            {
                "requestId": request_id,
                "source": source.to_dict(now),
                "target": self.target.to_dict(),
                "host": asker.to_dict(),
                "action": self.action.value,
            }
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy service says: its answer to a question, or a change of what it said before."""

    request_id: str
    permitted: bool
    message: str = ""

    @classmethod
    def decode(cls, payload: bytes) -> Verdict:
        """Read an answer or a change; Elixir hosts spell ``request_id`` in changes. Raises MalformedMessage."""
        fields = Document("policy decision", document.parse("policy decision", payload))
        request_id = fields.text("requestId") or fields.text("request_id")
        if not request_id:
            raise MalformedMessage("policy decision: requestId is missing")
        permitted = fields.raw("permitted")
        if not isinstance(permitted, bool):
            raise MalformedMessage("policy decision: permitted is neither true nor false")
        return cls(request_id, permitted, (fields.optional_text("message") or "")[:_LONGEST_MESSAGE])


def encode_outcome(success: bool) -> bytes:
    """The answer to a change: whether this host knows the request that it is about."""
    return document.encode({"success": success})
