"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARN = "warn"
    """Something will not work, or not as it should, for somebody."""
    FAIL = "fail"
    """Nothing works until it is mended."""
    FIX = "fix"
    """Something is open to who should not have it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report."""

    level: Level
    check: str
    """What was looked at, in one or two words."""
    message: str
    fix: str = ""
    """What to do about it; empty when nothing has to be done."""

    def document(self) -> dict[str, Any]:
        """As ``-o json`` shows it."""
        return {"check": self.check, "level": str(self.level), "message": self.message, "fix": self.fix or None}


def ok(check: str, message: str, fix: str = "") -> Finding:
    return Finding(Level.OK, check, message, fix)


def warn(check: str, message: str, fix: str) -> Finding:
    return Finding(Level.WARN, check, message, fix)


def fail(check: str, message: str, fix: str) -> Finding:
    return Finding(Level.FAIL, check, message, fix)


def fix(check: str, message: str, how: str) -> Finding:
    return Finding(Level.FIX, check, message, how)
