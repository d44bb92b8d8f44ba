"""The listening socket of one address, with or without TLS.

The socket is bound once. Whoever serves it can be replaced, with another certificate or none, while clients go on
connecting: both accept from the same queue for a moment.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from typing import Final

import structlog

from lattice.errors import Code, LatticeError
from providers.httpserver import tls
from providers.httpserver.limits import Limits
from providers.httpserver.settings import format_address
from providers.httpserver.tls import TlsFiles
from providers.provider import LinkFailed

log = structlog.get_logger()

BACKLOG: Final = 1024

Protocols = Callable[[bool], asyncio.BaseProtocol]
"""Makes the protocol of a new connection; told whether it speaks TLS."""


class Endpoint:
    """Accepts connections at one address."""

    def __init__(self, address: tuple[str, int], protocols: Protocols, limits: Limits) -> None:
        self.address = address
        self.tls: TlsFiles | None = None
        self._protocols = protocols
        self._limits = limits
        self._socket: socket.socket | None = None
        self._server: asyncio.Server | None = None
        self._renewal: asyncio.Task[None] | None = None

    async def open(self, files: TlsFiles | None) -> None:
        """Bind and accept. Raises LinkFailed (``127.0.0.1:8080 in use``) or InvalidLinkValues."""
        context = await self._context(files)
        self._socket = _bind(self.address)
        try:
            await self._serve(files, context)
        except BaseException:
            self.close()
            raise

    async def change(self, files: TlsFiles | None) -> None:
        """Speak TLS with other files, or none, from the next connection on. After an error nothing has changed."""
        await self._serve(files, await self._context(files))

    def close(self) -> None:
        """Free the port, at once."""
        for closable in (self._server, self._socket):
            if closable is not None:
                closable.close()
        if self._renewal is not None:
            self._renewal.cancel()
        self._server = self._socket = self._renewal = None

    async def _context(self, files: TlsFiles | None) -> ssl.SSLContext | None:
        return None if files is None else await asyncio.to_thread(tls.context, files)

    async def _serve(self, files: TlsFiles | None, context: ssl.SSLContext | None) -> None:
        assert self._socket is not None
        secure = context is not None
        server = await asyncio.get_running_loop().create_server(
            lambda: self._protocols(secure),
            sock=self._socket.dup(),
            backlog=BACKLOG,
            ssl=context,
            ssl_handshake_timeout=self._limits.handshake if secure else None,
        )
        before, self._server = self._server, server
        if before is not None:
            before.close()
        if self._renewal is not None:
            self._renewal.cancel()
            self._renewal = None
        self.tls = files
        if files is not None and context is not None:
            self._renewal = asyncio.get_running_loop().create_task(
                _renew(context, files, self._limits.renewal), name=f"certificate of {format_address(self.address)}"
            )


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


def _bind(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
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
    return bound
