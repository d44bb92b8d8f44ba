"""Messages that come over two connections at once."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from lattice.overlap import Overlap


def handed_over(by_old: list[bytes], by_new: list[bytes], order: Random) -> Counter[bytes]:
    """What the handler gets when the two ways mix like that."""
    overlap = Overlap()
    got: Counter[bytes] = Counter()
    ways = [
        (overlap.old(1, lambda s, r, h, payload: got.update([payload])), list(by_old)),
        (overlap.new(1, lambda s, r, h, payload: got.update([payload])), list(by_new)),
    ]
    while ways:
        way = order.choice(ways)
        if way[1]:
            way[0]("s", "", None, way[1].pop(0))
        else:
            ways.remove(way)
    return got


@given(count=st.integers(0, 12), new_from=st.integers(0, 12), old_until=st.integers(0, 12), order=st.randoms())
def test_what_one_way_or_both_carry_is_handed_over_once(
    count: int, new_from: int, old_until: int, order: Random
) -> None:
    sent = [b"%d" % number for number in range(count)]
    old_until = max(old_until, new_from)
    assert handed_over(sent[:old_until], sent[new_from:], order) == Counter(sent)


@given(sent=st.lists(st.sampled_from([b"a", b"b"]), max_size=12), order=st.randoms())
def test_equal_messages_that_both_ways_carry_are_handed_over_as_often_as_they_were_sent(
    sent: list[bytes], order: Random
) -> None:
    assert handed_over(sent, sent, order) == Counter(sent)


def test_messages_that_differ_in_anything_are_different() -> None:
    overlap = Overlap()
    got: list[tuple[object, ...]] = []
    old = overlap.old(1, lambda *message: got.append(message))
    new = overlap.new(1, lambda *message: got.append(message))
    old("s", "r", None, b"x")
    new("s", "r", {"a": "b"}, b"x")
    new("s", "r2", None, b"x")
    new("s2", "r", None, b"x")
    new("s", "r", None, b"x")
    assert len(got) == 4
