"""Output of providers as log events: whatever they write, the host's log stays whole."""

from __future__ import annotations

import io
import json
import logging
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from wasmhost import logs
from wasmhost.supervision.log_lines import read_log_line

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=10,
)
NAMES = st.sampled_from(
    ["self", "method_name", "event", "level", "exc_info", "stack_info", "stack", "exception", "args", "kw", "name"]
) | st.text(max_size=12)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ('{"event": "link.ready", "level": "warning", "actor": "M"}', (logging.WARNING, "link.ready", {"actor": "M"})),
        (
            '{"timestamp":"t","level":"ERROR","fields":{"message":"put_link failed","error":"x"},"target":"kv"}',
            (logging.ERROR, "put_link failed", {"error": "x"}),
        ),
        ('{"level":"TRACE","fields":{"message":"m"}}', (logging.INFO, "m", {})),
        ('{"fields": {"message": 5}}', (logging.INFO, '{"fields": {"message": 5}}', {})),
        ("plain text", (logging.INFO, "plain text", {})),
        ('{"event": 5}', (logging.INFO, '{"event": 5}', {})),
        ("{" * 2000, (logging.INFO, "{" * 2000, {})),
        ('{"event": "e", "self": 1, "exc_info": true, "\\u001b[2J": 1, "a b": 1, "ok": 1}', (20, "e", {"ok": 1})),
    ],
)
def test_lines_keep_their_level_and_members(line: str, expected: tuple[int, str, dict[str, Any]]) -> None:
    assert read_log_line(line) == expected


@given(st.dictionaries(NAMES, JSON, max_size=6), st.booleans(), st.booleans())
def test_no_line_breaks_the_log(members: dict[str, Any], classic: bool, structured: bool) -> None:
    before = structlog.get_config()
    out = io.StringIO()
    try:
        logs.configure("debug", structured=structured, stream=out)
        document = {"fields": {"message": "m", **members}} if classic else {"event": "e", **members}
        level, text, fields = read_log_line(json.dumps(document))
        structlog.get_logger().log(level, "provider.log", text=text, **fields)
    finally:
        structlog.configure(**before)
    assert out.getvalue().count("\n") == 1
    assert "\x1b" not in out.getvalue()
