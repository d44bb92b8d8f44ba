"""The documents of the control subjects: commands, acknowledgements and what hosts say about themselves.

All of them are read from and written to plain dicts, since a request may be JSON or msgpack and the answer uses the
same (:mod:`lattice.encoding`). The texts in front of errors are those of the classic hosts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from lattice.document import Document
from lattice.encoding import Encoding, decode_body, encode_reply, encoding_of
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.inventory import (
    ActorDescription,
    HostPing,
    InstanceDescription,
    Inventory,
    ProviderDescription,
)
from lattice.subjects import DEFAULT_LINK_NAME

__all__ = [
    "Ack",
    "ActorDescription",
    "Encoding",
    "HostPing",
    "InstanceDescription",
    "Inventory",
    "LaunchActor",
    "ProviderDescription",
    "ProviderLaunch",
    "ScaleActor",
    "StartProvider",
    "StopActor",
    "StopHost",
    "StopProvider",
    "UpdateActor",
    "decode_body",
    "encode_reply",
    "encoding_of",
]

MAX_INSTANCES: Final = 65_535
"""Most instances one command may ask for: the wire type of the older clients."""
MOST_ANNOTATIONS: Final = 16 * 1024
"""Characters in the names and values of one command's annotations."""
MOST_DRAIN_MS: Final = 600_000
"""Longest time, in milliseconds, for what is under way at a provider that stops."""
NO_LIMIT: Final = frozenset({2**16 - 1, 2**32 - 1})
"""Counts that mean "as many as needed" in ``scale``: the largest of each wire type is the later clients' default."""


def _count(fields: Document, default: int) -> int:
    value = fields.count("count", default)
    if value > MAX_INSTANCES:
        raise MalformedMessage(f"{fields.what}: count is {value}, at most {MAX_INSTANCES} are allowed")
    return value


def _annotations(fields: Document) -> dict[str, str]:
    """Annotations come back in every event and once per instance in the inventory, so they are bounded."""
    annotations = fields.mapping("annotations")
    size = sum(len(name) + len(value) for name, value in annotations.items())
    if size > MOST_ANNOTATIONS:
        raise MalformedMessage(f"{fields.what}: annotations hold {size} characters, at most {MOST_ANNOTATIONS}")
    return annotations


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to a command; sent before the work is done, unless the command says otherwise."""

    accepted: bool = True
    error: str = ""
    code: str | None = None
    """Ours: one of :class:`lattice.errors.Code`, the machine-readable reason of a refusal."""

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = {"accepted": self.accepted, "error": self.error}
        if self.code is not None:
            document["code"] = str(self.code)
        return document

    @classmethod
    def from_dict(cls, value: object) -> Ack:
        fields = Document("acknowledgement", value)
        return cls(fields.flag("accepted"), fields.text("error"), fields.optional_text("code"))


# ---- commands


@dataclass(frozen=True, slots=True, kw_only=True)
class HostCommand:
    """What every command about an actor or a provider says: which host it is for, and which annotations it is about."""

    host_id: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def _address(self) -> dict[str, Any]:
        return {"host_id": self.host_id, "annotations": dict(self.annotations)}


def _address(fields: Document) -> dict[str, Any]:
    return {"host_id": fields.text("host_id"), "annotations": _annotations(fields)}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchActor(HostCommand):
    """``la``: start ``count`` more instances of the image ``actor_ref``."""

    REFUSAL: ClassVar[str] = "Invalid launch actor JSON request"

    actor_ref: str
    count: int = 1

    def to_dict(self) -> dict[str, Any]:
        return {"actor_ref": self.actor_ref, "count": self.count, **self._address()}

    @classmethod
    def from_dict(cls, value: object) -> LaunchActor:
        fields = Document(cls.REFUSAL, value)
        # 0 comes from clients for which it means "the default"
        return cls(actor_ref=fields.required_text("actor_ref"), count=_count(fields, 1) or 1, **_address(fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class StopActor(HostCommand):
    """``sa``: stop ``count`` instances (0: all) of the actor whose public key is ``actor_ref``."""

    REFUSAL: ClassVar[str] = "Invalid request to stop actor"

    actor_ref: str
    count: int = 0

    def to_dict(self) -> dict[str, Any]:
        return {"actor_ref": self.actor_ref, "count": self.count, **self._address()}

    @classmethod
    def from_dict(cls, value: object) -> StopActor:
        fields = Document(cls.REFUSAL, value)
        return cls(actor_ref=fields.required_text("actor_ref"), count=_count(fields, 0), **_address(fields))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleActor(HostCommand):
    """``scale``: have exactly ``count`` instances with these annotations; 0 stops them, None means no limit."""

    REFUSAL: ClassVar[str] = "Invalid scale actor JSON request"

    actor_ref: str
    """May be empty for an actor that runs, if ``actor_id`` names it."""
    actor_id: str = ""
    """Public key; later clients leave it out."""
    count: int | None = 1
    image_digest: str = ""
    """Ours: the SHA-256 that the image must have; empty for any."""

    def to_dict(self) -> dict[str, Any]:
        document = {"actor_ref": self.actor_ref, "count": self.count, **self._address()}
        if self.actor_id:
            document["actor_id"] = self.actor_id
        if self.image_digest:
            document["image_digest"] = self.image_digest
        return document

    @classmethod
    def from_dict(cls, value: object) -> ScaleActor:
        fields = Document(cls.REFUSAL, value)
        actor_id = fields.text("actor_id")
        if "count" not in fields:
            # absent is a mistake, null is how clients of 0.29 to 0.32 say "no limit"
            raise MalformedMessage(f"{fields.what}: count is missing")
        count = fields.optional_count("count")
        return cls(
            actor_ref=fields.text("actor_ref") if actor_id else fields.required_text("actor_ref"),
            actor_id=actor_id,
            count=None if count is None or count in NO_LIMIT else _count(fields, 0),
            image_digest=fields.text("image_digest"),
            **_address(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateActor(HostCommand):
    """``upd``: replace a running actor by the newer revision at ``new_actor_ref``, without losing a call.

    When its annotations are not empty, instances with exactly these must run; the whole actor is updated all the same.
    """

    REFUSAL: ClassVar[str] = "Invalid JSON request to update actor"

    new_actor_ref: str
    actor_id: str = ""
    """Public key; the image tells it, too."""

    def to_dict(self) -> dict[str, Any]:
        return {"actor_id": self.actor_id, "new_actor_ref": self.new_actor_ref, **self._address()}

    @classmethod
    def from_dict(cls, value: object) -> UpdateActor:
        fields = Document(cls.REFUSAL, value)
        return cls(
            new_actor_ref=fields.required_text("new_actor_ref"),
            # a Go client of the era calls it actor_ref
            actor_id=fields.text("actor_id") or fields.text("actor_ref"),
            **_address(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProvider(HostCommand):
    """``lp``: start the provider image ``provider_ref`` under a link name."""

    REFUSAL: ClassVar[str] = "Improperly formed start provider command JSON"

    provider_ref: str
    link_name: str = DEFAULT_LINK_NAME
    configuration: str | None = field(default=None, repr=False)
    """Handed to the provider unread."""
    sealed_configuration: str | None = field(default=None, repr=False)
    """Ours, instead of ``configuration``: sealed by the host that runs it now, for the hosts of its cluster."""
    provider_id: str = ""
    """Ours: the public key that the image must have; empty for any."""
    predecessor: str = ""
    """Ours: the host whose process of this provider the new one takes over from."""

    def to_dict(self) -> dict[str, Any]:
        document = {"provider_ref": self.provider_ref, "link_name": self.link_name, **self._address()}
        ours = ("sealed_configuration", "provider_id", "predecessor")
        more = {name: value for name in ours if (value := getattr(self, name))}
        if self.configuration is not None:
            more["configuration"] = self.configuration
        return {**document, **more}

    @classmethod
    def from_dict(cls, value: object) -> StartProvider:
        fields = Document(cls.REFUSAL, value)
        return cls(
            provider_ref=fields.required_text("provider_ref"),
            link_name=fields.text("link_name") or DEFAULT_LINK_NAME,
            configuration=fields.optional_text("configuration"),
            sealed_configuration=fields.optional_text("sealed_configuration"),
            provider_id=fields.text("provider_id"),
            predecessor=fields.text("predecessor"),
            **_address(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderLaunch:
    """Ours, the answer to ``get.{host}.launch``: what the inventory does not say of how a provider was started."""

    sealed_configuration: str | None = field(default=None, repr=False)
    """For the hosts of its cluster; None when it was started without."""

    def to_dict(self) -> dict[str, Any]:
        return {"sealed_configuration": self.sealed_configuration}

    @classmethod
    def from_dict(cls, value: object) -> ProviderLaunch:
        fields = Document("how a provider was started", value)
        if "sealed_configuration" not in fields:
            refusal = Ack.from_dict(value)
            raise LatticeError(refusal.error or "the host does not say", code=Code.UNSUPPORTED)
        return cls(sealed_configuration=fields.optional_text("sealed_configuration"))


@dataclass(frozen=True, slots=True, kw_only=True)
class StopProvider(HostCommand):
    """``sp``: stop the provider whose public key is ``provider_ref``."""

    REFUSAL: ClassVar[str] = "Invalid JSON request for stop provider"

    provider_ref: str
    link_name: str = DEFAULT_LINK_NAME
    contract_id: str = ""
    drain: float = 0.0
    """Ours: seconds that what is under way may take; ``drain_ms`` on the wire."""

    def to_dict(self) -> dict[str, Any]:
        document = {
            "provider_ref": self.provider_ref,
            "link_name": self.link_name,
            "contract_id": self.contract_id,
            **self._address(),
        }
        return {**document, "drain_ms": round(self.drain * 1000)} if self.drain else document

    @classmethod
    def from_dict(cls, value: object) -> StopProvider:
        fields = Document(cls.REFUSAL, value)
        return cls(
            provider_ref=fields.required_text("provider_ref"),
            link_name=fields.text("link_name") or DEFAULT_LINK_NAME,
            contract_id=fields.text("contract_id"),
            drain=min(fields.count("drain_ms"), MOST_DRAIN_MS) / 1000,
            **_address(fields),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class StopHost:
    """``stop``: end the host; ``timeout`` travels as milliseconds, whatever the classic documentation says."""

    REFUSAL: ClassVar[str] = "Unable to parse stop host command"

    host_id: str = ""
    timeout: float | None = None
    """Seconds for calls in flight to finish; the host's own limit when None."""

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = {"host_id": self.host_id}
        if self.timeout is not None:
            document["timeout"] = round(self.timeout * 1000)
        return document

    @classmethod
    def from_dict(cls, value: object) -> StopHost:
        fields = Document(cls.REFUSAL, value)
        timeout = fields.optional_count("timeout")
        return cls(host_id=fields.text("host_id"), timeout=None if timeout is None else timeout / 1000)
