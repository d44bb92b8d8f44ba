"""Decisions of a policy service, remembered for a while: bookkeeping without any waiting.

Classic hosts keep a decision until it is overridden; here it also ages, and the book is bounded.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

CAPACITY: Final = 20_000
"""Decisions that one book keeps; the oldest leaves."""
_RENEW_AT: Final = 0.75
"""Part of its life after which a decision that is used is asked for again."""


@dataclass(slots=True)
class Decision:
    """One answer of the service. ``made`` is the time of the book's clock, in seconds."""

    request_id: str
    permitted: bool
    message: str
    made: float


class DecisionBook(Generic[K]):
    """What the service said of each ``K``, and under which request it said it."""

    def __init__(self, lifetime: float, capacity: int = CAPACITY) -> None:
        """A decision older than ``lifetime`` seconds counts no more."""
        self._lifetime = lifetime
        self._capacity = capacity
        self._decisions: dict[K, Decision] = {}
        self._asked: dict[str, K] = {}

    def __len__(self) -> int:
        return len(self._decisions)

    def find(self, key: K, now: float) -> Decision | None:
        """The decision that counts now."""
        found = self._decisions.get(key)
        return found if found is not None and now - found.made < self._lifetime else None

    def is_ageing(self, decision: Decision, now: float) -> bool:
        """Whether it is time to ask again, so that nobody has to wait for that later."""
        return now - decision.made > self._lifetime * _RENEW_AT

    def note(self, key: K, decision: Decision) -> None:
        """Remember what the service answered."""
        self._decisions.pop(key, None)
        self._decisions[key] = decision
        self._asked[decision.request_id] = key
        if len(self._decisions) > self._capacity:
            del self._decisions[next(iter(self._decisions))]
        # ids outlive their decision, so that one which was asked for again can still be overridden by its first id
        if len(self._asked) > 2 * self._capacity:
            del self._asked[next(iter(self._asked))]

    def override(self, request_id: str, *, permitted: bool, message: str, now: float) -> K | None:
        """Replace the decision of a request; what it was about, None when this book never asked it."""
        key = self._asked.get(request_id)
        if key is not None:
            self.note(key, Decision(request_id, permitted, message, now))
        return key
