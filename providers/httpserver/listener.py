"""One listening address: its routes, its connections, and how a request becomes a call."""

from __future__ import annotations

import asyncio
import logging
import socket
from contextlib import suppress
from typing import Final

import structlog

from lattice.contracts.httpserver import HANDLE_REQUEST, HttpResponse
from lattice.errors import LatticeError
from providers.httpserver import mapping
from providers.httpserver.connection import HttpConnection
from providers.httpserver.endpoint import Endpoint
from providers.httpserver.exchange import Exchange
from providers.httpserver.limits import Limits
from providers.httpserver.replies import Reply
from providers.httpserver.routes import RouteTable
from providers.httpserver.settings import format_address
from providers.httpserver.tls import TlsFiles
from providers.logs import Sampled
from providers.provider import ActorCalls

log = structlog.get_logger()

_BUFFER: Final = 64 * 1024
_READS: Final = frozenset({"GET", "HEAD"})
_NO_ROUTE: Final = Reply(404, "no actor is linked to this host and path")
_TOO_MANY: Final = Reply(503, "too many requests are waiting for an answer", retry_after=1)
_READ_ONLY: Final = "this address is read-only: only GET and HEAD are answered"


class Room:
    """How many connections may be open in the whole process; each takes a file descriptor."""

    __slots__ = ("most", "taken")

    def __init__(self, most: int) -> None:
        self.most = most
        self.taken = 0


class Listener:
    """Listens while it has routes; ``routes`` is replaced as a whole."""

    def __init__(
        self, address: tuple[str, int], calls: ActorCalls, *, room: Room | None = None, limits: Limits | None = None
    ) -> None:
        self.address = address
        self.routes = RouteTable()
        self.limits = limits or Limits()
        self.buffer = memoryview(bytearray(_BUFFER))
        self._calls = calls
        self._room = room or Room(1_000_000)
        self._loop = asyncio.get_running_loop()
        self._endpoint = Endpoint(address, self._protocol, self.limits)
        self._connections: set[HttpConnection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._bytes = 0
        self._complaints = Sampled()
        self._sweeping: asyncio.TimerHandle | None = None
        self._gone = asyncio.Event()
        self._open = False
        self._closing = False
        self._traces = log.is_enabled_for(logging.DEBUG)

    @property
    def tls(self) -> TlsFiles | None:
        return self._endpoint.tls

    @property
    def listening(self) -> socket.socket | None:
        """The socket that connections are accepted from, while there is one."""
        return self._endpoint.listening

    async def open(
        self,
        tls: TlsFiles | None = None,
        taken: socket.socket | None = None,
        *,
        beside: socket.socket | None = None,
    ) -> None:
        """Start to listen. Raises LinkFailed (``127.0.0.1:8080 in use``) or InvalidLinkValues.

        ``taken`` is the socket of another process that listens here; see :meth:`accept`. ``beside`` is one of this
        process that this listener replaces, and that may have the same port.
        """
        await self._endpoint.open(tls, taken, beside=beside)
        self._open = True
        log.info(
            "http.listening", address=format_address(self.address), tls=tls is not None, handed_over=taken is not None
        )

    def accept(self) -> None:
        """Accept from a socket that was taken over: the process that had it before does not any more."""
        self._endpoint.accept()

    async def change_tls(self, tls: TlsFiles | None) -> None:
        """Speak TLS with other files, or none, with new connections.

        Those there are stay as they are: each answers what is under way, and one more request at most. Raises
        InvalidLinkValues, and nothing has changed then.
        """
        await self._endpoint.change(tls)
        for connection in list(self._connections):
            connection.retire(at_once=False)
        log.info("http.tls_changed", address=format_address(self.address), tls=tls is not None)

    def stop_listening(self) -> None:
        """Free the port, at once. Connections stay until ``close``."""
        if self._open:
            self._open = False
            self._endpoint.close()
            log.info("http.closed", address=format_address(self.address))

    def leave(self) -> None:
        """Accept nothing more, and let the connections go: each is told with its next answer, and an idle one stays
        for a while, so that a request which is under way to it is answered.
        """
        self.stop_listening()
        for connection in list(self._connections):
            connection.retire(at_once=False)

    async def finish(self, timeout: float) -> None:
        """Return when all connections are gone, or after ``timeout`` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while greetings := self._endpoint.greetings:
                    await asyncio.wait(greetings)
                while self._connections:
                    self._gone.clear()
                    await self._gone.wait()

    async def close(self, timeout: float) -> None:
        """Let requests in flight end within ``timeout`` seconds and close all connections."""
        self._closing = True
        self.stop_listening()
        for connection in list(self._connections):
            connection.retire(at_once=True)
        await self.finish(timeout)
        for task in list(self._tasks):
            task.cancel()
        for connection in list(self._connections):
            connection.abort()
        if self._tasks:
            await asyncio.wait(self._tasks)

    # --- connections ---

    def _protocol(self, secure: bool) -> HttpConnection:
        return HttpConnection(self, self._loop, secure=secure)

    def opened(self, connection: HttpConnection) -> bool:
        """A connection is there; False when there is no room for it."""
        self._connections.add(connection)
        self._room.taken += 1
        if self._sweeping is None:
            self._sweeping = self._loop.call_later(self.limits.tick, self._sweep)
        if not self._open:
            connection.retire(at_once=self._closing)
        return self._room.taken <= self._room.most

    def closed(self, connection: HttpConnection) -> None:
        """A connection is gone."""
        self._connections.discard(connection)
        self._room.taken -= 1
        self._gone.set()

    def _sweep(self) -> None:
        """Time-outs of all connections: a look at each, once a second, is cheaper than timers per request."""
        now = self._loop.time()
        for connection in [one for one in self._connections if one.deadline <= now]:
            connection.expire(now)
        self._sweeping = self._loop.call_later(self.limits.tick, self._sweep) if self._connections else None

    # --- requests ---

    def admit(self, exchange: Exchange, *, secure: bool) -> None:
        """Decide what can be decided from the head of a request: its route, or its answer."""
        route = self.routes.match(exchange.host, exchange.target)
        if route is None:
            exchange.reply = _NO_ROUTE
            return
        exchange.route = route
        policy = route.policy
        header = exchange.header
        if "origin" in header or policy.cors.origins:
            origin = header["origin"][0] if "origin" in header else ""
            if origin and not policy.cors.permits(origin, exchange.host, secure=secure):
                exchange.reply = Reply(
                    403, "CORS: this origin is not among the allowed ones", headers="Vary: Origin\r\n"
                )
                return
            exchange.added = policy.cors.lines(origin)
            if origin and exchange.method == "OPTIONS":
                exchange.reply = policy.cors.preflight(header)
        if exchange.reply is None:
            exchange.reply = self._refusal(exchange, policy.max_content, read_only=policy.read_only)

    def _refusal(self, exchange: Exchange, most: int, *, read_only: bool) -> Reply | None:
        if read_only and exchange.method not in _READS:
            return Reply(405, _READ_ONLY, headers="Allow: GET, HEAD\r\n")
        limits = self.limits
        if len(self._tasks) >= limits.calls:
            return _TOO_MANY
        if exchange.length:
            if exchange.length > most:
                return _too_large(most)
            if self._bytes and self._bytes + exchange.length > limits.bodies:
                return _TOO_MANY
        return None

    def count(self, exchange: Exchange) -> None:
        """Bytes of its body have come."""
        came = exchange.size - exchange.counted
        exchange.counted = exchange.size
        others = self._bytes
        self._bytes += came
        assert exchange.route is not None
        most = exchange.route.policy.max_content
        if exchange.size > most:
            exchange.reply = _too_large(most)
        elif self._bytes > self.limits.bodies and others > exchange.size - came:
            exchange.reply = _TOO_MANY

    def release(self, exchange: Exchange) -> None:
        """Its body is not needed any more."""
        self._bytes -= exchange.counted
        exchange.counted = 0
        exchange.parts = []

    def call(self, connection: HttpConnection, exchange: Exchange) -> None:
        """Call the actor; ``connection`` is told the answer."""
        task = self._loop.create_task(self._call(connection, exchange))
        exchange.task = task
        self._tasks.add(task)

    async def _call(self, connection: HttpConnection, exchange: Exchange) -> None:
        route, method = exchange.route, exchange.method
        assert route is not None
        policy = route.policy
        begun, outcome = self._loop.time(), "ok"
        try:
            payload = mapping.request(method, exchange.target, exchange.header, exchange.body()).encode()
            exchange.parts = []
            answer = await self._calls.call(route.actor, HANDLE_REQUEST, payload, policy.timeout)
            response = HttpResponse.decode(answer)
            status = response.status_code
            data = mapping.answer(
                response,
                method=method,
                connection=connection.word(exchange),
                added=exchange.added,
                cache_control=policy.cache_control,
            )
        except LatticeError as error:
            outcome = str(error.code)
            reply = self._failed(route.actor, error)
            status = reply.status
            data = mapping.reply(reply, method=method, connection=connection.word(exchange), added=exchange.added)
        except Exception:
            outcome = "broke"
            log.exception("http.broke", address=format_address(self.address))
            reply = Reply(500, "internal error")
            status = reply.status
            data = mapping.reply(reply, method=method, connection=connection.word(exchange), added=exchange.added)
        finally:
            self._bytes -= exchange.counted
            assert exchange.task is not None
            self._tasks.discard(exchange.task)
        if self._traces:
            log.debug(
                "http.request",
                outcome=outcome,
                actor=route.actor,
                method=method,
                status=status,
                run_s=round(self._loop.time() - begun, 6),
                request_bytes=exchange.size,
                reply_bytes=len(data),
            )
        connection.answered(exchange, data)

    def _failed(self, actor: str, error: LatticeError) -> Reply:
        status, retry_after = mapping.failure_status(error)
        if (more := self._complaints.due()) is not None:
            log.warning(
                "http.call_failed",
                actor=actor,
                status=status,
                code=str(error.code),
                invocation=error.invocation_id,
                reason=error.for_log,
                not_logged=more,
            )
        return Reply(status, str(error), invocation=error.invocation_id, retry_after=retry_after)


def _too_large(most: int) -> Reply:
    return Reply(413, f"the request body is larger than {most} bytes")
