"""What a host was asked to run, and its form on disk. Pure.

The form is JSON: ``version`` and the lists ``actors`` (``actor_id image_ref count annotations``, one entry per
annotation set) and ``providers`` (``provider_id image_ref link_name annotations configuration``). Annotations and
references are told to the whole lattice in events anyway; a configuration may hold passwords, so it is sealed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lattice.document import Document
from lattice.errors import MalformedMessage
from wasmhost.apps.planner import APPLICATION, MANAGED_BY, SCALER

VERSION: Final = 1
_WHAT: Final = "what the host was asked to run"
_MANAGERS: Final = (MANAGED_BY, "managed-by", APPLICATION, SCALER)


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorDuty:
    """So many instances of one actor with one set of annotations."""

    actor_id: str
    reference: str
    count: int
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderDuty:
    """One provider under one link name."""

    provider_id: str
    reference: str
    link_name: str
    sealed_configuration: str = field(default="", repr=False)
    """Empty when there is none."""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)


Duty = ActorDuty | ProviderDuty


def manager_of(annotations: Mapping[str, str]) -> tuple[str, str] | None:
    """Which manager, and of which application, looks after what carries these annotations; None if nobody does."""
    if not any(name in annotations for name in _MANAGERS):
        return None
    return annotations.get(MANAGED_BY) or annotations.get("managed-by", ""), annotations.get(APPLICATION, "")


def encode(duties: Iterable[Duty]) -> bytes:
    """The file for these duties; the same duties in the same order give the same bytes."""
    actors: list[dict[str, Any]] = []
    providers: list[dict[str, Any]] = []
    for duty in duties:
        common = {"image_ref": duty.reference, "annotations": dict(duty.annotations)}
        match duty:
            case ActorDuty():
                actors.append({"actor_id": duty.actor_id, "count": duty.count, **common})
            case ProviderDuty():
                entry = {"provider_id": duty.provider_id, "link_name": duty.link_name, **common}
                if duty.sealed_configuration:
                    entry["configuration"] = duty.sealed_configuration
                providers.append(entry)
    return json.dumps({"version": VERSION, "actors": actors, "providers": providers}, indent=1).encode() + b"\n"


def decode(data: bytes) -> list[Duty]:
    """The duties of a file. Raises MalformedMessage, and nothing else, whatever ``data`` is."""
    fields = Document.parse(_WHAT, data)
    version = fields.count("version")
    if version != VERSION:
        raise MalformedMessage(f"{_WHAT}: version {version} is not known here, only {VERSION}")
    duties: list[Duty] = []
    for actor in fields.documents("actors"):
        duty = ActorDuty(
            actor_id=actor.required_text("actor_id"),
            reference=actor.required_text("image_ref"),
            count=actor.count("count"),
            annotations=actor.mapping("annotations"),
        )
        if duty.count < 1:
            raise MalformedMessage(f"{actor.what}: count is missing")
        duties.append(duty)
    for provider in fields.documents("providers"):
        duties.append(
            ProviderDuty(
                provider_id=provider.required_text("provider_id"),
                reference=provider.required_text("image_ref"),
                link_name=provider.required_text("link_name"),
                sealed_configuration=provider.text("configuration"),
                annotations=provider.mapping("annotations"),
            )
        )
    return duties


def open_ones(pending: Iterable[Duty], present: Iterable[Duty]) -> list[Duty]:
    """Those of ``pending`` about which no later command has decided, as far as what runs shows that."""
    actors: dict[str, list[ActorDuty]] = {}
    providers: set[tuple[str, str]] = set()
    for duty in present:
        if isinstance(duty, ActorDuty):
            actors.setdefault(duty.actor_id, []).append(duty)
        else:
            providers.add((duty.provider_id, duty.link_name))

    def is_open(duty: Duty) -> bool:
        if isinstance(duty, ProviderDuty):
            return (duty.provider_id, duty.link_name) not in providers
        # one actor runs from one image on a host
        return not any(
            other.reference != duty.reference or other.annotations == duty.annotations
            for other in actors.get(duty.actor_id, ())
        )

    return [duty for duty in pending if is_open(duty)]
