"""The header block: what is written can be read, and nothing that arrives can break the reader."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import headers
from lattice.errors import MalformedMessage
from lattice.server_errors import Violation, ends_connection
from lattice.transport import Headers

NAMES = st.text(string.ascii_letters + string.digits + "!#$%&'*+-.^_`|~", min_size=1)
VALUES = st.text(st.characters(codec="utf-8", exclude_characters="\r\n")).map(str.strip)


@given(st.dictionaries(NAMES, VALUES, min_size=1))
def test_reading_reverses_writing(written: dict[str, str]) -> None:
    assert headers.parse(headers.encode(written)) == written


@given(st.binary() | st.binary().map(lambda data: b"NATS/1.0" + data))
def test_any_block_can_be_read(block: bytes) -> None:
    headers.parse(block)


@given(st.dictionaries(st.text(), st.text(), min_size=1))
def test_nothing_written_holds_a_line_of_its_own(written: dict[str, str]) -> None:
    try:
        block = headers.encode(written)
    except MalformedMessage:
        return
    assert block.count(b"\r\n") == len(written) + 2
    assert block.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("block", "read"),
    [
        (b"NATS/1.0\r\n\r\n", None),
        (b"NATS/1.0 503\r\nNats-Subject: a.b\r\n\r\n", {"Status": "503", "Nats-Subject": "a.b"}),
        (b"NATS/1.0 404 Message Not Found\r\n\r\n", {"Status": "404", "Description": "Message Not Found"}),
        (b"NATS/1.0\r\nA: 1\r\nA: 2\r\nEmpty:\r\n\r\n", {"A": "2", "Empty": ""}),
    ],
)
def test_blocks_of_the_server(block: bytes, read: Headers) -> None:
    assert headers.parse(block) == read


def test_no_headers_need_no_block() -> None:
    assert headers.encode(None) == headers.encode({}) == b""


@pytest.mark.parametrize(
    ("text", "violation"),
    [
        ('permissions violation for publish to "a.b"', Violation("publish", "a.b")),
        ('permissions violation for subscription to "a.>"', Violation("subscription", "a.>")),
        ('permissions violation for subscription to "a" using queue "q"', Violation("subscription", "a", "q")),
        ("authorization violation", None),
    ],
)
def test_error_lines_say_what_they_refuse(text: str, violation: Violation | None) -> None:
    assert Violation.parse(text) == violation
    assert ends_connection(text) == (violation is None)


def test_a_violation_concerns_its_subject_in_any_case() -> None:
    assert Violation("publish", "a.b").concerns("A.B")
    assert not Violation("subscription", "a", "q").concerns("a", "other")
    assert Violation("subscription", "a").concerns("a", "any")
