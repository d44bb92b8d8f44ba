"""What `cluster list` tells an operator to do next, and which step is refused before calls would be."""

from __future__ import annotations

from collections.abc import Sequence

from lattice.clustercontrol import ClusterView
from wasmhost.cli.rotation import Member, clusters, objections_to_remove, objections_to_use, todo


def host(name: str, signing: str, accepted: str = "", held: str | None = None, removed: Sequence[str] = ()) -> Member:
    """A host with keys of one letter; without ``held`` it holds the seeds of all that it accepts."""
    keys = tuple(accepted or signing)
    view = ClusterView(
        host_id=f"N{name}",
        signing=signing,
        accepted=keys,
        held=keys if held is None else tuple(held),
        removed=removed,
    )
    return Member(name, view)


def test_the_steps_of_a_rotation_are_named_one_after_the_other() -> None:
    walk = [
        ([host("a", "o", "on"), host("b", "o")], "accepted by a: --add it on b, too"),
        ([host("a", "o", "on"), host("b", "o", "on", held="o")], "b accepts n… without its seed"),
        ([host("a", "o", "on"), host("b", "o", "on")], "nobody signs with n…"),
        ([host("a", "n", "on"), host("b", "o", "on")], "sign with different keys"),
        ([host("a", "n", "on"), host("b", "n", "on")], "nobody signs with o…"),
        ([host("a", "n", "n", removed="o"), host("b", "n", "on")], "removed from a: --remove it from b, too"),
    ]
    for members, text in walk:
        (step,) = todo(members)
        assert text in step
    assert todo([host("a", "n", removed="o"), host("b", "n", removed="o")]) == []
    assert todo([host("a", "n")]) == []


def test_a_host_whose_calls_another_one_refuses_comes_first() -> None:
    steps = todo([host("a", "n", "on"), host("b", "o")])
    assert "b refuses the calls of a" in steps[0]


def test_two_clusters_that_accept_each_other_have_nothing_left_to_do() -> None:
    one = [host("a", "x", "xy", held="x"), host("b", "x", "xy", held="x")]
    other = [host("c", "y", "xy", held="y")]
    assert [[member.name for member in group] for group in clusters(one + other)] == [["a", "b"], ["c"]]
    assert todo(one + other) == []


def test_using_a_key_is_refused_where_others_would_not_accept_what_it_signs() -> None:
    a = host("a", "o", "on")
    assert objections_to_use("n", a, [host("b", "o", "on")]) == []
    assert objections_to_use("n", a, [host("b", "o"), host("c", "o")]) == ["b and c do not accept n… yet"]
    assert objections_to_use("n", a, [host("b", "o", "on", held="o")]) == ["b does not hold the seed of n…"]
    stranger = host("s", "z", "z")  # does not accept the present key either: nothing gets worse
    assert objections_to_use("n", a, [stranger]) == []


def test_removing_a_key_is_refused_while_another_host_signs_with_it() -> None:
    assert objections_to_remove("o", [host("b", "o"), host("c", "n")]) == ["b still signs with o…"]
    assert objections_to_remove("o", [host("c", "n")]) == []


def test_a_host_of_another_make_says_no_more_than_its_issuers_and_is_taken_at_that() -> None:
    classic = Member("c", ClusterView(host_id="Nc", signing="o", accepted=("o",)))
    assert objections_to_use("n", host("a", "o", "on"), [classic]) == ["c does not accept n… yet"]
    assert "c refuses the calls of a" in todo([host("a", "n", "on"), classic])[0]
    knowing = Member("c", ClusterView(host_id="Nc", signing="o", accepted=("o", "n")))
    assert objections_to_use("n", host("a", "o", "on"), [knowing]) == []
