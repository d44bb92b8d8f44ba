"""What ``wasmhost up`` prints while it works: its own steps, and the lines that guests, providers and the host log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import structlog
from structlog.typing import EventDict, WrappedLogger

from wasmhost import logs
from wasmhost.cli.output import Output, printable, to_json

_ALWAYS_THERE = {"event", "level", "timestamp", "logger", "text"}


class Progress:
    """Prints steps, and log lines in the same style."""

    def __init__(self, output: Output, *, verbose: bool = False) -> None:
        """``verbose``: show the host's own informative events too, not only what an operator may act on."""
        self._output = output
        self._verbose = verbose
        self._began = time.monotonic()
        self._last_reason: object = None
        self.own_server = False
        """The NATS server is the one that this command brought along."""
        self.names: dict[str, str] = {}
        """Key -> name, for lines about actors and providers."""

    @property
    def elapsed(self) -> float:
        """Seconds since the command began."""
        return time.monotonic() - self._began

    def step(self, text: str) -> None:
        """Tell of something that happened."""
        self._output.say(printable(text))

    def detail(self, text: str) -> None:
        """The same, below the step before."""
        self._output.say(f"  {printable(text)}")

    def take_logs(self, level: str) -> None:
        """Send what this process logs through here from now on."""
        logs.configure(level, structured=self._output.json)
        if self._output.json:
            return
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.processors.add_log_level,
                structlog.processors.format_exc_info,
                logs.clean,
                logs.show_taps,
                self._render,
            ],
            wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
            logger_factory=structlog.PrintLoggerFactory(sys.stderr),
            cache_logger_on_first_use=False,
        )

    def relay(self, event: dict[str, Any], host: str) -> None:
        """Show what another host of ours logged, as if it had been logged here."""
        event.setdefault("level", "info")
        if self._output.json:
            print(to_json({**event, "host_name": host}), file=sys.stderr, flush=True)
            return
        with suppress(structlog.DropEvent):
            print(self._shown(logs.clean(None, "", event), host), file=sys.stderr, flush=True)

    def _render(self, _: WrappedLogger, __: str, event: EventDict) -> str:
        return self._shown(event, "host")

    def _shown(self, event: EventDict, host: str) -> str:
        name, level = str(event.get("event", "")), str(event.get("level", "info"))
        if name == "guest.log":
            actor = str(event.get("actor", ""))
            return self._line(self.names.get(actor, actor[:12]), level, str(event.get("text", "")), {})
        if name == "provider.log":
            known = self.names.get(str(event.get("provider_id", "")))
            return self._line(known or str(event.get("provider", "provider")), level, *_provider_line(event))
        if level in ("debug", "info") and not self._verbose:
            raise structlog.DropEvent
        if name == "nats.anonymous" and self.own_server:
            raise structlog.DropEvent  # said with the server's address
        reason = event.get("error") or event.get("reason")
        if reason is not None and reason == self._last_reason:
            raise structlog.DropEvent  # the same failure, seen one layer up
        self._last_reason = reason
        return self._line(host, level, name, _fields(event))

    def _line(self, who: str, level: str, text: str, fields: Mapping[str, Any]) -> str:
        parts = [f"{who:>12} |"]
        if level not in ("info", "debug"):
            parts.append(f"{level}:")
        parts.append(text)
        parts += [f"{name}={self._value(value)}" for name, value in fields.items() if name != "exception"]
        return " ".join(parts) + (f"\n{fields['exception']}" if "exception" in fields else "")

    def _value(self, value: object) -> str:
        text = str(value)
        if text in self.names:
            return self.names[text]
        if text and " " not in text:
            return text
        return f'"{text}"' if "'" in text else f"'{text}'"


def _fields(event: EventDict) -> dict[str, Any]:
    return {key: value for key, value in event.items() if key not in _ALWAYS_THERE}


_SAID_BY_THE_LINE = {"provider", "provider_id", "link_name", "host_id", "pid"}


def _provider_line(event: EventDict) -> tuple[str, dict[str, Any]]:
    fields = {key: value for key, value in _fields(event).items() if key not in _SAID_BY_THE_LINE}
    return str(event.get("text", "")), fields
