"""Log output of a host: one structured event per line on standard error, as JSON or as text for people.

Seeds and tokens never appear, whatever a caller passes; control characters of guests and providers are escaped, so that
a log line cannot forge another one or move a terminal's cursor.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Collection, Mapping
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Tap = Callable[[Mapping[str, Any]], None]
"""Gets every event that is logged, cleaned; must neither log nor raise. May be called in any thread."""

_taps: list[Tap] = []

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_SEED = re.compile(r"\bS[ACMNOUVX][A-Z2-7]{56}\b")
_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_+/=-]{16,}(?:\.[A-Za-z0-9_+/=-]*)*")
"""JSON in base64 as it begins tokens, and the line of host data, which holds seeds."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Controls of terminals, and characters that change the order in which text is shown."""
_DEEPEST = 6


def configure(
    level: str = "info",
    *,
    structured: bool | None = None,
    stream: TextIO | None = None,
    told_otherwise: Collection[str] = (),
) -> None:
    """Send all log events at or above ``level`` (debug, info, warning, error) to ``stream`` (standard error).

    ``structured``: JSON or text; None gives text to a terminal and JSON to everything else. ``told_otherwise``: events
    that are left out, as whoever reads the stream is told the same in other words.
    """
    output = stream if stream is not None else sys.stderr
    if structured is None:
        structured = not output.isatty()
    number = _LEVELS[level]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    shown = structlog.processors.JSONRenderer() if structured else structlog.dev.ConsoleRenderer(colors=output.isatty())
    # tracebacks become text before anything is hidden: an exception may quote what it was about
    renderer: list[Processor] = [structlog.processors.format_exc_info, clean, show_taps, shown]
    if told_otherwise:
        renderer.insert(0, _without(frozenset(told_otherwise)))
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.PrintLoggerFactory(output),
        cache_logger_on_first_use=False,
    )
    # asyncio and libraries that use the standard module: same lines, but only what an operator may act on
    handler = logging.StreamHandler(output)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _without(events: frozenset[str]) -> Processor:
    def drop(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        if event.get("event") in events:
            raise structlog.DropEvent
        return event

    return drop


def add_tap(tap: Tap) -> Callable[[], None]:
    """Hand every event from now on to ``tap``, too; what is returned ends that."""
    _taps.append(tap)
    return lambda: _taps.remove(tap)


def show_taps(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """The processor that does so; it belongs behind :func:`clean`."""
    for tap in _taps:
        tap(event)
    return event


def clean(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Hide secrets and escape control characters in every text of the event, names of members included."""
    for key, value in event.items():
        # the one field that is meant to span lines; it is ours
        event[key] = hide(value) if key == "exception" and isinstance(value, str) else _cleaned(value)
    return event


def hide(text: str) -> str:
    """``text`` without the seeds and tokens in it."""
    return _TOKEN.sub("<token hidden>", _SEED.sub("<seed hidden>", text))


def escape(text: str) -> str:
    """``text`` on one line: control characters as backslash escapes."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _cleaned(value: object, depth: int = 0) -> object:
    if isinstance(value, str):
        return escape(hide(value))
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict) and depth < _DEEPEST:
        return {_cleaned(key, depth + 1): _cleaned(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < _DEEPEST:
        return [_cleaned(item, depth + 1) for item in value]
    return escape(hide(repr(value)))  # as a renderer would write it, uncleaned
