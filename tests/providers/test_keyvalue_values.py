"""What key-value operations do to one value, without a server."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.contracts.keyvalue import I32_MAX, I32_MIN
from lattice.errors import LatticeError, MalformedMessage
from providers.keyvalue import values
from providers.keyvalue.jetstream import keys
from providers.keyvalue.store import NotACounter
from providers.keyvalue.values import Value, WrongKind

texts = st.text(st.characters(exclude_categories=["Cs"]))
contents = st.one_of(texts, st.lists(texts, min_size=1).map(tuple), st.frozensets(texts, min_size=1))


@given(st.builds(Value, contents, st.integers(0, 2**53)))
def test_decode_reverses_encode(value: Value) -> None:
    assert Value.decode(value.encode()) == value


@given(st.binary())
def test_garbage_in_the_bucket_is_malformed_and_nothing_worse(data: bytes) -> None:
    with contextlib.suppress(MalformedMessage):
        Value.decode(data)


def test_increment_creates_adds_and_keeps_the_expiry() -> None:
    assert values.increment(None, "k", 5) == (Value("5"), 5)
    assert values.increment(Value("5", 99), "k", -7) == (Value("-2", 99), -2)


@pytest.mark.parametrize("held", ["", "x", "1.5", " 1", "1_0", "--1", "٣", "9" * 30])
def test_a_text_that_is_no_integer_is_no_counter(held: str) -> None:
    with pytest.raises(NotACounter, match="not an integer"):
        values.increment(Value(held), "k", 1)


@pytest.mark.parametrize(("held", "amount"), [(I32_MAX, 1), (I32_MIN, -1), (I32_MAX + 1, 0), (1, I32_MAX)])
def test_an_increment_beyond_32_bits_is_refused(held: int, amount: int) -> None:
    with pytest.raises(NotACounter, match="32-bit"):
        values.increment(Value(str(held)), "k", amount)


def test_the_bounds_themselves_are_reached() -> None:
    assert values.increment(Value(str(I32_MAX - 1)), "k", 1)[1] == I32_MAX
    assert values.increment(Value(str(I32_MIN + 1)), "k", -1)[1] == I32_MIN


def test_lists_append_remove_the_first_and_vanish_when_empty() -> None:
    one, length = values.list_add(None, "l", "a")
    assert (one, length) == (Value(("a",)), 1)
    assert values.list_del(Value(("a", "b", "a")), "l", "a") == (Value(("b", "a")), True)
    assert values.list_del(Value(("a",)), "l", "a") == (None, True)
    unchanged = Value(("a",))
    assert values.list_del(unchanged, "l", "z") == (unchanged, False)
    assert values.list_clear(Value(("a",)), "l") == (None, True)
    assert values.list_clear(None, "l") == (None, False)


@given(st.lists(texts, max_size=6), st.integers(-9, 9), st.integers(-9, 9))
def test_ranges_are_inclusive_and_negative_from_the_end(items: list[str], start: int, stop: int) -> None:
    size = len(items)
    first, last = (start + size if start < 0 else start), (stop + size if stop < 0 else stop)
    expected = [item for at, item in enumerate(items) if first <= at <= last]
    stored = Value(tuple(items)) if items else None
    assert list(values.list_range(stored, "l", start, stop)) == expected


def test_sets_count_what_changed_and_vanish_when_empty() -> None:
    assert values.set_add(None, "s", "a") == (Value(frozenset("a")), 1)
    same = Value(frozenset("a"))
    assert values.set_add(same, "s", "a")[0] is same
    assert values.set_del(same, "s", "a") == (None, 1)
    assert values.set_del(None, "s", "a") == (None, 0)
    assert values.set_clear(same, "s") == (None, True)


@pytest.mark.parametrize(
    ("stored", "operation", "told"),
    [
        (Value(("a",)), lambda held: values.text(held, "k"), "key 'k' holds a list, not text"),
        (Value("a"), lambda held: values.list_add(held, "k", "x"), "key 'k' holds text, not a list"),
        (Value(("a",)), lambda held: values.set_add(held, "k", "x"), "key 'k' holds a list, not a set"),
        (Value(frozenset("a")), lambda held: values.increment(held, "k", 1), "key 'k' holds a set, not text"),
    ],
)
def test_another_kind_of_value_is_named(stored: Value, operation, told: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(WrongKind, match=told):
        operation(stored)


def test_expiry_is_in_seconds_from_now_and_zero_is_never() -> None:
    assert values.set_text("v", 0, 1000.0) == Value("v", 0)
    limited = values.set_text("v", 2, 1000.5)
    assert not limited.ended(1002.4)
    assert limited.ended(1002.5)


@given(texts)
def test_keys_survive_the_bucket_and_fit_its_alphabet(key: str) -> None:
    stored = keys.encode(key)
    assert keys.decode(stored) == key
    assert stored
    assert set(stored) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=")


def test_a_key_that_does_not_fit_a_subject_is_refused() -> None:
    assert keys.encode("k" * keys.LONGEST)
    with pytest.raises(LatticeError, match="too long"):
        keys.encode("k" * (keys.LONGEST + 1))
