"""Where the hosts of a lattice stand in a change of cluster keys, and what is left to do. Decisions only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from lattice.clustercontrol import ClusterView

SHOWN = 13


@dataclass(frozen=True, slots=True)
class Member:
    """One host with its keys."""

    name: str
    view: ClusterView

    def accepts(self, key: str) -> bool:
        return key in self.view.accepted

    def holds(self, key: str) -> bool:
        """Whether it holds the seed, hence knows what is derived from it; hosts of other makes derive nothing."""
        return self.view.held is None or key in self.view.held


def short(key: str) -> str:
    """The beginning of a key, as tables show it."""
    return key[: SHOWN - 1] + "…"


def todo(members: Sequence[Member]) -> list[str]:
    """What an operator should do next, in the order in which it should be done; empty when all hosts agree."""
    found: list[str] = []
    for cluster in clusters(members):
        found += _todo_in(cluster)
    for member in members:
        deaf = [
            other.name
            for other in members
            if not other.accepts(member.view.signing) and member.accepts(other.view.signing)
        ]
        if deaf:
            found.insert(
                0,
                f"{_names(deaf)} refuse{_s(deaf)} the calls of {member.name}, which signs with "
                f"{short(member.view.signing)}: --add it there",
            )
    return found


def _todo_in(cluster: Sequence[Member]) -> Iterator[str]:
    keys = sorted({key for member in cluster for key in member.view.accepted})
    signing = {member.view.signing for member in cluster}
    for key in keys:
        lacking = [member.name for member in cluster if not member.accepts(key)]
        having = [member.name for member in cluster if member.accepts(key)]
        if lacking and key not in signing:
            gone = [member.name for member in cluster if key in member.view.removed]
            if gone:
                yield f"{short(key)} is removed from {_names(gone)}: --remove it from {_names(having)}, too"
            else:
                yield f"{short(key)} is accepted by {_names(having)}: --add it on {_names(lacking)}, too"
        seedless = [member.name for member in cluster if member.accepts(key) and not member.holds(key)]
        if seedless and any(member.view.held and key in member.view.held for member in cluster):
            yield (
                f"{_names(seedless)} accept{_s(seedless)} {short(key)} without its seed, and does not know the "
                "providers of hosts that use it: carry the seed file there and --add it again"
            )
    if len(signing) > 1:
        each = "; ".join(
            f"{_names([member.name for member in cluster if member.view.signing == key])} with {short(key)}"
            for key in sorted(signing)
        )
        yield f"hosts of one cluster sign with different keys ({each}): --use the new one on the others, too"
        return
    idle = [key for key in keys if key not in signing and all(m.accepts(key) and m.holds(key) for m in cluster)]
    for key in idle:
        yield f"nobody signs with {short(key)}, which is accepted: --use it on every host, or --remove it everywhere"


def clusters(members: Sequence[Member]) -> list[list[Member]]:
    """The hosts in groups that share seeds: those of one operator's cluster, whatever else they accept."""
    groups: list[tuple[set[str], list[Member]]] = []
    for member in members:
        keys = {member.view.signing, *(member.view.held or ())}
        joined = [group for group in groups if group[0] & keys]
        groups = [group for group in groups if not group[0] & keys]
        groups.append(
            (
                keys.union(*(group[0] for group in joined)),
                [*(each for group in joined for each in group[1]), member],
            )
        )
    return [group[1] for group in groups]


def objections_to_use(key: str, host: Member, others: Sequence[Member]) -> list[str]:
    """Why calls would be refused if ``host`` signed with ``key`` now."""
    before = host.view.signing
    deaf = [other.name for other in others if other.accepts(before) and not other.accepts(key)]
    seedless = [
        other.name
        for other in others
        if other.accepts(key) and not other.holds(key) and other.view.held and before in other.view.held
    ]
    found = []
    if deaf:
        found.append(f"{_names(deaf)} do{_es(deaf)} not accept {short(key)} yet")
    if seedless:
        found.append(f"{_names(seedless)} do{_es(seedless)} not hold the seed of {short(key)}")
    return found


def objections_to_remove(key: str, others: Sequence[Member]) -> list[str]:
    """Whose calls would be refused if a host stopped accepting ``key`` now."""
    signing = [other.name for other in others if other.view.signing == key]
    return [f"{_names(signing)} still sign{_s(signing)} with {short(key)}"] if signing else []


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _s(names: Sequence[str]) -> str:
    return "s" if len(names) == 1 else ""


def _es(names: Sequence[str]) -> str:
    return "es" if len(names) == 1 else ""
