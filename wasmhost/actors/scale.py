"""How many instances of one actor are wanted, per annotation set: pure bookkeeping of start, stop and scale.

Each set of annotations has a count of its own, as on the classic Rust hosts since 0.80; an entry of the inventory and a
start or stop event exist per wanted instance, as on the classic Elixir hosts, since managers of both kinds read them.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

Annotations = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Change:
    """What one command did to one annotation set; exactly one of the two lists is filled."""

    annotations: Annotations
    started: tuple[str, ...] = ()
    """Ids of instances that are wanted now and were not before."""
    stopped: tuple[str, ...] = ()
    remaining: int = 0
    """Instances of the actor, over all sets, when this change is done."""


@dataclass(slots=True)
class _Set:
    annotations: dict[str, str]
    instances: list[str] = field(default_factory=list)


class Scale:
    """The wanted instances of one actor."""

    def __init__(self) -> None:
        self._sets: dict[frozenset[tuple[str, str]], _Set] = {}

    @property
    def total(self) -> int:
        return sum(len(each.instances) for each in self._sets.values())

    def instances(self) -> Iterator[tuple[str, Annotations]]:
        """(instance id, annotations) of every wanted instance."""
        for each in self._sets.values():
            for instance in each.instances:
                yield instance, each.annotations

    def sets(self) -> Iterator[tuple[str, Annotations, int]]:
        """(id of one instance, annotations, number of instances) of every annotation set."""
        for each in self._sets.values():
            yield each.instances[0], each.annotations, len(each.instances)

    def annotation_sets(self) -> list[Annotations]:
        return [each.annotations for each in self._sets.values()]

    def count(self, annotations: Annotations) -> int:
        """Instances of exactly this set."""
        found = self._sets.get(frozenset(annotations.items()))
        return len(found.instances) if found else 0

    def set(self, annotations: Annotations, count: int) -> Change | None:
        """Want ``count`` instances with exactly these annotations; None when that is so already."""
        key = frozenset(annotations.items())
        instances = self._sets[key].instances if key in self._sets else []
        difference = count - len(instances)
        if difference == 0:
            return None
        if difference > 0:
            new = [str(uuid.uuid4()) for _ in range(difference)]
            self._sets.setdefault(key, _Set(dict(annotations))).instances.extend(new)
            return Change(dict(annotations), started=tuple(new), remaining=self.total)
        gone = instances[count:]
        del instances[count:]
        if not instances:
            del self._sets[key]
        return Change(dict(annotations), stopped=tuple(gone), remaining=self.total)

    def add(self, annotations: Annotations, count: int) -> Change | None:
        """Want ``count`` more with exactly these annotations."""
        return self.set(annotations, self.count(annotations) + count)

    def renew(self) -> list[tuple[Change, Change]]:
        """Replace every instance by a new one; per annotation set, what started and what stopped with that."""
        changes = []
        for each in self._sets.values():
            old = tuple(each.instances)
            each.instances[:] = [str(uuid.uuid4()) for _ in old]
            started = Change(dict(each.annotations), started=tuple(each.instances), remaining=self.total)
            changes.append((started, Change(dict(each.annotations), stopped=old, remaining=self.total)))
        return changes

    def matches(self, annotations: Annotations) -> bool:
        """Whether any instance carries at least these annotations."""
        return any(self._contains(each, annotations) for each in self._sets.values())

    def remove(self, annotations: Annotations, count: int | None = None) -> list[Change]:
        """Stop wanting ``count`` (None: all) of the instances that carry at least these annotations."""
        changes = []
        left = count
        for each in [each for each in self._sets.values() if self._contains(each, annotations)]:
            gone = len(each.instances) if left is None else min(left, len(each.instances))
            change = self.set(each.annotations, len(each.instances) - gone)
            if change is not None:
                changes.append(change)
            if left is not None:
                left -= gone
        return changes

    @staticmethod
    def _contains(each: _Set, annotations: Annotations) -> bool:
        return annotations.items() <= each.annotations.items()
