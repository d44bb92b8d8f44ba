"""The URLs at which applications answer, and waiting until they do."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from lattice.contracts import httplink
from lattice.links import LinkDefinition

HTTP_CONTRACT = "wasmcloud:httpserver"
PROBE_TIMEOUT = 2.0
PROBE_INTERVAL = 0.05
_ANY_ADDRESS = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]", "": "127.0.0.1"}

# A body that no HTTP provider takes: it is refused by the route's own listener, so the actor is not called. A counter
# must not count the question whether it is there.
_OVERSIZED = 1 << 40


@dataclass(frozen=True, slots=True)
class Address:
    """Where one link can be reached over HTTP."""

    host: str
    """Name or address; IPv6 in brackets."""
    port: int
    path: str = "/"
    virtual_host: str = ""
    """The Host header that the route wants; empty for any."""
    secure: bool = False
    """It speaks TLS."""

    @classmethod
    def of(cls, link: LinkDefinition) -> Self | None:
        """The address in the values of an HTTP link; None for other links and values that are not understood."""
        if link.contract_id != HTTP_CONTRACT:
            return None
        given, _ = httplink.given(link.values)
        settings = {setting.key: str(setting.value) for setting in given}
        last = [setting for setting in given if setting.key in ("address", "port")]
        if last and last[-1].key == "port":
            host, port = "127.0.0.1", settings["port"]
        else:
            host, _, port = settings.get("address", "").rpartition(":")
        if not port.isascii() or not port.isdigit():
            return None
        prefix = settings.get("path_prefix", "/")
        return cls(
            host=_ANY_ADDRESS.get(host, host),
            port=int(port),
            path=prefix if prefix.startswith("/") else f"/{prefix}",
            virtual_host=settings.get("host", ""),
            secure="tls.cert_file" in settings,
        )

    @property
    def url(self) -> str:
        """For people and for ``curl``."""
        return f"{'https' if self.secure else 'http'}://{self.virtual_host or self.host}:{self.port}{self.path}"

    async def answers(self) -> bool:
        """Whether something at this address speaks HTTP and has a route for it; calls no actor."""
        writer = None
        head = (
            f"POST {self.path} HTTP/1.1\r\nHost: {self.virtual_host or self.host}:{self.port}\r\n"
            f"Content-Length: {_OVERSIZED}\r\nConnection: close\r\n\r\n"
        )
        try:
            async with asyncio.timeout(PROBE_TIMEOUT):
                reader, writer = await asyncio.open_connection(
                    self.host.strip("[]"), self.port, ssl=_any_certificate() if self.secure else None
                )
                writer.write(head.encode())
                status = await reader.readline()
            return status.startswith(b"HTTP/1.") and b" 404 " not in status
        except (OSError, TimeoutError, ValueError):
            return False
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError, TimeoutError):
                    async with asyncio.timeout(PROBE_TIMEOUT):
                        await writer.wait_closed()

    async def wait_answers(self, timeout: float) -> bool:
        """Ask until it answers, ``timeout`` seconds at most; False when it never did."""
        for _ in range(max(1, int(timeout / PROBE_INTERVAL))):
            if await self.answers():
                return True
            await asyncio.sleep(PROBE_INTERVAL)
        return False


def _any_certificate() -> ssl.SSLContext:
    """Whether somebody answers is asked here, not who: the certificate may be for another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def addresses(links: Iterable[LinkDefinition]) -> list[Address]:
    """The HTTP addresses of ``links``, each once."""
    return list(dict.fromkeys(address for link in links if (address := Address.of(link)) is not None))
