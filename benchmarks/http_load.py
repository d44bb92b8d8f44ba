"""The load generator for HTTP: keep-alive connections that each have one request on its way.

A protocol class on asyncio's streams of bytes, in the process that measures: it costs about as much processor time per
request as a generator in C, where the kernel's part dominates, and unlike one it looks at every answer.
"""

from __future__ import annotations

import asyncio
import statistics
import time

from benchmarks.rounds import Round, timed

_LAST_ANSWERS = 5.0
"""Seconds after the end of a round in which its last answers must have come."""
_CONNECT = 5.0


class _Load:
    """What the connections of one round share."""

    def __init__(self, request: bytes, body: bytes) -> None:
        self.request = request
        self.body = body
        self.end = 0.0
        self.latencies: list[float] = []
        self.failures = 0


class _Client(asyncio.Protocol):
    """Sends the next request when the last one is answered."""

    def __init__(self, load: _Load) -> None:
        self._load = load
        self._received = b""
        self._sent = 0.0
        self._length = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._load.request)

    def data_received(self, data: bytes) -> None:
        if self._received:
            data = self._received + data
        load = self._load
        # The answers of a server differ in their date only, so that all are as long as the first.
        if len(data) != (self._length or self._measured(data)):
            self._received = data
            if self._length and len(data) > self._length:
                self._fail()
            return
        self._received = b""
        if not (data.startswith(b"HTTP/1.1 200 ") and data.endswith(load.body)):
            self._fail()
            return
        now = time.perf_counter()
        load.latencies.append(now - self._sent)
        if now < load.end:
            self._sent = now
            self._transport.write(load.request)
        else:
            self._finish()

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self._fail()

    def _measured(self, data: bytes) -> int:
        """Bytes of the answer that ``data`` begins with; 0 while its head is incomplete."""
        head, end, _ = data.partition(b"\r\n\r\n")
        if not end:
            return 0
        _, name, rest = head.lower().partition(b"\r\ncontent-length:")
        if not name:
            self._fail()
            return 0
        self._length = len(head) + len(end) + int(rest.partition(b"\r\n")[0])
        return self._length

    def _fail(self) -> None:
        self._load.failures += 1
        self._finish()

    def _finish(self) -> None:
        if not self.done.done():
            self.done.set_result(None)
        self._transport.close()


async def load(
    port: int, request: bytes, body: bytes, *, connections: int, seconds: float, processes: dict[str, int]
) -> Round:
    """Ask a server on loopback for so long; every answer must be a 200 with this body.

    A connection that fails is not opened again: a round with a failure is no result.
    """
    loop = asyncio.get_running_loop()
    shared = _Load(request, body)
    clients: list[_Client] = []
    async with asyncio.timeout(_CONNECT):
        for _ in range(connections):
            _, client = await loop.create_connection(lambda: _Client(shared), "127.0.0.1", port)
            clients.append(client)
    with timed(**processes) as clock:
        shared.end = time.perf_counter() + seconds
        for client in clients:
            client.send()
        _, late = await asyncio.wait([client.done for client in clients], timeout=seconds + _LAST_ANSWERS)
    for client in clients:
        if client.done in late:
            client._fail()
    return Round(
        operations=len(shared.latencies),
        seconds=clock.seconds,
        failures=shared.failures,
        processor=clock.processor,
        p50=statistics.median(shared.latencies) if shared.latencies else None,
    )
