"""What guests write to the console log and to their standard streams, as events of the host's log."""

from __future__ import annotations

import structlog

from wasmhost.budget import LOG_LINE, Budget, log_budget
from wasmhost.guest.instance import LogText

log = structlog.get_logger(__name__)

MAX_TEXT = 2048
"""Characters of one text that are shown."""


def readable(text: bytes) -> str:
    """Text of a guest for a log line: any bytes are accepted, control characters escaped, the end cut off."""
    decoded = text[: 4 * MAX_TEXT + 4].decode("utf-8", "replace")
    shown = "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in decoded[:MAX_TEXT]
    )
    return shown if len(decoded) <= MAX_TEXT else f"{shown}… ({len(text)} bytes)"


class GuestLogger:
    """Writes the texts of one actor as ``guest.log`` events, as many as its budget allows over all its calls."""

    def __init__(self, actor: str, *, budget: Budget | None = None) -> None:
        """``budget``: as in :class:`wasmhost.calls.builtin.Builtin`."""
        self._log = log.bind(actor=actor)
        self._budget = budget or log_budget()

    def __call__(self, texts: list[LogText], dropped: int) -> None:
        """Log each text; ``dropped`` bytes were above what one call may log, reported once per call."""
        for text, stream in texts:
            if not self._budget.take(min(len(text), MAX_TEXT) + LOG_LINE):
                continue
            self._note_refused()
            where = {"stream": stream} if stream else {}
            self._log.info("guest.log", text=readable(text), **where)
        if dropped and self._budget.take(LOG_LINE):
            self._note_refused()
            self._log.warning("guest.log_dropped", bytes=dropped, reason="the actor logged too much in one call")

    def _note_refused(self) -> None:
        lines = self._budget.refused()
        if lines:
            self._log.warning("guest.log_dropped", lines=lines, reason="the actor logged too much in all its calls")
