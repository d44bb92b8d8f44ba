"""Wires on nats-py: one client per connection to a server, which never reconnects by itself.

* :class:`DirectWire` replaces three private methods of nats-py's client: messages go to plain functions straight from
  the parser (no queue, no task, no ``Msg`` per message), all messages of a turn of the loop leave in one write, and an
  error line or a lost connection is told at once. Before its use a recorded session is played to it without a network
  (:func:`internals_problem`).
* :class:`PublicWire` uses nats-py's documented interface only. It is slower.

Reconnecting is not left to nats-py: its client closes for good on most error lines, waits for a half-open connection
to take what is buffered, and ends its reader without a word when the answer to a timed-out flush comes late.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from time import monotonic
from typing import Any

import nats.errors
import structlog
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.protocol.parser import AWAITING_MSG_PAYLOAD

from lattice import addresses, server_errors
from lattice import headers as header_block
from lattice.background import begin
from lattice.reading import BatchParser
from lattice.transport import MessageHandler
from lattice.wires import Outgoing, WireLost

log = structlog.get_logger(__name__)

_CONGESTED = 1024 * 1024
"""Bytes in the socket's buffer above which nothing more is written."""
_SLICE = 0.002
"""Seconds of uninterrupted message handling after which timers and writes get their turn."""
_CLOSE_TIMEOUT = 2.0


class SecureClient(Client):
    """nats-py's client, which says nothing about its user before TLS where that is demanded.

    nats-py encrypts only what the server's greeting asks to: who stands between could leave that out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.secure = False
        self.tls_by_address = False
        """A WebSocket over TLS, whose streams are not seen here."""

    @property
    def socket(self) -> Any:
        """The stream writer; None where there is none, as with WebSockets."""
        return getattr(getattr(self, "_transport", None), "_io_writer", None)

    @property
    def encrypted(self) -> bool:
        writer = self.socket
        return self.tls_by_address if writer is None else writer.get_extra_info("ssl_object") is not None

    def note_tls(self) -> None:
        """Tell asyncio that its stream speaks TLS, which nats-py began behind its back: else each end is warned of."""
        protocol: Any = getattr(self.socket, "_protocol", None)
        if self.socket is not None and self.encrypted and hasattr(protocol, "_over_ssl"):
            protocol._over_ssl = True

    def _connect_command(self) -> bytes:
        if self.secure and not self.encrypted:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the server does not speak it, and it is demanded")
        return bytes(super()._connect_command())


class _NatsWire:
    """What both wires share: one nats-py client that never reconnects."""

    def __init__(self, url: str, on_error: Callable[[str], None], client: SecureClient, secure: bool) -> None:
        self._url = url
        self._on_error = on_error
        self._client = client
        client.secure = secure
        client.tls_by_address = url.startswith("wss://")
        self.server = addresses.without_login(url)
        self.last_error: Exception | None = None
        self._opened = False
        """The handshake has ended well; before, nats-py has no tasks."""
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.leaving: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def open(self, arguments: dict[str, Any]) -> None:
        await self._client.connect(
            **arguments, error_cb=self._note, closed_cb=self._closed, lame_duck_mode_cb=self._leaves
        )
        if not self._client.is_connected:
            raise nats.errors.Error("the handshake did not end")
        self._opened = True
        self._client.note_tls()
        if self._client.secure and not self._client.encrypted:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the server does not speak it, and it is demanded")

    @property
    def max_payload(self) -> int:
        return int(self._client.max_payload)

    @property
    def servers(self) -> tuple[str, ...]:
        return tuple(addresses.without_login(url.geturl()) for url in self._client.discovered_servers)

    @property
    def auth_required(self) -> bool:
        return bool(self._info.get("auth_required", False))

    @property
    def verifies_clients(self) -> bool:
        return bool(self._info.get("tls_verify", False))

    @property
    def encrypted(self) -> bool:
        return self._client.encrypted

    @property
    def peer(self) -> str:
        writer = self._client.socket
        peer = writer.get_extra_info("peername") if writer is not None else None
        return str(peer[0]) if isinstance(peer, tuple) else ""

    @property
    def local(self) -> bool:
        return addresses.is_loopback_address(self.peer) if self.peer else addresses.is_loopback(self._url)

    @property
    def _info(self) -> dict[str, Any]:
        info = getattr(self._client, "_server_info", {})
        return info if isinstance(info, dict) else {}

    def lose(self, reason: str) -> None:
        if not self.lost.done():
            self.lost.set_result(reason)

    async def _note(self, error: Exception) -> None:
        self.last_error = error

    async def _leaves(self) -> None:
        if not self.leaving.done():
            self.leaving.set_result(None)

    async def _closed(self) -> None:
        self.lose(_reason(self.last_error))

    async def _until(self, done: asyncio.Future[Any], timeout: float) -> None:
        await asyncio.wait({done, self.lost}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        if done.done() and not done.cancelled():
            return
        if self.lost.done():
            raise WireLost(self.lost.result())
        raise TimeoutError

    async def close(self) -> None:
        self.lose("closed")
        if not self._opened:
            # After a failed TLS handshake nats-py would wait for an end that nobody tells it of.
            if self._client.socket is not None:
                self._client.socket.transport.abort()
            return
        with suppress(Exception):
            async with asyncio.timeout(_CLOSE_TIMEOUT):
                await self._client.close()


def _reason(error: Exception | None) -> str:
    if error is None or isinstance(error, nats.errors.UnexpectedEOF):
        return "the server ended the connection (stopped, or this client read too slowly)"
    if isinstance(error, nats.errors.StaleConnectionError):
        return "the server does not answer pings"
    return str(error).removeprefix("nats: ") or type(error).__name__


class DirectClient(SecureClient):
    """nats-py's client with messages, error lines and losses handed over at once."""

    def __init__(self, on_error: Callable[[str], None], on_loss: Callable[[str], None]) -> None:
        super().__init__()
        self.handlers: dict[int, MessageHandler] = {}
        self._tell_error = on_error
        self._tell_loss = on_loss
        self._slice_end = 0.0
        self._ps: Any = BatchParser(self._ps, self, in_payload=AWAITING_MSG_PAYLOAD)

    def deliver(self, sid: int, subject: bytes, reply: bytes, payload: bytes, headers: bytes) -> bool:
        """See :meth:`lattice.reading.Receiver.deliver`."""
        # A sign of life like a pong, which may wait behind megabytes that a slow link still carries.
        self._pings_outstanding = 0
        handler = self.handlers.get(sid)
        if handler is None:
            return False
        try:
            handler(subject.decode(), reply.decode(), header_block.parse(headers) if headers else None, payload)
        except Exception:
            log.exception("connection.handler_failed", subject=subject, bytes=len(payload))
        return monotonic() > self._slice_end

    async def yield_turn(self) -> None:
        """See :meth:`lattice.reading.Receiver.yield_turn`."""
        await asyncio.sleep(0)
        self._slice_end = monotonic() + _SLICE

    async def _process_msg(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes) -> None:
        if self.deliver(sid, subject, reply, data, headers):
            await self.yield_turn()

    async def _process_err(self, err_msg: str) -> None:
        text = err_msg.removeprefix("'").removesuffix("'")
        self._tell_error(text)
        if server_errors.ends_connection(text):
            self._tell_loss(f"the server ended the connection: {text}")

    async def _process_op_err(self, e: Exception) -> None:
        self._tell_loss(_reason(e))


class DirectWire(_NatsWire):
    """One nats-py client used for handshake, parsing and pings; messages pass it by."""

    def __init__(self, url: str, on_error: Callable[[str], None], *, secure: bool = False) -> None:
        """``secure``: take no server without TLS."""
        self._direct: Any = DirectClient(on_error, self.lose)
        super().__init__(url, on_error, self._direct, secure)
        self._writer: asyncio.StreamWriter | None = None

    async def open(self, arguments: dict[str, Any]) -> None:
        await super().open(arguments)
        self._writer = self._direct._transport._io_writer
        # However reading ends, also by an exception that nats-py only logs, the connection is of no use after it.
        self._direct._reading_task.add_done_callback(lambda _: self.lose(_reason(self.last_error)))

    @property
    def _out(self) -> asyncio.StreamWriter:
        assert self._writer is not None, "open() comes first"
        return self._writer

    @property
    def congested(self) -> bool:
        return self._out.transport.get_write_buffer_size() > _CONGESTED

    async def writable(self) -> None:
        drained: asyncio.Future[Any] = asyncio.ensure_future(self._out.drain())
        try:
            await asyncio.wait({drained, self.lost}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            drained.cancel()
            await asyncio.wait({drained})
            if not drained.cancelled():
                drained.exception()  # the loss of the wire, told by `lost`

    def write(self, messages: list[Outgoing]) -> None:
        parts: list[bytes] = []
        for subject, reply, headers, payload, _ in messages:
            size = len(payload)
            if headers:
                length = len(headers)
                parts += (f"HPUB {subject} {reply} {length} {length + size}\r\n".encode(), headers, payload, b"\r\n")
            else:
                parts += (f"PUB {subject} {reply} {size}\r\n".encode(), payload, b"\r\n")
        self._send(b"".join(parts))

    def _send(self, data: bytes) -> None:
        if not self._out.transport.is_closing():
            self._out.write(data)

    def subscribe(self, sid: int, subject: str, queue: str, handler: MessageHandler) -> None:
        self._direct.handlers[sid] = handler
        self._send(f"SUB {subject} {queue} {sid}\r\n".encode())

    def hand_to(self, sid: int, handler: MessageHandler) -> None:
        if sid in self._direct.handlers:
            self._direct.handlers[sid] = handler

    def unsubscribe(self, sid: int) -> None:
        self._send(f"UNSUB {sid}\r\n".encode())

    def forget(self, sid: int) -> None:
        self._direct.handlers.pop(sid, None)

    async def barrier(self, timeout: float) -> None:
        # nats-py sends a PING ahead of what it has queued; here the order on the wire is the order of the calls.
        # Its list of awaited PONGs must hold no cancelled future: that would end its reader.
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._direct._pongs.append(pong)
        self._send(b"PING\r\n")
        await self._until(pong, timeout)

    async def close(self) -> None:
        if self._writer is not None and (self.lost.done() or self.congested):
            # A half-open connection would first wait for the peer to take what is buffered.
            self._writer.transport.abort()
        await super().close()


class PublicWire(_NatsWire):
    """One nats-py client behind its documented interface: one task sends, one task per subscription receives.

    One promise is weaker: nats-py's ``drain`` confirms the end of a subscription a moment too early, so that a message
    which the server sends in that moment is lost. A server that stops reading is noticed late when bytes are unsent.
    """

    def __init__(self, url: str, on_error: Callable[[str], None], *, secure: bool = False) -> None:
        """``secure``: take no server without TLS."""
        super().__init__(url, on_error, SecureClient(), secure)
        self._work: asyncio.Queue[Callable[[], Any]] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._subscriptions: dict[int, Any] = {}
        self._handlers: dict[int, MessageHandler] = {}

    async def open(self, arguments: dict[str, Any]) -> None:
        await super().open(arguments)
        self._worker = begin(self._run(), "nats sender")

    @property
    def congested(self) -> bool:
        return self._work.qsize() > 64

    async def writable(self) -> None:
        with suppress(WireLost, TimeoutError):
            await self._after_work(None)

    def write(self, messages: list[Outgoing]) -> None:
        self._work.put_nowait(lambda: self._publish(messages))

    async def _publish(self, messages: list[Outgoing]) -> None:
        for subject, reply, headers, payload, _ in messages:
            await self._client.publish(
                subject, payload, reply=reply, headers=dict(header_block.parse(headers) or {}) or None
            )

    def subscribe(self, sid: int, subject: str, queue: str, handler: MessageHandler) -> None:
        self._handlers[sid] = handler

        async def receive(message: Msg) -> None:
            if (current := self._handlers.get(sid)) is None:
                return
            try:
                current(message.subject, message.reply, message.headers, message.data)
            except Exception:
                log.exception("connection.handler_failed", subject=message.subject, bytes=len(message.data))

        async def begin() -> None:
            self._subscriptions[sid] = await self._client.subscribe(subject, queue=queue, cb=receive)

        self._work.put_nowait(begin)

    def hand_to(self, sid: int, handler: MessageHandler) -> None:
        if sid in self._handlers:
            self._handlers[sid] = handler

    def unsubscribe(self, sid: int) -> None:
        async def end() -> None:
            if (subscription := self._subscriptions.pop(sid, None)) is not None:
                await self._flush()
                await subscription.drain()
                self._handlers.pop(sid, None)

        self._work.put_nowait(end)

    def forget(self, sid: int) -> None:
        """Nothing to do: ``drain`` has ended the subscription."""

    async def barrier(self, timeout: float) -> None:
        await self._after_work(timeout, self._flush)

    async def _flush(self) -> None:
        # Once is not enough: the PING overtakes what nats-py has still queued.
        await self._client.flush()
        await self._client.flush()

    async def _after_work(self, timeout: float | None, step: Callable[[], Any] | None = None) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        async def finish() -> None:
            if step is not None:
                await step()
            if not done.done():
                done.set_result(None)

        self._work.put_nowait(finish)
        await self._until(done, timeout or 3600.0)

    async def _run(self) -> None:
        while True:
            step = await self._work.get()
            try:
                await step()
            except (nats.errors.Error, OSError) as error:
                self.last_error = error
                if self._client.is_closed:
                    self.lose(_reason(error))
                    return
                log.warning("connection.error", server=self.server, error=str(error))

    async def _note(self, error: Exception) -> None:
        await super()._note(error)
        if isinstance(error, nats.errors.SlowConsumerError):
            log.warning("connection.slow_consumer", server=self.server, subject=error.subject)
        elif self._client.is_connected and not isinstance(error, nats.errors.UnexpectedEOF):
            self._on_error(str(error).removeprefix("nats: ").lower())

    async def close(self) -> None:
        if self._worker is not None:
            self._worker.cancel()
        await super().close()


# -- the probe ---------------------------------------------------------------------------------------------------------


async def internals_problem() -> str | None:
    """Why nats-py's private parts cannot be used as :class:`DirectWire` does, or None."""
    try:
        return await _play_session()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


async def _play_session() -> str | None:
    heard: list[Any] = []
    client = DirectClient(heard.append, lambda reason: heard.append("lost"))
    client.handlers[7] = lambda *message: heard.append(message)
    pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
    client._pongs.append(pong)
    for chunk in (b"MSG a.b 7 r.1 2\r\nhi\r\nHMSG a.", b"b 7 18 19\r\nNATS/1.0\r\nk: v\r\n\r\n!\r\nPONG\r\n"):
        await client._ps.parse(chunk)
    await client._ps.parse(b"-ERR 'Permissions Violation for Publish to \"A\"'\r\n-ERR 'Parser Error'\r\n")
    expected: list[Any] = [
        ("a.b", "r.1", None, b"hi"),
        ("a.b", "", {"k": "v"}, b"!"),
        'permissions violation for publish to "a"',
        "parser error",
        "lost",
    ]
    if heard != expected or not pong.done():
        return "this version of nats-py handles messages differently"
    return None if hasattr(client, "_transport") and hasattr(client, "_reading_task") else "attributes are missing"
