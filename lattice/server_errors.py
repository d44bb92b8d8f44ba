"""What an error line of a NATS server means. nats-py hands them over in lower case.

Seen on nats-server 2.15; the texts are in its ``server/errors.go`` and ``server/client.go``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from time import monotonic
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_VIOLATION = re.compile(r"permissions violation for (publish|subscription) to \"(.*?)\"(?: using queue \"(.*?)\")?")
_HARMLESS = ("permissions violation", "invalid subject", "invalid publish subject", "maximum subscriptions exceeded")

LOGGED_PER_WINDOW: Final = 20
"""Violations logged one by one within :data:`WINDOW` seconds; a peer can cause as many as it likes."""
WINDOW: Final = 10.0


@dataclass(frozen=True, slots=True)
class Violation:
    """The server did not permit something; subject and queue group are in lower case."""

    operation: str
    """``publish`` or ``subscription``."""
    subject: str
    queue: str = ""

    @classmethod
    def parse(cls, text: str) -> Violation | None:
        """What ``text`` complains of, or None when it is about something else."""
        found = _VIOLATION.search(text)
        return None if found is None else cls(found[1], found[2], found[3] or "")

    def concerns(self, subject: str, queue: str = "") -> bool:
        return subject.lower() == self.subject and (not self.queue or queue.lower() == self.queue)


def ends_connection(text: str) -> bool:
    """Whether the server closes the connection after this line."""
    return not text.startswith(_HARMLESS)


def refuses_user(text: str) -> bool:
    """Whether credentials are what the server objects to: wrong, expired or revoked."""
    lowered = text.lower()
    return "authori" in lowered or "authentication" in lowered


def is_subscription_limit(text: str) -> bool:
    return text.startswith("maximum subscriptions exceeded")


class ViolationLog:
    """Logs violations as security events, a bounded number per time."""

    def __init__(self) -> None:
        self._since = 0.0
        self._logged = 0
        self._left_out = 0
        self._ignored = ""

    def ignore(self, subject: str) -> None:
        """Say nothing of this subject, which is tried without knowing whether it is permitted."""
        self._ignored = subject

    def add(self, violation: Violation) -> bool:
        """Log it; False where it was left out."""
        if self._ignored and violation.concerns(self._ignored):
            return False
        now = monotonic()
        if now - self._since > WINDOW:
            self._since, self._logged = now, 0
        if self._logged >= LOGGED_PER_WINDOW:
            self._left_out += 1
            return False
        self._logged += 1
        left_out, self._left_out = self._left_out, 0
        log.warning(
            "security.permission_violation",
            operation=violation.operation,
            subject=violation.subject[:200],
            queue=violation.queue[:200],
            not_logged=left_out,
        )
        return True
