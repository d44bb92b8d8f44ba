"""What of a host moves where, and in which steps: pure decisions, from inventories alone.

A move consists of absolute commands, and whatever it has done so far can be read from the inventories, so that a
repeated command completes one that was cut off. An actor's instances arrive on the other host with a mark among their
annotations, which says where they come from and how many there will be in the end: without it nobody could tell
instances that arrived from instances that had been there before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lattice.inventory import ActorDescription, Inventory, ProviderDescription

CONSTRAINT: Final = "wasmhost/constraint."
"""Begins the annotations that name a label, and its value, which a host must have to run what carries them."""
MARK: Final = "wasmhost/moving"
"""The annotation of instances that have arrived while their move goes on: ``HOST:COUNT``, see :func:`parts`."""

Annotations = Mapping[str, str]


def requirements(annotations: Annotations) -> dict[str, str]:
    """The labels that a host must have to run what carries these annotations."""
    return {name.removeprefix(CONSTRAINT): value for name, value in annotations.items() if name.startswith(CONSTRAINT)}


def to_annotations(labels: Mapping[str, str]) -> dict[str, str]:
    """The annotations that make these labels a requirement."""
    return {f"{CONSTRAINT}{name}": value for name, value in labels.items()}


def lacking(host: Inventory, annotations: Iterable[Annotations]) -> dict[str, str]:
    """The required labels that a host does not have."""
    wanted = {name: value for each in annotations for name, value in requirements(each).items()}
    return {name: value for name, value in wanted.items() if host.labels.get(name) != value}


def find_actor(host: Inventory, actor_id: str) -> ActorDescription | None:
    return next((actor for actor in host.actors if actor.id == actor_id), None)


def find_provider(host: Inventory, provider_id: str, link_name: str) -> ProviderDescription | None:
    """A provider of that key and link name; one that is stopping only where there is no other."""
    found = [p for p in host.providers if (p.id, p.link_name) == (provider_id, link_name)]
    return min(found, key=lambda provider: provider.state == "stopping", default=None)


def count_of(actor: ActorDescription | None, annotations: Annotations) -> int:
    """Instances with exactly these annotations."""
    if actor is None:
        return 0
    return sum(each.count for each in actor.instances if dict(each.annotations) == dict(annotations))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """The instances of an actor with one set of annotations, on their way from one host to another."""

    annotations: Annotations = field(hash=False)
    source: str
    """The host they come from."""
    count: int
    """How many are still there; 0 when only the last steps are missing."""
    total: int
    """How many there are to be on the other host in the end, with those that it has of its own."""

    @property
    def marked(self) -> dict[str, str]:
        """The annotations under which they arrive."""
        return {**self.annotations, MARK: f"{self.source}:{self.total}"}


def parts(source: str, here: ActorDescription | None, there: ActorDescription | None) -> list[Part]:
    """What moves from the host ``source``, also where that was begun before; nothing when there is nothing."""
    found: dict[frozenset[tuple[str, str]], Part] = {}
    for each in _sets(there):
        host, _, total = each.get(MARK, "").partition(":")
        if host == source and total.isdecimal():
            plain = {name: value for name, value in each.items() if name != MARK}
            part = Part(annotations=plain, source=source, count=count_of(here, plain), total=int(total))
            found[frozenset(plain.items())] = part
    for each in _sets(here):
        if MARK in each or frozenset(each.items()) in found:
            continue
        count = count_of(here, each)
        found[frozenset(each.items())] = Part(
            annotations=each, source=source, count=count, total=count_of(there, each) + count
        )
    return list(found.values())


def arriving(actor: ActorDescription | None) -> bool:
    """Whether instances of it are here whose move has not ended."""
    return any(MARK in each for each in _sets(actor))


def _sets(actor: ActorDescription | None) -> list[Annotations]:
    if actor is None:
        return []
    return [dict(each) for each in {frozenset(instance.annotations.items()): None for instance in actor.instances}]


def homes_for_actor(actor: ActorDescription, source: str, hosts: Sequence[Inventory]) -> list[Inventory]:
    """The hosts that may take over an actor, best first: where fewest of its kind run, then where least runs.

    One at which a move of it was begun comes before all.
    """
    fitting = _open(source, hosts, _sets(actor))
    return sorted(
        fitting,
        key=lambda host: (
            not arriving(find_actor(host, actor.id)),
            sum(each.count for each in host.actors if each.id == actor.id),
            busy(host),
            host.host_id,
        ),
    )


def homes_for_provider(provider: ProviderDescription, source: str, hosts: Sequence[Inventory]) -> list[Inventory]:
    """The hosts that may take over a provider, best first: where it runs already, then where least runs."""
    fitting = _open(source, hosts, [provider.annotations])
    return sorted(
        fitting,
        key=lambda host: (find_provider(host, provider.id, provider.link_name) is None, busy(host), host.host_id),
    )


def no_home(source: str, hosts: Sequence[Inventory], annotations: Iterable[Annotations]) -> str:
    """Why no host may take something over."""
    others = [host for host in hosts if host.host_id != source]
    if not others:
        return "there is no other host"
    ready = [host for host in others if not host.cordoned]
    if not ready:
        return "every other host is cordoned"
    wanted = {name: value for each in annotations for name, value in requirements(each).items()}
    return "no other host has the labels " + ", ".join(f"{name}={value}" for name, value in wanted.items())


def busy(host: Inventory) -> int:
    """How much a host has to do: its instances and providers."""
    return sum(actor.count for actor in host.actors) + len(host.providers)


def _open(source: str, hosts: Sequence[Inventory], annotations: Sequence[Annotations]) -> list[Inventory]:
    return [host for host in hosts if host.host_id != source and not host.cordoned and not lacking(host, annotations)]
