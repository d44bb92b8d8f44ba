"""What a provider writes to its output: structured lines of our SDK or of the classic libraries, or any text."""

from __future__ import annotations

import contextlib
import json
import logging
import re
from typing import Any, Final

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.ERROR,
}
_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_.]{0,39}")
_TAKEN: Final = {
    *("event", "level", "timestamp", "provider", "provider_id", "link_name", "text"),
    *("self", "method_name", "exc_info", "stack_info", "stack", "exception"),  # mean something to the logger
}


def read_log_line(line: str) -> tuple[int, str, dict[str, Any]]:
    """Level, text and further members of one line: structured as our SDK writes it, or the classic libraries when they
    are told to (``tracing`` in JSON), or any text, which is info.
    """
    if line.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                members = record.get("fields")
                if isinstance(members, dict) and isinstance(members.get("message"), str):
                    record = {**members, "event": members["message"], "level": record.get("level")}
                    del record["message"]
                if isinstance(record.get("event"), str):
                    level = _LEVELS.get(str(record.get("level", "info")).lower(), logging.INFO)
                    fields = {name: value for name, value in record.items() if _usable(name)}
                    return level, record["event"], fields
    return logging.INFO, line, {}


def _usable(name: str) -> bool:
    """Whether a member may become a field of a log event: its name is a stranger's choice."""
    return name not in _TAKEN and _NAME.fullmatch(name) is not None
