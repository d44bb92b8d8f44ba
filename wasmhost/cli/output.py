"""What commands print: tables that fit the terminal, or JSON with the same facts.

Data goes to standard output, everything else to standard error. Text from the lattice is written by strangers: control
characters are made visible, so that no name can move the cursor or forge a line.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

GAP = "  "
SMALLEST_WIDTH = 40
_MOVES_THE_CURSOR = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls of terminals, also those of one byte, and characters that change the order in which text is shown."""


def printable(text: str) -> str:
    """``text`` on one line, with control characters written as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def one_line(text: str) -> str:
    """As :func:`printable`, but for what could deceive only, written as JSON does: for lines that others read, too."""
    return _MOVES_THE_CURSOR.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def to_json(value: object, *, indent: int | None = None) -> str:
    """JSON for a terminal: nothing in its texts can move the cursor."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    # between the values there are no such characters but the line breaks of indentation
    return "\n".join(map(one_line, text.split("\n")))


def shorten(text: str, width: int, *, keep_end: bool = False) -> str:
    """At most ``width`` characters of ``text``, the rest replaced by one ``…``."""
    if len(text) <= width:
        return text
    if width <= 1:
        return "…"[:width]
    return "…" + text[-(width - 1) :] if keep_end else text[: width - 1] + "…"


def duration(seconds: float) -> str:
    """A duration for people: ``42s``, ``7m 3s``, ``5h 2m``, ``3d 4h``."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60}s"
    if whole < 86400:
        return f"{whole // 3600}h {whole % 3600 // 60}m"
    return f"{whole // 86400}d {whole % 86400 // 3600}h"


def size(count: int) -> str:
    """Bytes for people: ``812 bytes``, ``1.2 MB``."""
    for power, unit in ((3, "GB"), (2, "MB"), (1, "kB")):
        if count >= 1000**power:
            return f"{count / 1000**power:.1f} {unit}"
    return f"{count} byte{'' if count == 1 else 's'}"


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table. It gives up width down to ``least`` characters when the table is too wide."""

    title: str
    least: int = 0
    """0: never shortened."""
    early: bool = False
    """Gives up width before the others do: the beginning of a key says as much as the whole."""
    keep_end: bool = False
    """Shorten at the front: the end of a path or an image reference says more."""


@dataclass(slots=True)
class Row:
    """The cells of one line, and remarks that are printed below it, wrapped and indented."""

    cells: Sequence[str]
    notes: Sequence[str] = field(default_factory=tuple)


def table(columns: Sequence[Column], rows: Sequence[Row], *, width: int) -> str:
    """The rows as aligned text, no line longer than ``width`` as far as the columns allow."""
    cells = [[printable(cell) for cell in row.cells] for row in rows]
    widths = [max([len(column.title), *(len(line[i]) for line in cells)]) for i, column in enumerate(columns)]
    _shrink(columns, widths, width)
    lines = [_line(columns, widths, [column.title for column in columns])]
    for row, line in zip(rows, cells, strict=True):
        lines.append(_line(columns, widths, line))
        for note in row.notes:
            lines += textwrap.wrap(printable(note), max(width, SMALLEST_WIDTH), initial_indent="    ", **_WRAP)
    return "\n".join(lines)


_WRAP: dict[str, Any] = {"subsequent_indent": "    ", "break_on_hyphens": False}


def _shrink(columns: Sequence[Column], widths: list[int], width: int) -> None:
    excess = sum(widths) + len(GAP) * (len(widths) - 1) - width
    for early in (True, False):
        while excess > 0:
            flexible = [
                i
                for i, c in enumerate(columns)
                if c.early is early and c.least and widths[i] > max(c.least, len(c.title))
            ]
            if not flexible:
                break
            widths[max(flexible, key=lambda i: widths[i])] -= 1
            excess -= 1


def _line(columns: Sequence[Column], widths: Sequence[int], cells: Sequence[str]) -> str:
    parts = [
        shorten(cell, width, keep_end=column.keep_end).ljust(width)
        for column, width, cell in zip(columns, widths, cells, strict=True)
    ]
    return GAP.join(parts).rstrip()


class Output:
    """Where a command shows what it found. ``json`` decides the form; the facts are the same."""

    def __init__(self, form: str = "text", *, out: TextIO | None = None, err: TextIO | None = None) -> None:
        self.json = form == "json"
        self._out = out
        self._err = err

    @property
    def width(self) -> int:
        """Columns to fill: those of the terminal, 80 where there is none."""
        return max(SMALLEST_WIDTH, shutil.get_terminal_size((80, 24)).columns)

    def document(self, value: Mapping[str, Any]) -> None:
        """Print one JSON document."""
        self._write(to_json(value, indent=2))

    def line(self, value: Mapping[str, Any]) -> None:
        """Print one JSON document on one line, for streams."""
        self._write(to_json(value))

    def table(self, columns: Sequence[Column], rows: Sequence[Row]) -> None:
        self._write(table(columns, rows, width=self.width))

    def facts(self, pairs: Iterable[tuple[str, str]]) -> None:
        """Print ``name  value`` lines, one per fact, aligned; a long value goes on below its beginning."""
        known = [(name, printable(value)) for name, value in pairs if value]
        wide = max((len(name) for name, _ in known), default=0)
        for name, value in known:
            self._write(
                textwrap.fill(
                    value,
                    self.width,
                    initial_indent=name.ljust(wide) + GAP,
                    subsequent_indent=" " * wide + GAP,
                    break_long_words=False,
                    break_on_hyphens=False,
                )
            )

    def text(self, text: str = "") -> None:
        """Print one line of data, whatever is in it."""
        self._write(one_line(text))

    def block(self, text: str) -> None:
        """Print lines that are made up already: what strangers wrote in them must be :func:`printable`."""
        self._write(text)

    def say(self, text: str) -> None:
        """Tell in one line what happens, on standard error; silent in JSON mode, which has errors only there."""
        if not self.json:
            print(one_line(text), file=self._err or sys.stderr, flush=True)

    def problem(self, message: str, hint: str, exit_code: int) -> None:
        """Show why the command failed, on standard error."""
        stream = self._err or sys.stderr
        if self.json:
            shown = {"error": message, "hint": hint or None, "exit_code": int(exit_code)}
            print(to_json(shown), file=stream, flush=True)
            return
        for number, line in enumerate(message.splitlines() or [""]):
            print(f"Error: {printable(line)}" if number == 0 else printable(line), file=stream)
        if hint:
            print(f"Next: {printable(hint)}", file=stream)
        stream.flush()

    def _write(self, text: str) -> None:
        print(text, file=self._out or sys.stdout, flush=True)
