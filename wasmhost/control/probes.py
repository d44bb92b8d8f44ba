"""Answers the questions of whoever supervises this process: ``GET /livez`` and ``GET /readyz``.

Constant answers over HTTP, on a port that is opened only where it was asked for. Source: the Elixir hosts, which answer
both on the port of their dashboard.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

import structlog

log = structlog.get_logger(__name__)

_PATIENCE: Final = 2.0
"""Seconds for a request to arrive and for its answer to leave."""
_LONGEST: Final = 8 * 1024
"""Bytes of a request."""
_MOST: Final = 32
"""Connections at a time; more are closed at once."""


class Probes:
    """The open port."""

    def __init__(self, unready: Callable[[], str]) -> None:
        """``unready``: why this host should get no work now; empty when it may."""
        self._unready = unready
        self._server: asyncio.Server | None = None
        self._open = 0

    async def open(self, address: str, port: int) -> None:
        """Listen. A port that cannot be had is logged: the host works without."""
        try:
            self._server = await asyncio.start_server(self._serve, address, port, limit=_LONGEST)
        except OSError as error:
            log.warning("probes.not_open", address=address, port=port, reason=error.strerror or str(error))
            return
        log.info("probes.open", address=address, port=self.port)

    @property
    def port(self) -> int:
        """The open one; 0 when there is none."""
        return self._server.sockets[0].getsockname()[1] if self._server is not None else 0

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= _MOST:
                async with asyncio.timeout(_PATIENCE):
                    head = await reader.readuntil(b"\r\n\r\n")
                    writer.write(self._answer(head))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asks so gets no answer
        finally:
            self._open -= 1
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0]
        if method not in (b"GET", b"HEAD"):
            return _response("405 Method Not Allowed", "only GET and HEAD", with_body=True)
        status, text = "404 Not Found", "only /livez and /readyz"
        if path == b"/livez":
            status, text = "200 OK", "ok"
        elif path == b"/readyz":
            reason = self._unready()
            status, text = ("503 Service Unavailable", reason) if reason else ("200 OK", "ok")
        return _response(status, text, with_body=method == b"GET")


def _response(status: str, text: str, *, with_body: bool) -> bytes:
    body = f"{text}\n".encode()
    head = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + (body if with_body else b"")
