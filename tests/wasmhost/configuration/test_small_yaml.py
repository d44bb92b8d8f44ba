"""Files that somebody wrote to do harm are refused, in words, and before they cost anything."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wasmhost.configuration import small_yaml
from wasmhost.configuration.config import ConfigError, load

LAUGHS = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGED = "b0: &b0 {" + ", ".join(f"k{n}: 1" for n in range(50)) + "}\n"
MERGED += "".join(f"b{n}: &b{n}\n  <<: [{', '.join([f'*b{n - 1}'] * 10)}]\n" for n in range(1, 9))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (LAUGHS, "too many values"),
        (MERGED, "too many values are merged"),
        ("a: &a {b: *a}", "within itself"),
        ("{a: " * 5000, "nested too deeply"),
        ("a: 2001-02-30", "a value cannot be read"),
        ("a: " + "9" * 5000, "a value cannot be read"),
        ("a: !!python/name:os.system", "constructor"),
        ("a: *nobody", "undefined alias"),
        ("? [a]\n: b", "unhashable key"),
    ],
)
def test_what_would_do_harm_is_refused(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(small_yaml.BadYaml, match=words):
        small_yaml.parse(text)
    file = tmp_path / "host.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=f"host.yaml.*: neither JSON nor YAML: .*{words}"):
        load({}, {}, file)


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "large.yaml"
    with file.open("wb") as large:
        large.truncate(2**40)
    with pytest.raises(small_yaml.BadYaml, match="larger than"):
        small_yaml.read(file)


def test_aliases_and_merge_keys_are_understood() -> None:
    assert small_yaml.parse("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: [*a, *a]") == {
        "a": {"x": 1},
        "b": {"x": 1, "y": 2},
        "c": [{"x": 1}, {"x": 1}],
    }


@given(st.text())
def test_any_text_is_a_value_or_refused(text: str) -> None:
    with suppress(small_yaml.BadYaml):
        small_yaml.parse(text)
