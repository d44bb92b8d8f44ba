"""The last log lines about each actor and provider of this host, and those that are being written, for who follows.

Filled from the host's own log, so it holds what that shows: lines below the log level are in neither.
"""

from __future__ import annotations

import asyncio
import collections
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import structlog

from lattice.errors import LatticeError
from lattice.observation import MOST_LINES, LogLine, LogLines, ObserveRequest
from wasmhost.leases import Leases, Watcher

log = structlog.get_logger(__name__)

MOST_CHARACTERS: Final = 256 * 1024
"""Characters kept of the lines about one actor or provider."""
MOST_KEYS: Final = 128
"""Actors and providers with kept lines; the one that was silent longest makes room."""
_LONGEST_TEXT: Final = 4096
_LONGEST_FIELD: Final = 512
_MOST_FIELDS: Final = 16
_CHARACTERS_PER_MESSAGE: Final = 64 * 1024
"""At six bytes per character, which JSON may need, still below what NATS takes."""
_MOST_PENDING: Final = 500
"""Lines that wait to be sent; a guest that floods its log does not flood the lattice."""
_PAUSE: Final = 0.05
"""Seconds between two messages to one watcher."""

_KEY_LENGTH: Final = 56
_NAMING: Final = ("actor", "provider_id", "provider", "origin", "target", "actor_id")
"""Fields of log events that may hold the public key of an actor or provider."""
_SAID: Final = frozenset({"event", "level", "timestamp", "logger", "text", "exc_info", "stack_info"})
_SOURCES: Final = {"guest.log": "guest", "guest.log_dropped": "guest", "provider.log": "provider"}


class _Shelf:
    """The lines of one actor or provider, the oldest given up first."""

    def __init__(self) -> None:
        self.lines: collections.deque[LogLine] = collections.deque(maxlen=MOST_LINES)
        self.characters = 0

    def add(self, line: LogLine) -> None:
        if len(self.lines) == MOST_LINES:
            self.characters -= _length(self.lines.popleft())
        self.lines.append(line)
        self.characters += _length(line)
        while self.characters > MOST_CHARACTERS:
            self.characters -= _length(self.lines.popleft())


class LogBook(Leases):
    """Remembers lines by public key, and sends new ones to who has a lease; silent until :meth:`report_to`."""

    def __init__(self) -> None:
        super().__init__()
        self._loop = asyncio.get_running_loop()
        self._shelves: collections.OrderedDict[str, _Shelf] = collections.OrderedDict()
        self._pending: list[tuple[str, LogLine]] = []
        self._dropped = 0
        self._sending: asyncio.TimerHandle | None = None
        self._publish: Callable[[str, bytes], None] = lambda inbox, payload: None
        self._host_id = ""
        self._host_name = ""

    def report_to(self, publish: Callable[[str, bytes], None], *, host_id: str, host_name: str) -> None:
        """Send lines through ``publish(inbox, payload)``, in the name of this host."""
        self._publish, self._host_id, self._host_name = publish, host_id, host_name

    def note(self, event: Mapping[str, Any]) -> None:
        """Remember one event of the log, in whatever thread it is logged."""
        keys = {
            value
            for name in _NAMING
            if isinstance(value := event.get(name), str) and len(value) == _KEY_LENGTH and value[0] in "MV"
        }
        if keys:
            line = _line(event, keys)
            if _running_loop() is self._loop:
                self._keep(keys, line)
            elif not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._keep, keys, line)  # so that nothing here needs a lock

    def watch(self, request: ObserveRequest, watcher: Watcher) -> None:
        """Send the last lines about an actor or provider, in as many messages as they need, one at least; then new
        ones for as long as the lease runs. No line is sent twice or left out in between. Raises Overloaded.
        """
        self._send_pending()
        self.grant(request.key, watcher, request.lease)
        shelf = self._shelves.get(request.key)
        lines = list(shelf.lines)[-request.lines :] if shelf is not None and request.lines else []
        parts = list(_parts(lines)) or [()]
        for number, part in enumerate(parts, 1):
            self._send(watcher, part, more=number < len(parts))

    def close(self) -> None:
        super().close()
        if self._sending is not None:
            self._sending.cancel()

    def _keep(self, keys: set[str], line: LogLine) -> None:
        for key in keys:
            shelf = self._shelves.get(key)
            if shelf is None:
                shelf = self._shelves[key] = _Shelf()
                if len(self._shelves) > MOST_KEYS:
                    self._shelves.popitem(last=False)
            else:
                self._shelves.move_to_end(key)
            shelf.add(line)
            if self.active and self.watchers(key):
                self._queue(key, line)

    def _queue(self, key: str, line: LogLine) -> None:
        if len(self._pending) >= _MOST_PENDING:
            self._dropped += 1
            return
        self._pending.append((key, line))
        if self._sending is None:
            self._sending = self._loop.call_later(_PAUSE, self._send_pending)

    def _send_pending(self) -> None:
        if self._sending is not None:
            self._sending.cancel()
            self._sending = None
        pending, self._pending = self._pending, []
        dropped, self._dropped = self._dropped, 0
        by_key: dict[str, list[LogLine]] = {}
        for key, line in pending:
            by_key.setdefault(key, []).append(line)
        for key, lines in by_key.items():
            for part in _parts(lines):
                for watcher in self.watchers(key):
                    self._send(watcher, part, live=True, dropped=dropped)
                dropped = 0

    def _send(
        self,
        watcher: Watcher,
        lines: tuple[LogLine, ...],
        *,
        more: bool = False,
        live: bool = False,
        dropped: int = 0,
    ) -> None:
        message = LogLines(
            host_id=self._host_id, host_name=self._host_name, lines=lines, more=more, live=live, dropped=dropped
        )
        try:
            self._publish(watcher.inbox, watcher.encoding.encode(message.to_dict()))
        except LatticeError as error:
            log.warning("logs.not_sent", reason=str(error))


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _line(event: Mapping[str, Any], keys: set[str]) -> LogLine:
    name = str(event.get("event", ""))
    source = _SOURCES.get(name, "host")
    said = event.get("text")
    text = said if source != "host" and isinstance(said, str) else name
    fields: dict[str, str] = {}
    if (failure := event.get("exc_info")) and isinstance(failure, BaseException):
        fields["exception"] = repr(failure)[:_LONGEST_FIELD]
    for field, value in event.items():
        if field in _SAID or value is None or (field in _NAMING and value in keys):
            continue
        if len(fields) >= _MOST_FIELDS:
            break
        fields[field] = str(value)[:_LONGEST_FIELD]
    return LogLine(
        time_us=time.time_ns() // 1000,
        source=source,
        level=str(event.get("level", "info")),
        text=text[:_LONGEST_TEXT],
        fields=fields,
    )


def _length(line: LogLine) -> int:
    return 64 + len(line.text) + sum(len(name) + len(value) for name, value in line.fields.items())


def _parts(lines: list[LogLine]) -> Iterator[tuple[LogLine, ...]]:
    """The lines in as many messages as their length asks for."""
    part: list[LogLine] = []
    characters = 0
    for line in lines:
        if part and characters + _length(line) > _CHARACTERS_PER_MESSAGE:
            yield tuple(part)
            part, characters = [], 0
        part.append(line)
        characters += _length(line)
    if part:
        yield tuple(part)
