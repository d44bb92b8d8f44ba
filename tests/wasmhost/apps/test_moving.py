"""What moves where: decisions from inventories alone."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from lattice.inventory import ActorDescription, InstanceDescription, Inventory, ProviderDescription
from wasmhost.apps.moving import (
    MARK,
    count_of,
    find_actor,
    homes_for_actor,
    homes_for_provider,
    lacking,
    no_home,
    parts,
    to_annotations,
)

Sets = Mapping[frozenset[tuple[str, str]], int]
PLAIN: frozenset[tuple[str, str]] = frozenset()
MANAGED = frozenset({("managed-by", "x")})


def actor(sets: Sets) -> ActorDescription | None:
    instances = [
        InstanceDescription(instance_id=f"{n}", annotations=dict(a)) for a, c in sets.items() for n in range(c)
    ]
    return ActorDescription(id="Mx", image_ref="x", instances=instances) if instances else None


def host(name: str, sets: Sets | None = None, **more: object) -> Inventory:
    found = actor(sets or {})
    return Inventory(host_id=name, friendly_name=name, actors=(found,) if found else (), **more)  # type: ignore[arg-type]


class World:
    """Two hosts with one actor, and the commands of a move carried out one by one, up to some step."""

    def __init__(self, here: Sets, there: Sets) -> None:
        self.sets: dict[str, dict[frozenset[tuple[str, str]], int]] = {"A": dict(here), "B": dict(there)}

    def move(self, steps: int) -> bool:
        """Begin a move as a new client does; whether it came to its end within so many commands."""
        moving = parts("A", actor(self.sets["A"]), actor(self.sets["B"]))
        commands = [("B", part.marked, part.count) for part in moving if part.count]
        commands += [("A", dict(part.annotations), 0) for part in moving if part.count]
        for part in moving:
            commands += [("B", dict(part.annotations), part.total), ("B", part.marked, 0)]
        for at, marks, count in commands[:steps]:
            key = frozenset(marks.items())
            self.sets[at].pop(key, None)
            if count:
                self.sets[at][key] = count
        return steps >= len(commands)


counts = st.dictionaries(st.sampled_from([PLAIN, MANAGED]), st.integers(1, 5), max_size=2)


@given(counts, counts, st.lists(st.integers(0, 9), max_size=4))
def test_however_often_a_move_is_cut_off_no_instance_is_lost_or_made(here: Sets, there: Sets, cuts: list[int]) -> None:
    world = World(here, there)
    if not any(world.move(steps) for steps in cuts):
        world.move(99)
    assert world.sets["A"] == {}
    assert world.sets["B"] == {key: here.get(key, 0) + there.get(key, 0) for key in {*here, *there}}


@given(counts, counts, st.lists(st.integers(0, 9), min_size=1, max_size=3))
def test_at_no_moment_does_an_actor_run_nowhere(here: Sets, there: Sets, cuts: list[int]) -> None:
    world = World(here, there)
    for steps in cuts:
        world.move(steps)
        present = sum(world.sets["A"].values()) + sum(world.sets["B"].values())
        assert present >= sum(here.values()) + sum(there.values())


def test_instances_arrive_under_a_mark_and_keep_their_annotations() -> None:
    (part,) = parts("A", actor({MANAGED: 3}), actor({MANAGED: 1, PLAIN: 7}))
    assert (part.count, part.total, part.annotations) == (3, 4, {"managed-by": "x"})
    assert part.marked == {"managed-by": "x", MARK: "A:4"}


def test_an_actor_goes_where_fewest_of_its_kind_run_then_where_least_is_to_do() -> None:
    busy, full, idle = host("busy", {PLAIN: 1}), host("full", {PLAIN: 9}), host("idle", {})
    closed = host("closed", {}, cordoned=True)
    source = host("A", {PLAIN: 2})
    moving = find_actor(source, "Mx")
    assert moving is not None
    found = homes_for_actor(moving, "A", [source, full, closed, busy, idle])
    assert [each.host_id for each in found] == ["idle", "busy", "full"]


def test_labels_that_were_asked_for_at_the_start_are_asked_for_again() -> None:
    needs = to_annotations({"zone": "eu"})
    provider = ProviderDescription(id="Vx", annotations=needs)
    eu, us = host("eu", labels={"zone": "eu"}), host("us", labels={"zone": "us"})
    assert [each.host_id for each in homes_for_provider(provider, "A", [us, eu])] == ["eu"]
    assert lacking(us, [needs]) == {"zone": "eu"}
    assert no_home("A", [us], [needs]) == "no other host has the labels zone=eu"


def test_a_provider_goes_where_it_runs_already() -> None:
    provider = ProviderDescription(id="Vx", link_name="default")
    there = Inventory(host_id="there", providers=(provider,))
    assert homes_for_provider(provider, "A", [host("a"), there])[0] is there


def test_why_nothing_can_move_is_said() -> None:
    assert no_home("A", [host("A")], []) == "there is no other host"
    assert no_home("A", [host("A"), host("B", cordoned=True)], []) == "every other host is cordoned"
    assert count_of(None, {}) == 0
