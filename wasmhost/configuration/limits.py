"""What may be set about the limits of actors: by settings of a host, by annotations and manifests for one actor.

One table for all of them. The settings are called ``actor_<name>``, annotations ``wasmhost/limits.<name>``; the trait
``wasmhost`` of a manifest becomes such annotations, so that any lattice client can set them.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from lattice.errors import Code, LatticeError
from wasmhost.guest.calls import Limits

ANNOTATION = "wasmhost/limits."
"""Begins the annotations that set limits of the actor they start."""


class LimitError(LatticeError):
    """A limit that cannot be used; the sentence names it."""

    code = Code.INVALID


@dataclass(frozen=True, slots=True)
class Limit:
    """One limit as people write it: a whole number of some unit."""

    name: str
    field: str
    """The member of :class:`Limits`."""
    unit: float
    """What one of it is in bytes or seconds."""
    what: str
    """The unit in words."""
    least: int
    most: int
    example: int

    @property
    def setting(self) -> str:
        return f"actor_{self.name}"

    @property
    def default(self) -> int:
        value: float = getattr(Limits(), self.field)
        return round(value / self.unit)

    def problem(self, number: int) -> str | None:
        """What is wrong with a number; None if nothing is."""
        if self.least <= number <= self.most:
            return None
        return f"{number} is no number of {self.what} from {self.least} to {self.most}"

    def value(self, number: int) -> float:
        """The number in the unit of :class:`Limits`."""
        scaled = number * self.unit
        return scaled if self.field == "deadline" else int(scaled)


_KIB, _MIB = 1024.0, 1024.0 * 1024

LIMITS = (
    Limit("memory_mib", "memory", _MIB, "MiB", 1, 4096, 64),
    Limit("retained_memory_mib", "retain_memory", _MIB, "MiB", 1, 4096, 32),
    Limit("deadline_ms", "deadline", 0.001, "milliseconds", 1, 86_400_000, 10_000),
    Limit("request_kib", "request", _KIB, "KiB", 1, 1024 * 1024, 16_384),
    Limit("reply_kib", "reply", _KIB, "KiB", 1, 1024 * 1024, 16_384),
    Limit("queue_kib", "queue_bytes", _KIB, "KiB", 1, 4 * 1024 * 1024, 65_536),
    Limit("log_kib", "log_bytes_per_call", _KIB, "KiB", 0, 65_536, 64),
)

_BY_NAME = {limit.name: limit for limit in LIMITS}
NAMES = tuple(_BY_NAME)


def changed(limits: Limits, numbers: Mapping[str, int]) -> Limits:
    """``limits`` with some of them replaced. Raises LimitError with everything that is wrong."""
    problems: list[str] = []
    values: dict[str, Any] = {}
    for name, number in numbers.items():
        limit = _BY_NAME.get(name)
        if limit is None:
            near = difflib.get_close_matches(name, NAMES, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(NAMES)}"
            problems.append(f"no limit is called {name!r}; {hint}")
        elif problem := limit.problem(number):
            problems.append(f"{name}: {problem} (example: {limit.example})")
        else:
            values[limit.field] = limit.value(number)
    if problems:
        raise LimitError("; ".join(problems))
    new: Limits = replace(limits, **values)
    return replace(new, retain_memory=min(new.retain_memory, new.memory))


def to_annotations(numbers: Mapping[str, int]) -> dict[str, str]:
    """The annotations that set these limits."""
    return {f"{ANNOTATION}{name}": str(number) for name, number in numbers.items()}


def from_annotations(given: Mapping[str, str]) -> dict[str, int]:
    """The limits that annotations set, by name; names and ranges are not checked. Raises LimitError."""
    return parsed({key.removeprefix(ANNOTATION): text for key, text in given.items() if key.startswith(ANNOTATION)})


def parsed(texts: Mapping[str, str]) -> dict[str, int]:
    """Numbers from texts. Raises LimitError with every text that is no whole number."""
    problems = [f"{name}: {text!r} is no whole number" for name, text in texts.items() if not _is_number(text)]
    if problems:
        raise LimitError("; ".join(problems))
    return {name: int(text) for name, text in texts.items()}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 20
