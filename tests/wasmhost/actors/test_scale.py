"""How start, stop and scale add up."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from wasmhost.actors.scale import Scale

A, B = {"app": "a"}, {"app": "b"}


def test_each_annotation_set_has_a_count_of_its_own() -> None:
    scale = Scale()
    scale.set(A, 2)
    scale.set(B, 1)
    assert (scale.count(A), scale.count(B), scale.count({}), scale.total) == (2, 1, 0, 3)
    assert sorted(annotations["app"] for _, annotations in scale.instances()) == ["a", "a", "b"]


def test_a_change_names_the_instances_it_started_or_stopped() -> None:
    scale = Scale()
    up = scale.set(A, 3)
    assert up is not None and len(up.started) == 3 and not up.stopped and up.remaining == 3
    down = scale.set(A, 1)
    assert down is not None and set(down.stopped) < set(up.started) and down.remaining == 1
    assert scale.set(A, 1) is None


def test_stop_takes_every_set_that_contains_the_annotations() -> None:
    scale = Scale()
    scale.set({**A, "more": "x"}, 2)
    scale.set(A, 2)
    scale.set(B, 2)
    assert scale.matches(A) and not scale.matches({"app": "c"})
    changes = scale.remove(A, 3)
    assert sum(len(change.stopped) for change in changes) == 3
    assert scale.total == 3 and scale.count(B) == 2
    (rest,) = scale.remove(A)
    assert len(rest.stopped) == 1
    assert [len(change.stopped) for change in scale.remove({})] == [2] and scale.total == 0


annotation_sets = st.dictionaries(st.sampled_from("xy"), st.sampled_from("12"), max_size=2)


@given(st.lists(st.tuples(st.sampled_from(["set", "add", "remove"]), annotation_sets, st.integers(0, 5))))
def test_events_always_add_up_to_what_is_wanted(commands: list[tuple[str, dict[str, str], int]]) -> None:
    scale = Scale()
    alive: set[str] = set()
    for verb, wanted, count in commands:
        if verb == "remove":
            changes = scale.remove(wanted, count or None)
        else:
            change = scale.set(wanted, count) if verb == "set" else scale.add(wanted, count)
            changes = [change] if change else []
        for change in changes:
            assert bool(change.started) != bool(change.stopped)
            assert not alive & set(change.started) and set(change.stopped) <= alive
            alive = (alive | set(change.started)) - set(change.stopped)
            assert change.remaining == len(alive)
        assert alive == {instance for instance, _ in scale.instances()}
        if verb == "set":
            assert scale.count(wanted) == count
