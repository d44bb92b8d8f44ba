"""One listening address: its routes, its connections, and how a request becomes a call.

Built on aiohttp's low-level server; the answer is written by ourselves in one piece, which saves a fifth of the cost of
a request and keeps an actor's headers exactly as it gave them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from typing import Final

import structlog
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.web_request import BaseRequest

from lattice.contracts.httpserver import HANDLE_REQUEST, HttpResponse
from lattice.errors import Code, LatticeError
from providers.httpserver import mapping
from providers.httpserver.mapping import MAX_BODY
from providers.httpserver.routes import RouteTable
from providers.httpserver.settings import format_address
from providers.logs import Sampled
from providers.provider import ActorCalls, LinkFailed

log = structlog.get_logger()

KEEPALIVE: Final = 75.0
"""Seconds an idle connection is kept."""
BODY_TIMEOUT: Final = 60.0
"""Seconds a client may take to send a request body."""
MAX_HEADER_LINE: Final = 16 * 1024
BACKLOG: Final = 1024
MOST_CALLS: Final = 8192
"""Requests of one address that may be on their way; beyond, they are refused with 503."""
MOST_BYTES: Final = 256 * 1024 * 1024
"""Bytes of their bodies."""
_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"


class _Answer(web.StreamResponse):
    """Bytes that are already a whole response."""

    def __init__(self, data: bytes, *, keep_alive: bool) -> None:
        # Not calling the base class is the point: it would build headers that nobody reads.
        self._data = data
        self._keep_alive = keep_alive

    async def prepare(self, request: BaseRequest) -> AbstractStreamWriter | None:
        transport = request.transport
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client is gone")  # aiohttp drops the answer without a word
        transport.write(self._data)
        if transport.get_write_buffer_size():
            await request.writer.drain()  # a client that does not read holds up its own connection only
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        pass


class _Refusal(Exception):
    """The request gets no call; the connection is not usable afterwards unless ``keep_alive``."""

    def __init__(self, status: int, reason: str, *, retry_after: int | None = None, keep_alive: bool = True) -> None:
        super().__init__(reason)
        self.status = status
        self.retry_after = retry_after
        self.keep_alive = keep_alive


def _too_large() -> _Refusal:
    return _Refusal(413, f"the request body is larger than {MAX_BODY} bytes", keep_alive=False)


def _too_many(*, keep_alive: bool) -> _Refusal:
    return _Refusal(503, "too many requests are waiting for an answer", retry_after=1, keep_alive=keep_alive)


def _of_the_operator(record: logging.LogRecord) -> bool:
    """Leave out what only a client's broken requests cause: our handler raises nothing."""
    return not record.getMessage().startswith("Error handling request")


_library_log = logging.getLogger("wasmhost.httpserver")
_library_log.addFilter(_of_the_operator)


class Listener:
    """Listens while it has routes; ``routes`` and ``timeouts`` are replaced as a whole."""

    def __init__(self, address: tuple[str, int], calls: ActorCalls) -> None:
        self.address = address
        self.routes = RouteTable()
        self.timeouts: dict[str, float | None] = {}
        """Seconds by actor, where a link asks for other than the host's RPC timeout."""
        self._calls = calls
        self._in_flight = 0
        self._bytes = 0
        self._complaints = Sampled()
        self._sockets: asyncio.Server | None = None
        self._server = web.Server(
            self._handle,
            access_log=None,
            keepalive_timeout=KEEPALIVE,
            auto_decompress=False,  # bodies are passed on as received
            max_line_size=MAX_HEADER_LINE,
            max_field_size=MAX_HEADER_LINE,
            logger=_library_log,
        )

    async def open(self) -> None:
        """Start to listen. Raises LinkFailed: ``127.0.0.1:8080 in use``."""
        host, port = self.address
        try:
            self._sockets = await asyncio.get_running_loop().create_server(
                self._server, host, port, backlog=BACKLOG, reuse_address=True
            )
        except OSError as error:
            shown = format_address(self.address)
            match error.errno:
                case errno.EADDRINUSE:
                    raise LinkFailed(f"{shown} in use", code=Code.CONFLICT) from error
                case errno.EACCES:
                    reason = "permission denied: a port below 1024 needs privileges"
                case errno.EADDRNOTAVAIL:
                    reason = "this machine has no such address"
                case _:
                    reason = error.strerror or str(error)
            raise LinkFailed(f"{shown}: {reason}") from error
        log.info("http.listening", address=format_address(self.address))

    def stop_listening(self) -> None:
        """Free the port, at once. Connections stay until ``close``."""
        if self._sockets is not None:
            self._sockets.close()
            self._sockets = None
            log.info("http.closed", address=format_address(self.address))

    async def close(self, timeout: float) -> None:
        """Let requests in flight end within ``timeout`` seconds and close all connections."""
        self.stop_listening()
        self._server.pre_shutdown()
        await self._server.shutdown(timeout)

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        keep_alive = request.keep_alive
        # HTTP/1.1 keeps a connection without a word; 1.0 wants to be told, and every client when it ends.
        connection = ("keep-alive" if request.version.minor == 0 else "") if keep_alive else "close"
        try:
            return _Answer(await self._respond(request, connection), keep_alive=keep_alive)
        except _Refusal as refusal:
            keep_alive = keep_alive and refusal.keep_alive
            data = mapping.failure_answer(
                refusal.status,
                str(refusal),
                "",
                method=request.method,
                connection=connection if keep_alive else "close",
                retry_after=refusal.retry_after,
            )
            return _Answer(data, keep_alive=keep_alive)
        except Exception:
            log.exception("http.broke", address=format_address(self.address))
            data = mapping.failure_answer(500, "internal error", "", method=request.method, connection="close")
            return _Answer(data, keep_alive=False)

    async def _respond(self, request: BaseRequest, connection: str) -> bytes:
        """Route, body, call, answer."""
        method = request.method
        target = request.raw_path
        route = self.routes.match(request.headers.get("Host", ""), target)
        if route is None:
            raise _Refusal(404, "no actor is linked to this host and path")
        if self._in_flight >= MOST_CALLS or self._bytes >= MOST_BYTES:
            raise _too_many(keep_alive=not request.can_read_body)
        actor = route.actor
        body = b""
        self._in_flight += 1
        try:
            if request.can_read_body:
                body = await self._body(request)
            payload = mapping.request(method, target, request.raw_headers, body).encode()
            answer = await self._calls.call(actor, HANDLE_REQUEST, payload, self.timeouts.get(actor))
            return mapping.answer(HttpResponse.decode(answer), method=method, connection=connection)
        except LatticeError as error:
            return self._failed(actor, error, method, connection)
        finally:
            self._in_flight -= 1
            self._bytes -= len(body)

    def _failed(self, actor: str, error: LatticeError, method: str, connection: str) -> bytes:
        status, retry_after = mapping.failure_status(error)
        invocation = error.invocation_id
        if (more := self._complaints.due()) is not None:
            log.warning(
                "http.call_failed",
                actor=actor,
                status=status,
                code=str(error.code),
                invocation=invocation,
                reason=str(error),
                not_logged=more,
            )
        return mapping.failure_answer(
            status, str(error), invocation, method=method, connection=connection, retry_after=retry_after
        )

    async def _body(self, request: BaseRequest) -> bytes:
        """The whole body, counted in ``_bytes``. Raises _Refusal: too large, too slow, malformed, too many of them."""
        announced = request.content_length
        if announced is not None and announced > MAX_BODY:
            raise _too_large()
        if request.headers.get("Expect", "").lower() == "100-continue" and request.transport is not None:
            request.transport.write(_CONTINUE)
        content = request.content
        size = 0
        try:
            if content.is_eof():  # it came together with the head, as small ones do: neither wait nor timer
                body = content.read_nowait()
                size = len(body)
                self._bytes += size
                self._check_body(size)
                return body
            parts: list[bytes] = []
            async with asyncio.timeout(BODY_TIMEOUT):
                while part := await content.readany():
                    size += len(part)
                    self._bytes += len(part)
                    self._check_body(size)
                    parts.append(part)
            return b"".join(parts)
        except BaseException as error:
            self._bytes -= size
            if isinstance(error, TimeoutError):
                reason = f"the request body took longer than {BODY_TIMEOUT:g} s"
                raise _Refusal(408, reason, keep_alive=False) from None
            if isinstance(error, (ConnectionError, web.RequestPayloadError)):
                # Gone in the middle of its body (nobody reads this), or a body that breaks the rules of HTTP.
                reason = f"the request body is incomplete or malformed: {error}"
                raise _Refusal(400, reason, keep_alive=False) from None
            raise

    def _check_body(self, size: int) -> None:
        if size > MAX_BODY:
            raise _too_large()
        if self._bytes > MOST_BYTES:
            raise _too_many(keep_alive=False)
