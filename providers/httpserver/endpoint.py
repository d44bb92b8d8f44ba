"""The listening socket of one address, with or without TLS.

Connections are accepted here rather than by asyncio's server: that one forgets connections which it has accepted in the
moment it is closed, so that it cannot be replaced under load by one with another certificate. Here the certificate is
just a different one for the next connection.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from lattice.background import begin
from lattice.errors import Code, LatticeError
from providers.httpserver import tls
from providers.httpserver.limits import Limits
from providers.httpserver.settings import format_address
from providers.httpserver.tls import TlsFiles
from providers.provider import LinkFailed

log = structlog.get_logger()

BACKLOG: Final = 1024
_AT_ONCE: Final = 256
"""Connections accepted before others get their turn."""
_PAUSE: Final = 1.0
"""Seconds without accepting when the system has no room for a connection."""

Protocols = Callable[[bool], asyncio.BaseProtocol]
"""Makes the protocol of a new connection; told whether it speaks TLS."""


class Endpoint:
    """Accepts connections at one address."""

    def __init__(self, address: tuple[str, int], protocols: Protocols, limits: Limits) -> None:
        self.address = address
        self.tls: TlsFiles | None = None
        self._protocols = protocols
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._context: ssl.SSLContext | None = None
        self._greetings: set[asyncio.Task[None]] = set()
        self._renewal: asyncio.Task[None] | None = None

    async def open(
        self, files: TlsFiles | None, taken: socket.socket | None = None, *, beside: socket.socket | None = None
    ) -> None:
        """Bind and accept. Raises LinkFailed (``127.0.0.1:8080 in use``) or InvalidLinkValues.

        ``taken`` is a socket of another process that listens at this address already; nothing is accepted from it
        before :meth:`accept`. ``beside`` is a socket of this process that may have the same port at other addresses.
        """
        try:
            await self.change(files)
            self._socket = taken or _bind(self.address, beside)
        except BaseException:
            if taken is not None:
                taken.close()
            self.close()
            raise
        if taken is None:
            self.accept()

    @property
    def listening(self) -> socket.socket | None:
        """The socket that connections are accepted from, while there is one."""
        return self._socket

    @property
    def greetings(self) -> frozenset[asyncio.Task[None]]:
        """Accepted connections that have no protocol yet."""
        return frozenset(self._greetings)

    def accept(self) -> None:
        """Accept connections from now on."""
        if self._socket is not None:
            self._loop.add_reader(self._socket, self._accept)

    async def change(self, files: TlsFiles | None) -> None:
        """Speak TLS with other files, or none, from the next connection on. After an error nothing has changed."""
        context = None if files is None else await asyncio.to_thread(tls.context, files)
        self._context, self.tls = context, files
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        if files is not None and context is not None:
            name = f"certificate of {format_address(self.address)}"
            self._renewal = begin(_renew(context, files, self._limits.renewal), name)

    def close(self) -> None:
        """Free the port, at once. Handshakes that are under way end as they may."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None

    def _accept(self) -> None:
        assert self._socket is not None
        for _ in range(_AT_ONCE):
            try:
                accepted, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no more files, no more memory: nothing that trying harder would mend
                log.warning("http.accept_failed", address=format_address(self.address), reason=str(error))
                self._loop.remove_reader(self._socket)
                self._loop.call_later(_PAUSE, self.accept)
                return
            accepted.setblocking(False)
            task = self._loop.create_task(self._greet(accepted))
            self._greetings.add(task)
            task.add_done_callback(self._greetings.discard)

    async def _greet(self, accepted: socket.socket) -> None:
        """Give the connection its protocol, after the handshake where there is one."""
        context = self._context
        secure = context is not None
        try:
            await self._loop.connect_accepted_socket(
                lambda: self._protocols(secure),
                accepted,
                ssl=context,
                ssl_handshake_timeout=self._limits.handshake if secure else None,
            )
        except OSError:  # TLS and time-outs included: a client that wants something else, or nothing any more
            accepted.close()


async def _renew(context: ssl.SSLContext, files: TlsFiles, interval: float) -> None:
    """Load the certificate again whenever its files change; the old one stays while the new ones make no pair."""
    known = await _stamp(files)
    while True:
        await asyncio.sleep(interval)
        found = await _stamp(files)
        if found == known:
            continue
        known = found
        try:
            await asyncio.to_thread(tls.context, files)  # a try, as a failure may leave half a pair in use
            await asyncio.to_thread(tls.load, context, files)
            log.info("tls.renewed", certificate=files.certificate)
        except LatticeError as error:
            log.warning("tls.renewal_failed", certificate=files.certificate, reason=str(error))


async def _stamp(files: TlsFiles) -> tuple[int, ...]:
    try:
        return await asyncio.to_thread(tls.stamp, files)
    except OSError:
        return ()


def _bind(address: tuple[str, int], beside: socket.socket | None = None) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    sharing = [bound, beside] if beside is not None and beside.fileno() >= 0 else []
    try:
        for each in sharing:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.setblocking(False)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, host != "::")  # '::' is every address, v4 too
        bound.bind((host, port))
        bound.listen(BACKLOG)
    except OSError as error:
        bound.close()
        shown = format_address(address)
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
    finally:
        for each in sharing:
            if each.fileno() >= 0:
                each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 0)
    return bound
