"""One client connection: bytes in, requests in their order, answers out, each in one write.

The parser is llhttp (through httptools), strict: what two servers might read differently is refused. Requests of one
connection are answered one after the other. While one is with its actor, or the client does not take its answers, no
more is read; so a client holds up nobody else, and what is kept for it is bounded.
"""

from __future__ import annotations

import asyncio
import math
from enum import Enum
from typing import Final, Protocol

import httptools

from providers.httpserver import mapping
from providers.httpserver.after_head import parser_after_head
from providers.httpserver.exchange import Exchange
from providers.httpserver.limits import Limits
from providers.httpserver.replies import Reply

_CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
_HEAD_SLICE: Final = 8 * 1024
"""Parsed at once where a head may stand: bounds how many pipelined requests are taken apart ahead of their turn."""


class Phase(Enum):
    """What a connection waits for; each has its time-out."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    CALL = "call"
    ANSWER = "answer"
    """The client has to take what was written."""
    LINGER = "linger"
    """The last answer is written; what the client still sends is dropped."""


class Server(Protocol):
    """What a connection needs of its listener."""

    limits: Limits
    buffer: memoryview
    """Where bytes are received; shared, as they are consumed at once."""

    def opened(self, connection: HttpConnection) -> bool:
        """False: there is no room for another connection."""

    def closed(self, connection: HttpConnection) -> None: ...

    def admit(self, exchange: Exchange, *, secure: bool) -> None:
        """Give the exchange a route, or its reply."""

    def count(self, exchange: Exchange) -> None:
        """Take what came of the body into account; too much of it gets its reply."""

    def release(self, exchange: Exchange) -> None:
        """Its body is not kept any more."""

    def call(self, connection: HttpConnection, exchange: Exchange) -> None:
        """Begin the call; its end is told by ``HttpConnection.answered``."""


class HttpConnection(asyncio.BufferedProtocol):
    """The protocol of one client."""

    __slots__ = (
        "_blocked",
        "_ended",
        "_eof",
        "_head_size",
        "_headers",
        "_held",
        "_in_head",
        "_last",
        "_line",
        "_loop",
        "_parser",
        "_paused",
        "_phase",
        "_secure",
        "_server",
        "_since",
        "_target",
        "_transport",
        "_unsent",
        "deadline",
    )

    def __init__(self, server: Server, loop: asyncio.AbstractEventLoop, *, secure: bool) -> None:
        self._server = server
        self._loop = loop
        self._secure = secure
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpRequestParser | None = None
        self._line: list[Exchange] = []
        """Requests in their order; the first one is being answered, the last one may still lack its body."""
        self._held = b""
        """Received, not yet parsed."""
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._head_size = 0
        """Of the head that is coming in, or of what came of a body's framing since its last byte."""
        self._in_head = False
        self._blocked = False
        """The client does not take what is written."""
        self._paused = False
        self._last = False
        """No request after the present one is answered."""
        self._ended = False
        """The last answer is written; nothing is read any more but to drop it."""
        self._eof = False
        self._phase = Phase.IDLE
        self._since = 0.0
        self._unsent = 0
        self.deadline = math.inf
        """``loop.time()`` at which ``expire`` is due."""

    # --- the transport's side ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._enter(Phase.IDLE)
        if not self._server.opened(self):
            reply = Reply(503, "too many connections are open", retry_after=1)
            self._write(mapping.reply(reply, method="GET", connection="close"))
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._transport = None
        self._parser = None  # it refers to this object, which refers to it
        self._held = b""
        for exchange in self._line:
            if not exchange.started:
                self._server.release(exchange)
        # A call that runs goes on: the actor is at it, and it counts until its end.
        self._line.clear()
        self._server.closed(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        if self._ended:
            return
        self._feed(self._server.buffer[:nbytes])
        self._pump()

    def eof_received(self) -> bool:
        """A client that has said all may still wait for answers; TLS knows no such half."""
        self._eof = True
        return not self._secure and not self._ended and any(exchange.complete for exchange in self._line)

    def pause_writing(self) -> None:
        self._blocked = True

    def resume_writing(self) -> None:
        self._blocked = False
        self._pump()

    # --- the parser's side ---

    def on_message_begin(self) -> None:
        self._in_head = True
        self._target = b""
        self._headers = []

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # else a trailer
            self._headers.append((name, value))

    def on_headers_complete(self) -> None:
        parser = self._parser
        assert parser is not None
        exchange = Exchange(
            parser.get_method().decode("ascii"),
            self._target.decode("latin-1"),
            parser.get_http_version(),
            self._headers,
            keep_alive=parser.should_keep_alive(),
        )
        exchange.reply = self._oversize() or exchange.reply
        self._line.append(exchange)
        self._in_head = False
        self._head_size = 0

    def on_body(self, body: bytes) -> None:
        exchange = self._line[-1]
        if exchange.reply is None:
            exchange.keep(body)
        exchange.size += len(body)

    def on_message_complete(self) -> None:
        self._head_size = 0
        if self._line:
            self._line[-1].complete = True

    # --- parsing ---

    def _feed(self, data: memoryview) -> None:
        """Parse ``data`` as far as the turn of its requests allows; the rest is held."""
        at, size = 0, len(data)
        while at < size and not self._ended:
            if self._busy():
                self._held += bytes(data[at:])
                self._pause()
                return
            if self._parser is None:
                self._parser = httptools.HttpRequestParser(self)
            receiving = self._line[-1] if self._line and not self._line[-1].complete else None
            came = receiving.size if receiving is not None else 0
            piece = data[at : at + _HEAD_SLICE] if receiving is None else data[at:]
            try:
                self._parser.feed_data(piece)
                at += len(piece)
            except httptools.HttpParserUpgrade as upgrade:
                at += upgrade.args[0]
                self._ignore_upgrade()
            except httptools.HttpParserError as error:
                at = size
                self._malformed(error)
            if self._in_head:
                self._head_size += min(len(piece), _HEAD_SLICE)  # a longer piece began with the end of a body
                if (reply := self._oversize()) is not None:
                    self._refuse_rest(reply)
            elif receiving is not None and not receiving.complete:
                self._watch_framing(receiving, len(piece) if receiving.size == came else 0)
            self._advance()

    def _oversize(self) -> Reply | None:
        """The answer to a head that is too large, as far as it has come."""
        limits = self._server.limits
        if len(self._target) > limits.target_size:
            return Reply(414, f"the request target is longer than {limits.target_size} bytes", ends=True)
        if self._head_size > limits.head_size or len(self._headers) > limits.headers:
            reason = f"the request has more than {limits.head_size} bytes or {limits.headers} lines of headers"
            return Reply(431, reason, ends=True)
        return None

    def _watch_framing(self, exchange: Exchange, size: int) -> None:
        """``size`` bytes came and nothing of the body; 0 when some of it did. The parser keeps trailers, too."""
        self._head_size = self._head_size + size if size else 0
        if self._head_size > self._server.limits.head_size:
            reason = f"the request has more than {self._server.limits.head_size} bytes of chunk extensions or trailers"
            exchange.reply = exchange.reply or Reply(400, reason)
            self._close_line(exchange)

    def _malformed(self, error: httptools.HttpParserError) -> None:
        if self._line and self._line[-1].complete and not self._line[-1].keep_alive:
            return  # more after a request that announced itself as the last one
        if self._line and not self._line[-1].complete:
            exchange = self._line[-1]
            exchange.reply = exchange.reply or Reply(400, f"the request body is malformed: {error}")
            self._close_line(exchange)
        else:
            self._refuse_rest(Reply(400, f"not an HTTP request: {error}"))

    def _refuse_rest(self, reply: Reply) -> None:
        """What comes after the requests in line gets this answer, in its turn, and ends the connection."""
        exchange = Exchange("GET", "", "1.0", (), keep_alive=False)
        exchange.reply = reply
        self._line.append(exchange)
        self._close_line(exchange)

    def _close_line(self, exchange: Exchange) -> None:
        """``exchange`` is the last one, whatever follows."""
        exchange.complete = exchange.ends = True
        self._in_head = False

    def _ignore_upgrade(self) -> None:
        """No actor speaks another protocol, so the request is an ordinary one; the parser thinks it has ended."""
        exchange = self._line[-1]
        if not exchange.has_body:
            self._parser = httptools.HttpRequestParser(self)
            return
        # The parser skips the body, too. One that was shown a head with the same framing reads it.
        exchange.complete = False
        self._parser = parser_after_head(self, exchange.length)

    # --- the line of requests ---

    def _busy(self) -> bool:
        return self._blocked or (bool(self._line) and self._line[0].started)

    def _pump(self) -> None:
        """Go on until there is something to wait for."""
        while True:
            self._advance()
            if not self._held or self._ended or self._busy():
                break
            held, self._held = self._held, b""
            self._feed(memoryview(held))
        if self._ended or self._transport is None:
            return
        if self._paused and not self._busy():
            self._paused = False
            self._transport.resume_reading()
        if self._eof and not any(exchange.complete for exchange in self._line):
            self._finish()
            return
        self._settle()

    def _advance(self) -> None:
        """Bring the request whose turn it is as far as it goes without waiting, then the next one."""
        server = self._server
        while self._line and not self._blocked and not self._ended:
            exchange = self._line[0]
            if exchange.started:
                return
            if exchange.route is None and exchange.reply is None:
                server.admit(exchange, secure=self._secure)
                if exchange.expects and exchange.reply is None and not exchange.size:
                    self._write(_CONTINUE)
            if exchange.size != exchange.counted and exchange.reply is None:
                server.count(exchange)
            reply = exchange.reply
            if reply is None:
                if exchange.complete:
                    exchange.started = True
                    server.call(self, exchange)
                return
            server.release(exchange)
            if reply.ends:
                exchange.ends = True
            elif not exchange.complete:
                if exchange.may_be_drained(server.limits.drained):
                    return
                exchange.ends = True
            word = self.word(exchange)
            data = mapping.reply(reply, method=exchange.method, connection=word, added=exchange.added)
            self.answer(exchange, data)

    def word(self, exchange: Exchange) -> str:
        """The value of the Connection header of its answer, empty where none is needed."""
        if self._last or exchange.ends:
            exchange.keep_alive = False
        if not exchange.keep_alive:
            return "close"
        # 1.1 keeps a connection without a word; 1.0 wants to be told.
        return "keep-alive" if exchange.version == "1.0" else ""

    def answer(self, exchange: Exchange, data: bytes) -> None:
        """Write the whole answer of the request whose turn it is; ``word`` was asked for it before."""
        if self._ended or self._transport is None:
            return
        self._write(data)
        del self._line[0]
        self._phase = Phase.CALL  # whatever comes next begins now
        if not exchange.keep_alive:
            self._finish(linger=exchange.ends or bool(self._line) or bool(self._held) or self._in_head)

    def answered(self, exchange: Exchange, data: bytes) -> None:
        """The call of ``exchange`` has ended, with this answer."""
        self.answer(exchange, data)
        self._pump()

    def _write(self, data: bytes) -> None:
        transport = self._transport
        if transport is not None and not transport.is_closing():
            transport.write(data)

    def _pause(self) -> None:
        if not self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = True
            self._transport.pause_reading()

    # --- the end ---

    def retire(self, *, at_once: bool) -> None:
        """Answer what is under way and nothing more. ``at_once`` closes an idle connection; else it has a while."""
        self._last = True
        if self._phase is Phase.IDLE and not self._ended:
            if at_once:
                self._finish()
            else:
                self.deadline = min(self.deadline, self._loop.time() + self._server.limits.parting)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _finish(self, *, linger: bool = False) -> None:
        """Nothing more is answered. ``linger`` where the client may be sending.

        A socket that is closed with bytes unread resets the connection, and the client loses the answer.
        """
        self._ended = True
        self._held = b""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if not linger or self._eof:
            transport.close()
            self._enter(Phase.ANSWER)
            return
        try:
            if transport.can_write_eof():
                transport.write_eof()
        except OSError:  # the client has reset the connection, and that was not read yet
            transport.abort()
            return
        if self._paused:
            self._paused = False
            transport.resume_reading()
        self._enter(Phase.LINGER)

    # --- time ---

    def _settle(self) -> None:
        if self._blocked:
            self._enter(Phase.ANSWER)
        elif self._line:
            self._enter(Phase.CALL if self._line[0].started else Phase.BODY)
        else:
            self._enter(Phase.HEAD if self._in_head else Phase.IDLE)

    def _enter(self, phase: Phase) -> None:
        if phase is self._phase and self.deadline < math.inf:
            return
        self._phase = phase
        if phase is Phase.CALL:
            self.deadline = math.inf  # a call has its own
            return
        limits = self._server.limits
        self._since = self._loop.time()
        if phase is Phase.IDLE:
            seconds = limits.idle
        elif phase is Phase.HEAD:
            seconds = limits.head
        elif phase is Phase.BODY:
            seconds = limits.body
        elif phase is Phase.ANSWER:
            seconds = limits.answer
            self._unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
        else:
            seconds = limits.linger
        self.deadline = self._since + seconds

    def expire(self, now: float) -> None:
        """``deadline`` has passed; called by the listener, a little late."""
        limits = self._server.limits
        match self._phase:
            case Phase.IDLE:
                self._finish()
            case Phase.HEAD:
                self._refuse_rest(Reply(408, f"the head of the request took longer than {limits.head:g} s"))
                self._pump()
            case Phase.BODY:
                exchange = self._line[0]
                self.deadline = self._since + limits.body + exchange.size / limits.body_rate
                if now >= self.deadline:
                    reason = f"the body of the request came slower than {limits.body_rate} bytes a second"
                    exchange.reply = exchange.reply or Reply(408, reason)
                    exchange.ends = exchange.complete = True
                    self._pump()
            case Phase.ANSWER:
                unsent = self._transport.get_write_buffer_size() if self._transport is not None else 0
                if unsent < self._unsent:
                    self._unsent, self.deadline = unsent, now + limits.answer
                else:
                    self.abort()
            case _:
                self.abort()
