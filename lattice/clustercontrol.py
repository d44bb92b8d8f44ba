"""Documents of our own control verbs about keys.

``cmd.{host}.cluster_keys`` and ``cmd.{host}.revoke_key`` change them, ``get.{host}.cluster`` tells them. No seed is
ever in them: a host is told a public key, or the bare name of a file that the operator put on its machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.subjects import DEFAULT_LINK_NAME

ACTIONS: Final = ("add", "use", "remove")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeClusterKeys:
    """``cluster_keys``: accept a cluster key, sign with it, or accept it no longer. Answered once it is done."""

    REFUSAL: ClassVar[str] = "Unable to change the cluster keys"

    action: str
    """One of ACTIONS."""
    key: str
    """A public key, ``C…``, or the name of a seed file in the host's own key folder."""
    host_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"action": self.action, "key": self.key, "host_id": self.host_id}

    @classmethod
    def from_dict(cls, value: object) -> ChangeClusterKeys:
        fields = Document(cls.REFUSAL, value)
        action = fields.required_text("action")
        if action not in ACTIONS:
            raise MalformedMessage(f"{cls.REFUSAL}: action is {action[:40]!r}, not one of {', '.join(ACTIONS)}")
        return cls(action=action, key=fields.required_text("key"), host_id=fields.text("host_id"))


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeProviderKey:
    """``revoke_key``: raise the generation of a provider's key on all hosts. Answered once this host has done so."""

    REFUSAL: ClassVar[str] = "Unable to revoke the key of a provider"

    provider_id: str
    link_name: str = DEFAULT_LINK_NAME
    host_id: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {"provider_id": self.provider_id, "link_name": self.link_name, "host_id": self.host_id}

    @classmethod
    def from_dict(cls, value: object) -> RevokeProviderKey:
        fields = Document(cls.REFUSAL, value)
        return cls(
            provider_id=fields.required_text("provider_id"),
            link_name=fields.text("link_name") or DEFAULT_LINK_NAME,
            host_id=fields.text("host_id"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """``get.{host}.cluster``: whom a host believes, and what it signs with. Public keys only."""

    host_id: str
    signing: str
    accepted: Sequence[str] = ()
    held: Sequence[str] | None = None
    """Those whose seeds it holds; None from hosts that do not say, which are of another make."""
    removed: Sequence[str] = ()
    key_folders: Sequence[str] = ()
    """Where it looks for seed files."""
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    """The public keys of the seed files that lie there, by name."""
    generations: Mapping[tuple[str, str], int] = field(default_factory=dict, hash=False)
    """By provider and link name, how often its key was revoked."""
    issuer_alarms: int = 0
    """Calls since its start that were refused because issuer and origin disagree."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "host_id": self.host_id,
            "signing": self.signing,
            "accepted": list(self.accepted),
            "held": list(self.held or ()),
            "removed": list(self.removed),
            "key_folders": list(self.key_folders),
            "files": dict(self.files),
            "generations": [
                {"provider_id": provider, "link_name": link_name, "generation": number}
                for (provider, link_name), number in sorted(self.generations.items())
            ],
            "issuer_alarms": self.issuer_alarms,
        }

    @classmethod
    def from_dict(cls, value: object) -> ClusterView:
        fields = Document("cluster keys of a host", value)
        generations = {}
        for item in fields.items("generations"):
            entry = Document("generation of a provider's key", item)
            generations[entry.required_text("provider_id"), entry.required_text("link_name")] = entry.count(
                "generation"
            )
        return cls(
            host_id=fields.required_text("host_id"),
            signing=fields.required_text("signing"),
            accepted=fields.texts("accepted"),
            held=fields.texts("held"),
            removed=fields.texts("removed"),
            key_folders=fields.texts("key_folders"),
            files=fields.mapping("files"),
            generations=generations,
            issuer_alarms=fields.count("issuer_alarms"),
        )
