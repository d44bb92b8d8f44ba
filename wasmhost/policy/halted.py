"""What this host has stopped because it may not run any more, and why: kept so that nobody has to guess."""

from __future__ import annotations

import time
from typing import Final

from lattice import events
from lattice.claims import ActorClaims, ProviderClaims
from lattice.events import Publish
from lattice.inventory import HaltedDescription

MOST_KEPT: Final = 200
EXPIRED: Final = "expired"
REVOKED: Final = "revoked"
DENIED: Final = "denied"
"""The policy service took back what it had permitted."""


class HaltedBook:
    """One entry per actor, and per provider and link name, until it is started again."""

    def __init__(self, publish: Publish, host_id: str) -> None:
        self._publish = publish
        self._host_id = host_id
        self._entries: dict[tuple[str, str], HaltedDescription] = {}

    def note(
        self, claims: ActorClaims | ProviderClaims, *, reference: str, problem: str, error: str, link_name: str = ""
    ) -> None:
        """Remember and publish that it is stopped; ``problem`` is one of the words above."""
        key = claims.subject, link_name
        self._entries.pop(key, None)
        if len(self._entries) >= MOST_KEPT:
            del self._entries[next(iter(self._entries))]
        self._entries[key] = HaltedDescription(
            id=claims.subject,
            name=claims.name,
            image_ref=reference,
            link_name=link_name,
            state=problem,
            error=error,
            at=int(time.time()),
        )
        self._publish(
            *events.claims_refused(
                public_key=claims.subject, name=claims.name, host_id=self._host_id, problem=problem, error=error
            )
        )

    def forget(self, key: str, link_name: str = "") -> None:
        """It runs again."""
        self._entries.pop((key, link_name), None)

    def reason(self, key: str) -> str:
        """Why the actor was stopped; empty when it was not."""
        entry = self._entries.get((key, ""))
        return entry.error if entry is not None else ""

    def descriptions(self) -> tuple[HaltedDescription, ...]:
        """For the inventory."""
        return tuple(self._entries.values())
