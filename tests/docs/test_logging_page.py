"""docs/logging.md names events and fields that exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from structlog.testing import capture_logs

from lattice.errors import GuestError, Overloaded
from lattice.invocation import Entity
from tests.support.processes import ROOT
from wasmhost.calls import call_log

PAGE = (ROOT / "docs" / "logging.md").read_text()
ROWS = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
SOURCE = "\n".join(
    path.read_text() for room in ("lattice", "wasmhost", "providers") for path in (ROOT / room).rglob("*.py")
)

served = partial(
    call_log.served, route="local", actor="M", origin="V", operation="Do.It", invocation="1", call=None, request=1
)
asked = partial(
    call_log.asked,
    route="nats",
    actor="M",
    operation="Do.It",
    invocation="1",
    seconds=0.5,
    request=1,
    target=Entity("V"),
)


def names(cell: str) -> set[str]:
    return set(re.findall(r"`([\w.]+)`", cell))


def test_every_event_on_the_page_is_logged_somewhere() -> None:
    logged = set(re.findall(r'"([a-z_]+\.[a-z_]+)"', SOURCE))
    named = {name for row in ROWS for name in names(row[0]) if "." in name}
    assert len(named) > 30
    assert named - logged == set()


@pytest.mark.parametrize("tell", [served, asked])
def test_the_lines_of_calls_have_the_fields_of_their_rows(tell: Callable[..., Any]) -> None:
    with capture_logs() as logs:
        tell(reply=1, error=None)
        tell(reply=None, error=Overloaded("later"))
        tell(reply=None, error=GuestError("quotes a payload"))
        tell(reply=None, error=ZeroDivisionError("a bug"))
    assert [entry["outcome"] for entry in logs] == ["ok", "overloaded", "guest_error", "broke"]
    (fields,) = [names(row[2]) for row in ROWS if row[0] == f"`{logs[0]['event']}`"]
    for entry in logs:
        assert set(entry) - {"event", "log_level"} == fields
        assert entry["log_level"] == "debug"
        assert "quotes" not in str(entry)
