"""Listeners of the HTTP server in the test's own process, with a stand-in for the lattice behind them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lattice.contracts.httpserver import HttpRequest, HttpResponse
from providers.httpserver.limits import Limits
from providers.httpserver.listener import Listener, Room
from providers.httpserver.policy import Policy
from providers.httpserver.routes import Route, RouteTable
from providers.httpserver.tls import TlsFiles
from tests.support.nats import free_port


def describe(request: HttpRequest) -> HttpResponse:
    """Answers with what it was asked, as JSON."""
    document = {
        "method": request.method,
        "path": request.path,
        "query": request.query_string,
        "header": {name: list(values) for name, values in request.header.items()},
        "body": request.body.decode("latin-1"),
    }
    return HttpResponse(header={"content-type": ["application/json"]}, body=json.dumps(document).encode())


@dataclass
class StandIn:
    """The lattice of a listener: every call is answered by ``answer``."""

    answer: Callable[[HttpRequest], HttpResponse | Awaitable[HttpResponse]] = describe
    requests: list[HttpRequest] = field(default_factory=list)

    async def call(self, actor: str, operation: str, msg: bytes, timeout: float | None = None) -> bytes:
        request = HttpRequest.decode(msg)
        self.requests.append(request)
        response = self.answer(request)
        if not isinstance(response, HttpResponse):
            response = await response
        return response.encode()


@dataclass
class Served:
    """A listener that is open."""

    listener: Listener
    actor: StandIn
    port: int

    async def connect(self) -> Client:
        return Client(*await asyncio.open_connection("127.0.0.1", self.port))

    async def ask(self, *sent: bytes) -> bytes:
        """All that comes back for ``sent`` on a connection of its own."""
        client = await self.connect()
        try:
            client.send(*sent)
            return await client.rest()
        finally:
            client.close()


@asynccontextmanager
async def served(
    actor: StandIn | None = None,
    *,
    limits: Limits | None = None,
    policy: Policy | None = None,
    room: Room | None = None,
    tls: TlsFiles | None = None,
    host: str = "127.0.0.1",
) -> AsyncIterator[Served]:
    """One route to ``actor``."""
    actor = actor or StandIn()
    port = free_port()
    listener = Listener((host, port), actor, limits=limits, room=room)
    listener.routes = RouteTable().with_route(Route(actor="MTEST", policy=policy or Policy()))
    await listener.open(tls)
    try:
        yield Served(listener, actor, port)
    finally:
        await listener.close(1)


class Client:
    """A raw connection; every wait is bounded."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, *sent: bytes) -> None:
        for data in sent:
            self.writer.write(data)

    async def answer(self, *, body: bool = True) -> tuple[bytes, bytes]:
        """Head and body of the next answer."""
        async with asyncio.timeout(10):
            head = await self.reader.readuntil(b"\r\n\r\n")
            lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
            return head, await self.reader.readexactly(int(lengths[0].split(b":")[1]) if lengths and body else 0)

    async def document(self) -> dict[str, object]:
        """The next answer, which is JSON."""
        document = json.loads((await self.answer())[1])
        assert isinstance(document, dict)
        return document

    async def rest(self, timeout: float = 10) -> bytes:
        """Everything up to the end of the connection."""
        async with asyncio.timeout(timeout):
            try:
                return await self.reader.read(-1)
            except ConnectionResetError:
                return b"reset"

    def close(self) -> None:
        self.writer.transport.abort()
