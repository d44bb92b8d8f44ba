"""An application as its manifest describes it: actors, capability providers, how many, and who may call whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True, order=True)
class Mark:
    """A place in a file. Line and column count from 1; line 0 means the file as a whole."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Spread:
    """A share of the instances, for the hosts whose labels hold all ``requirements``."""

    name: str
    requirements: Mapping[str, str]
    weight: int = 100


@dataclass(frozen=True, slots=True)
class Scaler:
    """How many instances, and where. No spread means any host."""

    kind: str
    """``spreadscaler``: that many in all; ``daemonscaler``: that many on every host that qualifies."""
    instances: int
    spread: tuple[Spread, ...] = ()


@dataclass(frozen=True, slots=True)
class LinkTrait:
    """An actor's wish to be linked to a capability component of the same manifest."""

    target: str
    """Name of the capability component; contract and link name are that component's."""
    values: Mapping[str, str] = field(repr=False)
    """Settings for the provider; they may hold secrets."""
    mark: Mark = field(compare=False)


@dataclass(frozen=True, slots=True)
class ActorComponent:
    """An actor, its instances and its links."""

    name: str
    image: str
    """As written: a path relative to the manifest, or another kind of reference."""
    scaler: Scaler
    links: tuple[LinkTrait, ...]
    mark: Mark = field(compare=False)
    """Where the image is named."""
    limits: Mapping[str, int] = field(default_factory=dict, hash=False)
    """By the names of ``wasmhost/actors/limits.py``; empty for those of the host."""


@dataclass(frozen=True, slots=True)
class CapabilityComponent:
    """A capability provider under one link name."""

    name: str
    image: str
    contract: str
    link_name: str
    config: str | None = field(repr=False)
    """Start configuration as the provider gets it; an object in the manifest becomes JSON text."""
    scaler: Scaler
    mark: Mark = field(compare=False)
    """Where the image is named."""


@dataclass(frozen=True, slots=True)
class Application:
    """One manifest."""

    name: str
    version: str
    """Empty if the manifest names none."""
    description: str
    file: Path
    """The manifest, absolute; relative images count from its folder."""
    components: tuple[ActorComponent | CapabilityComponent, ...]

    @property
    def folder(self) -> Path:
        return self.file.parent

    @property
    def actors(self) -> tuple[ActorComponent, ...]:
        return tuple(part for part in self.components if isinstance(part, ActorComponent))

    @property
    def capabilities(self) -> tuple[CapabilityComponent, ...]:
        return tuple(part for part in self.components if isinstance(part, CapabilityComponent))

    def capability(self, name: str) -> CapabilityComponent:
        """The capability component with that name; KeyError if there is none (a manifest that was read has it)."""
        for part in self.capabilities:
            if part.name == name:
                return part
        raise KeyError(name)
