"""What an actor that tests itself answers: ``wasmhost call --test``.

The answer is a list of ``{name, passed, snapData?}``, as maps or by position; ``snapData`` are bytes that explain a
result. Source: contract ``wasmcloud:testing``, as the classic command line reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from lattice.errors import MalformedMessage
from wasmhost.cli.output import Output, printable


@dataclass(frozen=True, slots=True)
class TestResult:
    """One test."""

    __test__ = False  # for pytest, which collects by name

    name: str
    passed: bool
    detail: str = ""

    @classmethod
    def read(cls, value: object) -> Self:
        """One element of the list. Raises MalformedMessage."""
        match value:
            case {"name": str(name), "passed": bool(passed), **members}:
                return cls(name, passed, _text(members.get("snapData", members.get("snap_data"))))
            case [str(name), bool(passed)]:
                return cls(name, passed)
            case [str(name), bool(passed), detail]:
                return cls(name, passed, _text(detail))
        raise MalformedMessage("test results: an element is no {name, passed}")


def read_results(value: object) -> list[TestResult]:
    """The unpacked answer. Raises MalformedMessage."""
    if not isinstance(value, list):
        raise MalformedMessage("test results: they are not a list")
    return [TestResult.read(element) for element in value]


def document(results: Sequence[TestResult]) -> dict[str, Any]:
    """Results as ``-o json`` shows them."""
    failed = sum(not result.passed for result in results)
    return {
        "passed": len(results) - failed,
        "failed": failed,
        "tests": [
            {"name": result.name, "passed": result.passed, "detail": result.detail or None} for result in results
        ],
    }


def show(output: Output, results: Sequence[TestResult]) -> None:
    """One line per test, and below it what explains the result."""
    for result in results:
        output.text(f"{'pass' if result.passed else 'FAIL'}  {printable(result.name)}")
        for line in result.detail.splitlines():
            output.text(f"      {printable(line)}")
    failed = sum(not result.passed for result in results)
    output.say(f"{len(results) - failed} passed, {failed} failed")


def _text(value: object) -> str:
    if isinstance(value, list) and all(isinstance(item, int) and 0 <= item < 256 for item in value):
        value = bytes(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    return value if isinstance(value, str) else ""
