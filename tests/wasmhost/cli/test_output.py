"""Tables fit their width; text of strangers stays on its line."""

from __future__ import annotations

import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.cloudevents import Event
from wasmhost.cli.events import describe
from wasmhost.cli.output import Column, Output, Row, duration, one_line, printable, shorten, table, to_json

COLUMNS = [Column("ID", 10), Column("NAME", 8), Column("IMAGE", 12, keep_end=True), Column("COUNT")]


def row(key: str = "M" * 56, name: str = "Echo", image: str = "file:///a/very/long/path/to/the/echo_s.wasm") -> Row:
    return Row([key, name, image, "1"])


def test_a_table_of_keys_and_paths_fits_80_columns() -> None:
    lines = table(COLUMNS, [row(), row("B" * 56)], width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["ID", "NAME", "IMAGE", "COUNT"]


def test_a_shortened_key_keeps_its_beginning_and_a_path_its_end() -> None:
    line = table(COLUMNS, [row()], width=60).splitlines()[1]
    assert line.startswith("MMMMMMMM")
    assert "echo_s.wasm" in line


def test_a_note_is_wrapped_and_indented_below_its_row() -> None:
    text = table(COLUMNS, [Row(["M1", "Echo", "x", "1"], notes=["failed: " + "word " * 20])], width=80)
    notes = text.splitlines()[2:]
    assert len(notes) == 2
    assert all(line.startswith("    ") and len(line) <= 80 for line in notes)


@given(st.text(), st.integers(0, 20), st.booleans())
def test_shortened_text_is_never_wider_than_asked(text: str, width: int, keep_end: bool) -> None:
    assert len(shorten(text, width, keep_end=keep_end)) <= width or len(text) <= width


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text: str) -> None:
    assert printable(text).isprintable()


HOSTILE = "a\nb\r\x1b[2J\x9b31m\x7f\u202ecod.exe\u2028"


@given(
    st.recursive(
        st.none() | st.integers() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
    )
)
def test_json_for_a_terminal_is_the_same_json(value: object) -> None:
    assert json.loads(to_json(value)) == value
    assert json.loads(to_json(value, indent=2)) == value


def test_what_strangers_write_moves_no_cursor_and_makes_no_line() -> None:
    out, err = io.StringIO(), io.StringIO()
    shown = Output(out=out, err=err)
    shown.text(f"started {HOSTILE}")
    shown.say(f"on {HOSTILE}")
    assert out.getvalue().count("\n") == err.getvalue().count("\n") == 1
    shown.problem(HOSTILE, HOSTILE, 1)
    told = Output("json", out=out, err=err)
    told.line({HOSTILE: HOSTILE})
    told.problem(HOSTILE, HOSTILE, 1)
    for written in (out, err):
        assert written.getvalue().replace("\n", "").isprintable()
    assert one_line("täb 表 👩‍🚀") == "täb 表 👩‍🚀"


@given(st.lists(st.tuples(st.text(), st.text(), st.text(), st.text())), st.integers(40, 200))
def test_any_rows_make_a_table_with_one_line_each(rows: list[tuple[str, str, str, str]], width: int) -> None:
    text = table(COLUMNS, [Row(cells) for cells in rows], width=width)
    assert text.count("\n") == len(rows)


@pytest.mark.parametrize(
    ("seconds", "expected"), [(0.4, "0s"), (59, "59s"), (61, "1m 1s"), (3700, "1h 1m"), (90_000, "1d 1h")]
)
def test_durations_read_like_durations(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_an_error_is_one_sentence_and_a_next_step() -> None:
    err = io.StringIO()
    Output(err=err).problem("port 8080 in use", "stop what uses it", 5)
    assert err.getvalue() == "Error: port 8080 in use\nNext: stop what uses it\n"


def test_an_error_in_json_is_one_json_line_on_standard_error() -> None:
    out, err = io.StringIO(), io.StringIO()
    Output("json", out=out, err=err).problem("it failed", "", 1)
    assert json.loads(err.getvalue()) == {"error": "it failed", "hint": None, "exit_code": 1}
    assert out.getvalue() == ""


def test_json_mode_keeps_progress_out_of_standard_error() -> None:
    err = io.StringIO()
    Output("json", err=err).say("starting")
    assert err.getvalue() == ""


def test_an_event_is_told_in_80_columns() -> None:
    event = Event(
        name="actors_stopped",
        source="N" * 56,
        time="2024-01-01T10:20:30.5Z",
        data={
            "public_key": "M" * 56,
            "image_ref": "file:///a/b/c.wasm",
            "count": 1,
            "remaining": 3,
            "claims": {"a": 1},
        },
    )
    lines = describe(event, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert "actors_stopped" in lines[0]
    assert "NNNNNNNN…" in lines[0]
    assert "remaining=3" in lines[-1]
    assert "claims" not in "".join(lines)
    assert describe(Event(name="x", source="", time="soon"), 80).split() == ["soon", "x", "-"]
