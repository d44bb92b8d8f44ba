"""One request as it comes in, until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Final

from providers.httpserver import mapping
from providers.httpserver.replies import Reply
from providers.httpserver.routes import Route, authority

_DECISIVE: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "expect"})
"""Headers that say where a request goes and where it ends."""

_SMALL: Final = 1024
"""Bytes."""


class Exchange:
    """Made when the head of a request is complete. The connection fills in the body, the listener the rest."""

    __slots__ = (
        "added",
        "complete",
        "counted",
        "ends",
        "expects",
        "has_body",
        "header",
        "host",
        "keep_alive",
        "length",
        "method",
        "parts",
        "reply",
        "route",
        "size",
        "started",
        "target",
        "task",
        "version",
    )

    def __init__(
        self, method: str, target: str, version: str, headers: Iterable[tuple[bytes, bytes]], *, keep_alive: bool
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.keep_alive = keep_alive
        """Whether the client may send another request on its connection."""
        self.ends = False
        """The connection ends with the answer although the client may be sending still."""
        dropped: list[str] = []
        self.header = header = mapping.request_headers(headers, dropped)
        self.reply: Reply | None = None
        """An answer without the actor, once that is decided; what else comes of the body is dropped."""
        self.route: Route | None = None
        self.added = ""
        """Header lines of the answer that do not come from the actor."""
        self.parts: list[bytes | bytearray] = []
        self.size = 0
        self.counted = 0
        """How much of ``size`` stands in the listener's account."""
        self.complete = False
        self.started = False
        self.task: asyncio.Task[None] | None = None
        hosts = header.get("host")
        if not target.startswith("/") and (named := authority(target)):
            header["host"] = [named]  # RFC 9112, 3.2.2: whatever the header says
        self.host = header["host"][0] if "host" in header else ""
        lengths = header.get("content-length")
        self.length = int(lengths[0]) if lengths else None
        codings = header.get("transfer-encoding")
        self.has_body = bool(self.length) or codings is not None
        self.expects = False
        """The client waits for a word before it sends the body."""
        if "expect" in header:
            self._read_expectation(header["expect"])
        if codings is not None and (version != "1.1" or [c.lower() for c in codings] != ["chunked"]):
            # 1.0 knows no codings; whoever sends one hopes that two servers disagree about where the body ends.
            self.reply = Reply(501, "the only transfer coding that is understood is 'chunked'", ends=True)
        if method == "CONNECT":
            self.reply = Reply(501, "this is no proxy", ends=True)
        elif version == "1.1":
            if hosts is None or len(hosts) != 1:
                self.reply = Reply(400, "an HTTP/1.1 request has exactly one Host header", ends=True)
        elif version != "1.0":
            self.reply = Reply(505, "the HTTP versions understood are 1.0 and 1.1", ends=True)
        if dropped and not _DECISIVE.isdisjoint(dropped):
            reason = f"a header among {', '.join(sorted(_DECISIVE))} has a value that is not visible ASCII"
            self.reply = Reply(400, reason, ends=True)

    def _read_expectation(self, values: list[str]) -> None:
        if [value.lower() for value in values] != ["100-continue"]:
            self.reply = Reply(417, "the only expectation that can be met is 100-continue")
        # Clients of 1.0 would take the interim answer for the answer.
        self.expects = self.has_body and self.version != "1.0"

    def may_be_drained(self, most: int) -> bool:
        """Whether the rest of its body is on its way and at most ``most`` bytes long."""
        return self.length is not None and self.length <= most and not self.expects

    def keep(self, body: bytes) -> None:
        """Add a part of the body. Small ones are put together: each on its own would take many times its size."""
        parts = self.parts
        if len(body) >= _SMALL or not parts:
            parts.append(body)
        elif isinstance(parts[-1], bytearray):
            parts[-1] += body
        else:
            parts.append(bytearray(body))

    def body(self) -> bytes:
        parts = self.parts
        if len(parts) == 1:
            return bytes(parts[0])
        return b"".join(parts)
