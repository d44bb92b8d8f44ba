"""The asking side of :mod:`lattice.observation`: one request to every host, renewed for as long as somebody watches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Final, Protocol, TypeVar

import structlog

from lattice.background import begin
from lattice.control import Ack
from lattice.encoding import Encoding, encoding_of
from lattice.errors import Code, LatticeError, MalformedMessage, RemoteError
from lattice.observation import USUAL_LEASE, ObserveRequest
from lattice.transport import Headers, Transport

log = structlog.get_logger(__name__)

T = TypeVar("T")

MOST_WAITING: Final = 10_000
"""Messages kept for a reader that does not keep up; beyond it they are dropped and counted in the log."""
_RENEWALS: Final = 3
"""Per lease, so that one lost message does not end it."""


class ObserverTransport(Transport, Protocol):
    """A transport with inboxes of one's own."""

    def new_inbox(self) -> str:
        """A subject that nobody can guess."""


@asynccontextmanager
async def observe(
    transport: ObserverTransport,
    subject: str,
    key: str,
    read: Callable[[object], T],
    *,
    lines: int = 0,
    lease: float = USUAL_LEASE,
) -> AsyncIterator[AsyncIterator[T | LatticeError]]:
    """What hosts tell about ``key`` from now on, as ``read`` makes it; a host's refusal arrives as RemoteError.

    ``lines``: so many that were written before. ``lease``: seconds; 0 asks once and renews nothing.
    """
    arrived: asyncio.Queue[T | LatticeError] = asyncio.Queue(MOST_WAITING)
    dropped = 0

    def on_message(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        nonlocal dropped
        try:
            arrived.put_nowait(_answer(payload, headers, read))
        except MalformedMessage as error:
            log.warning("observation.malformed", reason=str(error))
        except asyncio.QueueFull:
            dropped += 1

    inbox = transport.new_inbox()
    request = ObserveRequest(key=key, lease=lease, lines=lines)

    def ask(request: ObserveRequest) -> None:
        transport.publish(subject, Encoding.MSGPACK.encode(request.to_dict()), reply=inbox)

    async def renew() -> None:
        while True:
            await asyncio.sleep(lease / _RENEWALS)
            with suppress(LatticeError):  # the server may be restarting; the next one counts
                ask(replace(request, lines=0))

    subscription = await transport.subscribe(inbox, on_message)
    ask(request)
    renewing = begin(renew(), "renew a lease") if lease else None
    try:
        yield _Arrivals(arrived)
    finally:
        if renewing is not None:
            renewing.cancel()
            with suppress(LatticeError):
                ask(replace(request, lease=0.0, lines=0))
            await asyncio.wait({renewing})
        if dropped:
            log.warning("observation.dropped", messages=dropped)
        with suppress(LatticeError):
            await subscription.unsubscribe()


class _Arrivals(AsyncIterator[T]):
    """Endless; unlike a generator's, a wait for the next one may be cancelled and begun again."""

    def __init__(self, queue: asyncio.Queue[T]) -> None:
        self._queue = queue

    async def __anext__(self) -> T:
        return await self._queue.get()


def _answer(payload: bytes, headers: Headers, read: Callable[[object], T]) -> T | LatticeError:
    value = encoding_of(payload, headers).decode(payload, "observation")
    if isinstance(value, dict) and "accepted" in value:
        ack = Ack.from_dict(value)
        try:
            code = Code(ack.code) if ack.code else Code.PROVIDER_ERROR
        except ValueError:
            code = Code.PROVIDER_ERROR
        return RemoteError(ack.error or "a host refused without a reason", code=code)
    return read(value)
