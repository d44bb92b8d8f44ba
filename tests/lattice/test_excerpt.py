"""The beginning of a payload, decoded as far as it goes."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given

from lattice import wire
from lattice.excerpt import MOST_DEPTH, MOST_ITEMS, excerpt
from tests.support.strategies import msgpack_junk, msgpack_values


def packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


REQUEST = {"method": "POST", "header": {"a": ["b", "c"]}, "queryString": "", "body": b"0123456789" * 30_000}


def test_what_arrived_is_there_and_the_last_blob_as_far_as_it_goes() -> None:
    data = packed(REQUEST)
    begins = data.index(b"0123456789")
    assert excerpt(data[: begins + 25]) == REQUEST | {"body": b"0123456789012345678901234"}
    assert excerpt(packed(REQUEST)[:21]) == {"method": "POST", "header": {}}


@pytest.mark.parametrize("cut", [1, 2])
def test_a_character_that_was_cut_is_left_out(cut: int) -> None:
    assert excerpt(packed({"text": "ž€"})[:-cut]) == {"text": "ž"}
    assert excerpt(packed({"blob": "ž€".encode()})[:-cut]) == {"blob": "ž".encode()}
    assert excerpt(packed({"blob": b"\xff\xfe\xfd\xfc"})[:-cut]) == {"blob": b"\xff\xfe\xfd\xfc"[:-cut]}


def test_what_is_not_the_beginning_of_a_container_is_not_told() -> None:
    for data in (b"", b"\xa3ab", b"\x01", b"\xc4\xff", b"\x90", b"\x81", b"\xc1", packed(b"x" * 300)[:20]):
        with pytest.raises(ValueError, match="not the beginning"):
            excerpt(data)


def test_no_more_than_a_person_reads_is_decoded() -> None:
    value = excerpt(packed(list(range(MOST_ITEMS * 3))))
    assert isinstance(value, list) and len(value) == MOST_ITEMS
    assert repr(excerpt(b"\x91" * 100_000)) == "[" * MOST_DEPTH + "]" * MOST_DEPTH


def plain(value: Any) -> str:
    return repr(value)


@given(msgpack_values())
def test_a_whole_value_is_what_any_reader_makes_of_it(value: Any) -> None:
    data = packed(value)
    with suppress(ValueError):
        assert plain(excerpt(data)) == plain(wire.unpack_value(data))


@given(msgpack_junk("body", "header"))
def test_any_bytes_have_an_excerpt_or_none(data: bytes) -> None:
    for end in {len(data), len(data) // 2, max(0, len(data) - 1)}:
        with suppress(ValueError):
            excerpt(data[:end])
