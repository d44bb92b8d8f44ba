"""``wasmcloud:testing``: actors and providers that test themselves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from lattice.contracts.structures import Structure

CONTRACT: Final = "wasmcloud:testing"
START: Final = "Testing.Start"


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOptions(Structure):
    patterns: tuple[str, ...] = ()
    """Regular expressions of the names of tests to run."""
    options: Mapping[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TestResult(Structure):
    """One of the list that ``Testing.Start`` answers."""

    name: str = ""
    passed: bool = False
    snap_data: bytes | None = None
