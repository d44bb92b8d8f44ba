"""Which host runs how many instances of a component: the classic manager's arithmetic of spreads. Pure.

The classic manager puts all instances of a spread on one host. Where ``evenly`` is said they are divided over the
hosts that fit, in the order in which the hosts are given.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lattice.inventory import Inventory
from wasmhost.apps.application import Scaler, Spread

ANYWHERE = "default"
"""The name under which instances of a scaler without spreads are known."""


@dataclass(frozen=True, slots=True)
class Share:
    """So many instances of a component on one host, for one spread."""

    host_id: str
    spread: str
    count: int


def eligible(spread: Spread, hosts: Sequence[Inventory], *, as_given: bool = False) -> list[Inventory]:
    """The hosts whose labels hold every requirement, in the order of their ids or ``as_given``."""
    fitting = [host for host in hosts if spread.requirements.items() <= host.labels.items()]
    return fitting if as_given else sorted(fitting, key=lambda host: host.host_id)


def spreads(scaler: Scaler) -> tuple[Spread, ...]:
    """The scaler's spreads; one that fits every host if it names none."""
    return scaler.spread or (Spread(ANYWHERE, {}),)


def divide(scaler: Scaler) -> list[tuple[Spread, int]]:
    """How many of a spreadscaler's instances each spread gets.

    Heavier spreads come first; each gets its part rounded down, and what is left is dealt out one by one from the
    front.
    """
    ordered = sorted(spreads(scaler), key=lambda spread: -spread.weight)
    total = sum(spread.weight for spread in ordered)
    counts = [scaler.instances * spread.weight // total if total else 0 for spread in ordered]
    for index in range(scaler.instances - sum(counts)):
        counts[index % len(counts)] += 1
    return list(zip(ordered, counts, strict=True))


def place_actor(scaler: Scaler, hosts: Sequence[Inventory], *, evenly: bool = False) -> list[Share]:
    """Where an actor runs: each spread on one host, the first that fits; a daemonscaler's on every one that fits.

    ``evenly``: a spread's instances divided over all hosts that fit; the first ones get what does not divide.
    """
    if scaler.kind == "daemonscaler":
        return [
            Share(host.host_id, spread.name, scaler.instances)
            for spread in spreads(scaler)
            for host in eligible(spread, hosts)
        ]
    if evenly:
        return [
            Share(host.host_id, spread.name, share)
            for spread, count in divide(scaler)
            for host, share in _dealt(count, eligible(spread, hosts, as_given=True))
            if share
        ]
    return [
        Share(fitting[0].host_id, spread.name, count)
        for spread, count in divide(scaler)
        if (fitting := eligible(spread, hosts))
    ]


def _dealt(count: int, hosts: Sequence[Inventory]) -> list[tuple[Inventory, int]]:
    """``count`` divided over ``hosts``."""
    return [(host, count // len(hosts) + (index < count % len(hosts))) for index, host in enumerate(hosts)]


def place_provider(scaler: Scaler, hosts: Sequence[Inventory], *, evenly: bool = False) -> list[Share]:
    """Where a provider runs: at most once per host, on as many hosts as the scaler wants and as fit."""
    shares: dict[str, Share] = {}
    daemon = scaler.kind == "daemonscaler"
    for spread, count in [(spread, scaler.instances) for spread in spreads(scaler)] if daemon else divide(scaler):
        free = [host.host_id for host in eligible(spread, hosts, as_given=evenly) if host.host_id not in shares]
        for host_id in free[: len(free) if daemon and count else count]:
            shares[host_id] = Share(host_id, spread.name, 1)
    return list(shares.values())


def unplaceable(scaler: Scaler, hosts: Sequence[Inventory]) -> list[Spread]:
    """The spreads that want instances and that no host fits."""
    wants: Mapping[str, int] = {spread.name: count for spread, count in divide(scaler)}
    daemon = scaler.kind == "daemonscaler"
    return [
        spread
        for spread in spreads(scaler)
        if (scaler.instances if daemon else wants[spread.name]) and not eligible(spread, hosts)
    ]
