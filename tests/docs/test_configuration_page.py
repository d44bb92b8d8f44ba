"""docs/configuration.md names every setting and every variable, and none that does not exist."""

from __future__ import annotations

import re

from tests.support.processes import ROOT
from wasmhost.configuration.settings import SETTINGS

PAGE = (ROOT / "docs" / "configuration.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]


def settings_rows() -> list[list[str]]:
    return [row for row in ROWS if len(row) == 4]


def test_every_setting_has_its_row() -> None:
    named = [name for row in settings_rows() for name in re.findall(r"`(\w+)`", row[0])]
    assert sorted(named) == sorted(setting.name for setting in SETTINGS)


def test_every_variable_is_named_beside_its_setting() -> None:
    for row in settings_rows():
        names = set(re.findall(r"`(\w+)`", row[0]))
        wanted = {variable for setting in SETTINGS if setting.name in names for variable in setting.variables}
        found: set[str] = set()
        for group in row[1].split(";"):
            stem = ""
            for text in re.findall(r"`([^`]+)`", group):
                if text.startswith("…"):
                    found.add(stem.rsplit("_", 1)[0] + text.removeprefix("…"))
                elif not text.endswith("…"):
                    stem = text
                    found.add(text)
        assert found == wanted, row[0]
