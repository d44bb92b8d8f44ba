"""One connection to one server, from its handshake to its loss, as :mod:`lattice.session` needs it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from lattice.transport import MessageHandler


class Outgoing(NamedTuple):
    """One message on its way out; ``headers`` is the encoded block or empty."""

    subject: str
    reply: str
    headers: bytes
    payload: bytes
    is_request: bool


class WireLost(Exception):
    """The wire ended; ``str()`` says why."""


class Wire(Protocol):
    """One connection to one server."""

    @property
    def server(self) -> str:
        """Its URL without user information."""

    @property
    def servers(self) -> tuple[str, ...]:
        """Addresses of other servers of its cluster, as the server announced them."""

    @property
    def last_error(self) -> Exception | None:
        """What the client library told last."""

    @property
    def max_payload(self) -> int: ...

    @property
    def auth_required(self) -> bool: ...

    @property
    def verifies_clients(self) -> bool:
        """The server takes only clients with a certificate that it knows."""

    @property
    def encrypted(self) -> bool: ...

    @property
    def local(self) -> bool:
        """The server is on this machine, by the address of the socket; where that is not known, by its name."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Done, with the reason, as soon as the connection is known to be gone."""

    @property
    def leaving(self) -> asyncio.Future[None]:
        """Done as soon as the server has said that it is about to end (lame duck mode)."""

    @property
    def congested(self) -> bool:
        """The server takes bytes more slowly than they are written; write again after :meth:`writable`."""

    async def writable(self) -> None:
        """Return when :attr:`congested` ended or the wire is lost."""

    def write(self, messages: list[Outgoing]) -> None:
        """Send all messages in one write."""

    def subscribe(self, sid: int, subject: str, queue: str, handler: MessageHandler) -> None: ...

    def hand_to(self, sid: int, handler: MessageHandler) -> None:
        """Hand what arrives from now on to another handler; nothing happens where there is no such subscription."""

    def unsubscribe(self, sid: int) -> None:
        """Tell the server; messages that it had sent before are still handed over."""

    def forget(self, sid: int) -> None:
        """Hand nothing more to this subscription."""

    async def barrier(self, timeout: float) -> None:
        """Return when the server has processed all that was written, and all it sent before has been handed over.

        Raises WireLost, or TimeoutError.
        """

    async def close(self) -> None:
        """Bounded in time; never raises."""


Dial = Callable[[tuple[str, ...], Callable[[str], None]], Awaitable[Wire]]
"""``(more addresses, on_error) -> Wire``: one round over all addresses; raises LatticeError when none answers."""
