"""CBOR as contracts use it: the examples of its standard, and bytes that peers should never send."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import cbor
from lattice.errors import MalformedMessage
from tests.support.strategies import bent, msgpack_values

EXAMPLES: list[tuple[str, Any]] = [  # RFC 8949, appendix A: what is written in one way only
    ("00", 0),
    ("17", 23),
    ("1818", 24),
    ("1903e8", 1000),
    ("1a000f4240", 1000000),
    ("1bffffffffffffffff", 18446744073709551615),
    ("20", -1),
    ("3863", -100),
    ("3903e7", -1000),
    ("3bffffffffffffffff", -18446744073709551616),
    ("fb3ff199999999999a", 1.1),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("4401020304", b"\x01\x02\x03\x04"),
    ("6449455446", "IETF"),
    ("62c3bc", "ü"),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", list(range(1, 26))),
    ("a201020304", {1: 2, 3: 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
]
OTHER_SPELLINGS: list[tuple[str, Any]] = [
    ("f90000", 0.0),
    ("f93c00", 1.0),
    ("fa47c35000", 100000.0),
    ("f97c00", math.inf),
    ("f7", None),
    ("c074323031332d30332d32315432303a30343a30305a", "2013-03-21T20:04:00Z"),
    ("d74401020304", b"\x01\x02\x03\x04"),
    ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
    ("7f657374726561646d696e67ff", "streaming"),
    ("9fff", []),
    ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
    ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
    ("1b0000000000000001", 1),
    ("62fffe", b"\xff\xfe"),
]


@pytest.mark.parametrize(("encoded", "value"), EXAMPLES)
def test_examples_of_the_standard_are_written_and_read(encoded: str, value: Any) -> None:
    assert cbor.pack(value).hex() == encoded
    assert cbor.unpack("x", bytes.fromhex(encoded), raw=False) == value


@pytest.mark.parametrize(("encoded", "value"), OTHER_SPELLINGS)
def test_other_spellings_are_read(encoded: str, value: Any) -> None:
    assert cbor.unpack("x", bytes.fromhex(encoded), raw=False) == value


def test_raw_reading_leaves_text_and_keys_as_bytes() -> None:
    assert cbor.unpack("x", cbor.pack({"a": ["b", b"c"]}), raw=True) == {b"a": [b"b", b"c"]}


@pytest.mark.parametrize(
    ("encoded", "reason"),
    [
        ("", "it is empty"),
        ("18", "it is cut short"),
        ("6261", "it is cut short"),
        ("5b7fffffffffffffff", "it is cut short"),
        ("8201", "it is cut short"),
        ("0000", "bytes follow the value"),
        ("1c", "a reserved length"),
        ("1f", "a reserved length"),
        ("f0", "a simple value without a meaning"),
        ("ff", "a simple value without a meaning"),
        ("5f6161ff", "text inside bytes"),
        ("5f5f4161ffff", "bytes inside bytes"),
        ("a18000", "a map key is an array or a map"),
        ("9bffffffffffffffff", "too many items"),
        ("81" * 100_000 + "00", "nested too deeply"),
        ("c1" * 100_000 + "00", "nested too deeply"),
        ("9f" + "00" * (cbor.MAX_ITEMS + 1) + "ff", "too many items"),
    ],
)
def test_what_cannot_be_read_says_why(encoded: str, reason: str) -> None:
    with pytest.raises(MalformedMessage, match=f"^thing: not CBOR: {reason}$"):
        cbor.unpack("thing", bytes.fromhex(encoded), raw=True)


@given(msgpack_values())
def test_a_value_comes_back(value: Any) -> None:
    assert repr(cbor.unpack("x", cbor.pack(value), raw=False)) == repr(value)


@given(st.binary(max_size=200) | bent(msgpack_values().map(cbor.pack)), st.booleans())
def test_garbage_is_malformed_and_nothing_worse(data: bytes, raw: bool) -> None:
    with suppress(MalformedMessage):
        cbor.unpack("x", data, raw=raw)


def test_what_contracts_do_not_have_is_not_written() -> None:
    with pytest.raises(TypeError, match="cannot hold set"):
        cbor.pack({1, 2})
    with pytest.raises(OverflowError):
        cbor.pack(2**64)
