"""The answer of an actor that tests itself."""

from __future__ import annotations

import io

import pytest

from lattice import cbor, wire
from lattice.errors import MalformedMessage
from wasmhost.cli.actor_tests import TestResult, document, read_results, show
from wasmhost.cli.output import Output


def test_results_are_read_as_maps_and_by_position() -> None:
    sent = [
        {"name": "a", "passed": True},
        {"name": "b", "passed": False, "snapData": b"1 != 2"},
        ["c", True, [104, 105]],
    ]
    answer = wire.unpack_value(wire.pack(sent))
    assert read_results(answer) == [
        TestResult("a", True),
        TestResult("b", False, "1 != 2"),
        TestResult("c", True, "hi"),
    ]


def test_the_cbor_in_which_actors_of_the_rust_generator_answer_is_read() -> None:
    answer = b"\x7f" + cbor.pack([["a", True, None], ["b", False, b"1 != 2"]])
    assert read_results(wire.unpack_value(answer)) == [TestResult("a", True), TestResult("b", False, "1 != 2")]


@pytest.mark.parametrize("answer", [None, {}, "text", [1], [{"name": "a"}], [["a", 1]], [["a", True, b"", 1]]])
def test_what_is_no_list_of_results_is_malformed(answer: object) -> None:
    with pytest.raises(MalformedMessage, match="test results"):
        read_results(answer)


def test_they_are_shown_one_per_line_and_counted() -> None:
    out, err = io.StringIO(), io.StringIO()
    results = [TestResult("adds", True), TestResult("divides\x1b", False, "by zero\nline 2")]
    show(Output(out=out, err=err), results)
    assert out.getvalue().splitlines() == ["pass  adds", r"FAIL  divides\x1b", "      by zero", "      line 2"]
    assert err.getvalue() == "1 passed, 1 failed\n"
    assert document(results)["failed"] == 1
