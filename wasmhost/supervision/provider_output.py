"""What a provider prints: logged within a budget, its last lines kept for who asks, its last words for its death."""

from __future__ import annotations

import collections
import logging
from typing import Any, Final

from wasmhost import logs
from wasmhost.budget import Budget
from wasmhost.supervision.log_lines import read_log_line

_KEPT_LINES: Final = 50
_LINES: Final = (100, 1000)
"""Lines of output that are logged: per second in the long run, and at once."""


class ProviderOutput:
    """The output of one provider, over all of its processes."""

    def __init__(self, log: Any) -> None:
        """``log``: the structured logger that names the provider."""
        self.last_lines: collections.deque[str] = collections.deque(maxlen=_KEPT_LINES)
        self.complaint = ""
        """The last thing that the present process said which may explain its end."""
        self._log = log
        self._lines = Budget(per_second=_LINES[0], burst=_LINES[1])

    def begin(self) -> None:
        """A new process starts."""
        self.complaint = ""

    def take(self, line: str) -> None:
        """Log one line; ours are JSON, others anything. It may repeat what the process was told, secrets too."""
        line = logs.hide(line)
        level, text, fields = read_log_line(line)
        reason = fields.get("reason")
        said = f"{text}: {reason}" if isinstance(reason, str) else text
        self.last_lines.append(said)
        if level >= logging.WARNING or text is line:
            self.complaint = said
        if not self._lines.take():
            return
        if missed := self._lines.refused():
            self._log.warning("provider.log_dropped", lines=missed, reason=f"more than {_LINES[0]} per second")
        self._log.log(level, "provider.log", text=text, **fields)
