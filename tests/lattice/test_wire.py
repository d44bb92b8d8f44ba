"""Reading msgpack: typed, tolerant where peers differ, and with one exception."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lattice import wire
from lattice.errors import MalformedMessage
from lattice.wire import Fields
from tests.support.strategies import msgpack_junk, msgpack_values


def packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


def test_members_are_found_under_text_and_binary_keys() -> None:
    assert Fields.unpack("x", packed({"name": "a"})).text("name") == "a"
    assert Fields.unpack("x", packed({b"name": b"a"})).text("name") == "a"


def test_a_nil_member_counts_as_absent_and_unknown_members_are_ignored() -> None:
    fields = Fields.unpack("x", packed({"a": None, "other": [1]}))
    assert fields.text("a", "default") == "default"
    assert fields.octets("a") == b""
    assert fields.optional_text("a") is None
    assert fields.optional_count("a") is None
    assert fields.mapping("a") == {}
    assert fields.texts("a") == ()
    assert "a" not in fields


def test_bytes_arrive_as_bin_as_text_or_as_an_array_of_small_integers() -> None:
    for sent in (b"\xff\x00", [255, 0]):
        assert Fields.unpack("x", packed({"msg": sent})).octets("msg") == b"\xff\x00"
    not_utf8_text = b"\x81\xa3msg\xa2\xff\x00"  # Elixir hosts send bytes as a string
    assert Fields.unpack("x", not_utf8_text).octets("msg") == b"\xff\x00"
    assert Fields.unpack("x", packed({"msg": []})).octets("msg") == b""


@pytest.mark.parametrize(
    ("value", "read", "message"),
    [
        (1.5, "octets", "thing: it is a float, not bytes"),
        ([256], "octets", "thing: it is an array that holds something else than bytes"),
        ([True], "octets", "thing: it is an array that holds something else than bytes"),
        (1, "text", "thing: it is an integer, not text"),
        (b"\xff", "text", "thing: it is not UTF-8 text"),
        (-1, "count", "thing: it is -1, which is not between 0 and 18446744073709551615"),
        (True, "count", "thing: it is a boolean, not an integer"),
        ("x", "mapping", "thing: it is text or bytes, not a map"),
        ({"a": 1}, "mapping", "thing: it.a is an integer, not text"),
        ({}, "texts", "thing: it is a map, not a list of texts"),
        (1, "flag", "thing: it is an integer, not a boolean"),
        ("", "required_text", "thing: it is missing"),
    ],
)
def test_errors_name_the_message_the_member_and_what_it_is(value: object, read: str, message: str) -> None:
    fields = Fields.unpack("thing", packed({"it": value}))
    with pytest.raises(MalformedMessage) as caught:
        getattr(fields, read)("it")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it is empty"),
        (b"\x81", "cut short"),
        (b"\xc1", "reserved"),
        (b"\x01\x02", "bytes follow"),
        (b"\x81\x90\x01", "map key"),
        (b"\x91" * 2000, "nested too deeply"),
        (b"\xdd\x7f\xff\xff\xff", "too large"),
    ],
)
def test_what_is_not_msgpack_is_refused_with_the_reason(data: bytes, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=reason):
        Fields.unpack("thing", data)


def test_nested_announcements_of_huge_arrays_do_not_take_their_memory() -> None:
    with pytest.raises(MalformedMessage):
        wire.unpack_raw("x", b"\xdd\x00\x10\x00\x00" * 1000 + b"\0" * 1_100_000)


def test_a_format_prefix_chooses_between_msgpack_and_cbor() -> None:
    assert wire.read_text("key", b"\xc1\xa1k") == "k"
    assert wire.read_text("key", b"\x7f\x61k") == "k"
    assert wire.unpack_value(b"\x7f\x82\x61k\x41k") == ["k", b"k"]
    with pytest.raises(MalformedMessage, match="key: not CBOR: it is cut short"):
        wire.read_text("key", b"\x7f\x62k")
    assert wire.read_integer("n", b"\x7f", 0, 200) == 127  # a single byte is always msgpack


def test_integers_outside_their_declared_width_are_refused() -> None:
    assert wire.read_integer("n", packed(2**31 - 1), -(2**31), 2**31 - 1) == 2**31 - 1
    with pytest.raises(MalformedMessage, match="not between"):
        wire.read_integer("n", packed(2**31), -(2**31), 2**31 - 1)


def test_plain_values_keep_text_and_blobs_apart() -> None:
    value = {"a": "text", "b": b"blob", "c": [1, None, {"d": True}]}
    assert wire.unpack_value(wire.pack(value)) == value
    assert wire.unpack_value(b"") is None
    assert wire.unpack_value(b"\xa2\xff\x00") == b"\xff\x00"


def plain(value: Any) -> Any:
    """What comes back: NaN differs from itself, and -0.0 and 0 are one map key."""
    return repr(value)


@given(msgpack_values())
def test_unpack_value_reverses_pack(value: Any) -> None:
    assert plain(wire.unpack_value(wire.pack(value))) == plain(value)


@given(st.text())
def test_hand_made_text_is_what_the_packer_makes(text: str) -> None:
    assert wire.packed_text(text) == wire.pack(text)


@given(st.sampled_from([0, 31, 32, 255, 256, 65_535, 65_536, 70_000]))
def test_hand_made_heads_are_what_the_packer_makes(size: int) -> None:
    assert wire.packed_text("x" * size) == wire.pack("x" * size)
    assert wire.packed_octets_head(size) + b"x" * size == wire.pack(b"x" * size)


@given(st.integers(0, 2**64 - 1))
@example(127)
@example(128)
@example(2**32)
def test_hand_made_counts_are_what_the_packer_makes(value: int) -> None:
    assert wire.packed_count(value) == wire.pack(value)


@given(msgpack_junk("a", "b"))
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        wire.unpack_value(data)
    for read in ("text", "octets", "count", "optional_text", "mapping", "texts", "text_lists", "flag", "fields"):
        with suppress(MalformedMessage):
            getattr(Fields.unpack("junk", data), read)("a")
    for reader in (wire.read_text, wire.read_texts, wire.read_flag):
        with suppress(MalformedMessage):
            reader("junk", data)
    with suppress(MalformedMessage):
        wire.read_integer("junk", data, 0, 9)
