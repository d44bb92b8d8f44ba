"""What hosts say about themselves: answers to ``ping.hosts`` and ``get.{host}.inv``.

Members that classic hosts do not have (``state``, ``error``, ``links``, ``restarts``, ``degraded``) come on top;
classic clients ignore them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lattice.document import Document

_I32_MIN, _I32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HostPing:
    """One answer to ``ping.hosts``."""

    id: str
    """Public key of the host."""
    issuer: str = ""
    """Public key of its cluster."""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    friendly_name: str = ""
    uptime_seconds: int = 0
    uptime_human: str = ""
    version: str = ""
    """A semantic version without ``v``."""
    cluster_issuers: Sequence[str] = ()
    """One comma-joined text on the wire."""
    js_domain: str | None = None
    ctl_host: str = ""
    rpc_host: str = ""
    prov_rpc_host: str = ""
    lattice: str = "default"
    guests: str = ""
    """How its actors run, ``suspendable`` or ``threads``; an extra member that only our hosts send."""
    clock_ms: int | None = None
    """The host's time when it answered, in milliseconds since the epoch; an extra member that only our hosts send."""
    cordoned: bool = False
    """The host takes on nothing new; an extra member that only our hosts send."""

    issuer_alarms: int = 0
    """Calls since its start whose issuer and origin disagreed; an extra member that only our hosts send."""

    def to_dict(self) -> dict[str, Any]:
        return {
            **({"issuer_alarms": self.issuer_alarms} if self.issuer_alarms else {}),
            **({"guests": self.guests} if self.guests else {}),
            **({"clock_ms": self.clock_ms} if self.clock_ms is not None else {}),
            **({"cordoned": True} if self.cordoned else {}),
            "id": self.id,
            "issuer": self.issuer,
            "labels": dict(self.labels),
            "friendly_name": self.friendly_name,
            "uptime_seconds": self.uptime_seconds,
            "uptime_human": self.uptime_human,
            "version": self.version,
            "cluster_issuers": ",".join(self.cluster_issuers),
            "js_domain": self.js_domain,
            "ctl_host": self.ctl_host,
            "rpc_host": self.rpc_host,
            "prov_rpc_host": self.prov_rpc_host,
            "lattice_prefix": self.lattice,
            "lattice": self.lattice,
        }

    @classmethod
    def from_dict(cls, value: object) -> HostPing:
        fields = Document("answer to ping.hosts", value)
        return cls(
            id=fields.required_text("id"),
            issuer=fields.text("issuer"),
            labels=fields.mapping("labels"),
            friendly_name=fields.text("friendly_name"),
            uptime_seconds=fields.count("uptime_seconds"),
            uptime_human=fields.text("uptime_human"),
            version=fields.text("version"),
            cluster_issuers=tuple(key for key in fields.text("cluster_issuers").split(",") if key),
            js_domain=fields.optional_text("js_domain"),
            ctl_host=fields.text("ctl_host"),
            rpc_host=fields.text("rpc_host"),
            prov_rpc_host=fields.text("prov_rpc_host"),
            lattice=fields.text("lattice") or fields.text("lattice_prefix") or "default",
            guests=fields.text("guests"),
            clock_ms=fields.optional_count("clock_ms"),
            cordoned=fields.flag("cordoned"),
            issuer_alarms=fields.count("issuer_alarms"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceDescription:
    """One wanted instance of an actor."""

    instance_id: str
    revision: int = 0
    image_ref: str | None = None
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    max_concurrent: int = 1
    """Sent as ``max_instances`` too, the name of later hosts."""

    @property
    def count(self) -> int:
        """How many instances this entry stands for: later hosts list one entry for all with the same annotations."""
        return self.max_concurrent or 1

    def to_dict(self) -> dict[str, Any]:
        return {
            "instance_id": self.instance_id,
            "revision": min(max(self.revision, _I32_MIN), _I32_MAX),
            "image_ref": self.image_ref,
            "annotations": dict(self.annotations),
            "max_concurrent": self.max_concurrent,
            "max_instances": self.max_concurrent,
        }

    @classmethod
    def from_document(cls, fields: Document) -> InstanceDescription:
        limit = fields.optional_count("max_concurrent")
        return cls(
            instance_id=fields.text("instance_id"),
            revision=fields.integer("revision"),
            image_ref=fields.optional_text("image_ref"),
            annotations=fields.mapping("annotations"),
            max_concurrent=fields.count("max_instances", 1) if limit is None else limit,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDescription:
    """One actor of a host."""

    id: str
    image_ref: str | None = None
    """As the start command spelled it."""
    name: str | None = None
    instances: Sequence[InstanceDescription] = ()
    """One entry per instance, as the Elixir hosts list them, or per annotation set."""
    image_digest: str = ""
    """SHA-256 of the whole file in lower-case hex; an extra member that only our hosts send."""
    error: str = ""
    """Ours: why it takes no more calls and is about to be stopped; not sent otherwise."""

    @property
    def count(self) -> int:
        """Instances of this actor."""
        return sum(instance.count for instance in self.instances)

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "image_ref": self.image_ref,
            "name": self.name,
            **({"image_digest": self.image_digest} if self.image_digest else {}),
            "instances": [instance.to_dict() for instance in self.instances],
            **({"error": self.error} if self.error else {}),
        }

    @classmethod
    def from_document(cls, fields: Document) -> ActorDescription:
        return cls(
            id=fields.required_text("id"),
            image_ref=fields.optional_text("image_ref"),
            name=fields.optional_text("name"),
            instances=tuple(map(InstanceDescription.from_document, fields.documents("instances"))),
            image_digest=fields.text("image_digest"),
            error=fields.text("error"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDescription:
    """One provider process of a host."""

    id: str
    image_ref: str | None = None
    contract_id: str = ""
    link_name: str = "default"
    name: str | None = None
    revision: int = 0
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)
    instance_id: str = ""
    state: str = ""
    """Ours: starting, ready, degraded or failed; empty from other hosts."""
    error: str = ""
    """Ours: why it is not ready."""
    links: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """Ours: actor key -> ``state`` and ``reason`` of its link."""
    restarts: int = 0

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "id": self.id,
            "image_ref": self.image_ref,
            "contract_id": self.contract_id,
            "link_name": self.link_name,
            "name": self.name,
            "revision": min(max(self.revision, _I32_MIN), _I32_MAX),
            "annotations": dict(self.annotations),
            "state": self.state,
            "error": self.error,
            "links": {actor: dict(link) for actor, link in self.links.items()},
            "restarts": self.restarts,
        }
        if self.instance_id:
            document["instance_id"] = self.instance_id
        return document

    @classmethod
    def from_document(cls, fields: Document) -> ProviderDescription:
        links = fields.document("links")
        return cls(
            id=fields.required_text("id"),
            image_ref=fields.optional_text("image_ref"),
            contract_id=fields.text("contract_id"),
            link_name=fields.text("link_name") or "default",
            name=fields.optional_text("name"),
            revision=fields.integer("revision"),
            annotations=fields.mapping("annotations"),
            instance_id=fields.text("instance_id"),
            state=fields.text("state"),
            error=fields.text("error"),
            links={actor: links.mapping(actor) for actor in links.names()},
            restarts=fields.count("restarts"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HaltedDescription:
    """Ours: an actor or a provider that a host has stopped because it may not run any more."""

    id: str
    name: str = ""
    image_ref: str = ""
    link_name: str = ""
    """Of a provider; empty for an actor."""
    state: str = ""
    """``expired``, ``revoked`` or ``denied``."""
    error: str = ""
    at: int = 0
    """When, in seconds since the epoch."""

    def to_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "name": self.name,
            "image_ref": self.image_ref,
            "link_name": self.link_name,
            "state": self.state,
            "error": self.error,
            "at": self.at,
        }

    @classmethod
    def from_document(cls, fields: Document) -> HaltedDescription:
        return cls(
            id=fields.required_text("id"),
            name=fields.text("name"),
            image_ref=fields.text("image_ref"),
            link_name=fields.text("link_name"),
            state=fields.text("state"),
            error=fields.text("error"),
            at=fields.count("at"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """The answer to ``get.{host}.inv``."""

    host_id: str
    issuer: str = ""
    friendly_name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict, hash=False)
    actors: Sequence[ActorDescription] = ()
    providers: Sequence[ProviderDescription] = ()
    version: str = ""
    uptime_human: str = ""
    uptime_seconds: int = 0
    degraded: str | None = None
    """Ours: what does not work on this host, such as storage without JetStream."""
    cordoned: bool = False
    """Ours: the host takes on nothing new."""
    halted: Sequence[HaltedDescription] = ()
    """Ours: what was stopped because its claims expired, or it was revoked or denied; not sent when empty."""

    def to_dict(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "host_id": self.host_id,
            "issuer": self.issuer,
            "friendly_name": self.friendly_name,
            "labels": dict(self.labels),
            "actors": [actor.to_dict() for actor in self.actors],
            "providers": [provider.to_dict() for provider in self.providers],
            "version": self.version,
            "uptime_human": self.uptime_human,
            "uptime_seconds": self.uptime_seconds,
        }
        if self.degraded is not None:
            document["degraded"] = self.degraded
        if self.cordoned:
            document["cordoned"] = True
        if self.halted:
            document["halted"] = [each.to_dict() for each in self.halted]
        return document

    @classmethod
    def from_dict(cls, value: object) -> Inventory:
        fields = Document("host inventory", value)
        return cls(
            host_id=fields.required_text("host_id"),
            issuer=fields.text("issuer"),
            friendly_name=fields.text("friendly_name"),
            labels=fields.mapping("labels"),
            actors=tuple(map(ActorDescription.from_document, fields.documents("actors"))),
            providers=tuple(map(ProviderDescription.from_document, fields.documents("providers"))),
            version=fields.text("version"),
            uptime_human=fields.text("uptime_human"),
            uptime_seconds=fields.count("uptime_seconds"),
            degraded=fields.optional_text("degraded"),
            cordoned=fields.flag("cordoned"),
            halted=tuple(map(HaltedDescription.from_document, fields.documents("halted"))),
        )
