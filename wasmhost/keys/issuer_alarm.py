"""The alarm for calls whose issuer and origin disagree: a key that is known here signed for somebody else's origin.

A stranger's key is a mistake more often than an attack, and is only refused. A key that stands for one provider and
signs for another, or one that was revoked or removed, was stolen or is used by what should have stopped.
"""

from __future__ import annotations

import time
from typing import Final

import structlog

from lattice import events
from lattice.events import Publish
from lattice.verify import IssuerRefused
from wasmhost.budget import Budget

log = structlog.get_logger(__name__)

SETTLE: Final = 3.0
"""Seconds after a change of keys without alarms: calls are on their way that were signed a moment before it."""
_TOLD: Final = (0.2, 5)
"""Alarms that are told one by one: per second in the long run, and at once. All are counted."""


class IssuerAlarm:
    """Counts, logs and publishes."""

    def __init__(self, publish_event: Publish) -> None:
        self.count = 0
        """Such calls since the host started."""
        self._publish = publish_event
        self._quiet_until = 0.0
        self._budget = Budget(per_second=_TOLD[0], burst=_TOLD[1])

    def keys_changed(self) -> None:
        """Keys were removed or revoked just now."""
        self._quiet_until = time.monotonic() + SETTLE

    def note(self, refusal: IssuerRefused, actor: str) -> None:
        """A call of ``actor`` was refused for its issuer."""
        if not refusal.known or time.monotonic() < self._quiet_until:
            return
        self.count += 1
        if not self._budget.take():
            return
        origin = refusal.origin.public_key[:60]
        log.error(
            "security.issuer_mismatch",
            issuer=refusal.issuer[:60],
            origin=origin,
            actor=actor,
            reason=str(refusal),
            count=self.count,
        )
        self._publish(
            *events.issuer_mismatch(
                issuer=refusal.issuer[:60], origin=origin, public_key=actor, reason=str(refusal), count=self.count
            )
        )
