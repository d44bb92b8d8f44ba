"""Which of the known things a text means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.keys import KeyPair, Role
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.identify import Candidate, resolve
from wasmhost.cli.problems import Problem

ECHO = Candidate(
    key="MAAA" + "Q" * 52, name="Echo", alias="wasmhost/echo", references=frozenset({"file:///a/echo_s.wasm"})
)
COUNTER = Candidate(key="MAAB" + "Q" * 52, name="Counter", references=frozenset({"file:///b/counter.wasm"}))
OTHER = Candidate(key="MBBB" + "Q" * 52, name="Echo", references=frozenset({"bundled:keyvalue"}))


def find(text: str, *candidates: Candidate) -> Candidate:
    return resolve(text, candidates, what="actor", look="wasmhost get actors")


@pytest.mark.parametrize(
    "text",
    [
        ECHO.key,
        ECHO.key.lower(),
        "Echo",
        "echo",
        "wasmhost/echo",
        "file:///a/echo_s.wasm",
        "echo_s.wasm",
        "echo_s",
        "MAAA",
        "maaa",
        "MAAAQQ…",
        " MAAA ",
        "ech",
        "wasmhost/e",
    ],
)
def test_key_prefix_name_alias_image_and_file_name_all_work(text: str) -> None:
    assert find(text, ECHO, COUNTER) is ECHO


def test_an_exact_name_wins_over_the_beginning_of_a_key() -> None:
    named = Candidate(key="MCCC" + "Q" * 52, name="MAA")
    assert find("MAA", ECHO, COUNTER, named) is named


def test_an_ambiguous_prefix_lists_what_it_could_mean() -> None:
    with pytest.raises(Problem, match=r"names 2 actors: MAAA.*\(Echo\), MAAB.*\(Counter\)") as caught:
        find("MAA", ECHO, COUNTER)
    assert caught.value.exit_code is ExitCode.USAGE


def test_two_actors_of_one_name_are_ambiguous() -> None:
    with pytest.raises(Problem, match="names 2 actors"):
        find("Echo", ECHO, OTHER)


def test_the_same_thing_seen_on_two_hosts_is_one() -> None:
    assert find("Echo", ECHO, ECHO) is ECHO


def test_a_mistyped_name_is_not_found_and_the_nearest_suggested() -> None:
    with pytest.raises(Problem, match="no actor 'Cuonter'") as caught:
        find("Cuonter", ECHO, COUNTER)
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    assert "did you mean 'Counter'?" in caught.value.hint
    assert "wasmhost get actors" in caught.value.hint


def test_an_empty_text_names_nothing() -> None:
    with pytest.raises(Problem):
        find("", Candidate(key="M1"))


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, unique=True), st.data())
def test_any_unique_prefix_of_a_key_names_it(raws: list[bytes], data: st.DataObject) -> None:
    candidates = [Candidate(key=KeyPair.from_raw(Role.MODULE, raw).public) for raw in raws]
    meant = data.draw(st.sampled_from(candidates))
    prefix = meant.key[: data.draw(st.integers(1, 56))]
    if sum(c.key.startswith(prefix) for c in candidates) == 1:
        assert find(prefix, *candidates) is meant
    else:
        with pytest.raises(Problem):
            find(prefix, *candidates)
