"""What a provider writes to its output: structured lines of our SDK, or any text."""

from __future__ import annotations

import contextlib
import json
import logging
from typing import Any, Final

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "warn": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.ERROR,
}
_LOG_MEMBERS: Final = frozenset({"event", "level", "timestamp", "provider", "provider_id", "link_name", "text"})


def read_log_line(line: str) -> tuple[int, str, dict[str, Any]]:
    """Level, text and further members of one line: structured as our SDK writes it, or any text, which is info."""
    if line.startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("event"), str):
                level = _LEVELS.get(str(record.get("level", "info")).lower(), logging.INFO)
                fields = {name: value for name, value in record.items() if name not in _LOG_MEMBERS}
                return level, record["event"], fields
    return logging.INFO, line, {}
