"""A way to a server that can become slow or silent: a TCP proxy that tests command."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from contextlib import suppress


class Proxy:
    """Forwards connections to a loopback port, from a thread of its own. Use with ``with``."""

    def __init__(self, target: int, *, delay: float = 0.0) -> None:
        """``target``: the port to forward to; ``delay``: seconds that everything takes, each way."""
        self.delay = delay
        self._target = target
        self._silent = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.connections = 0
        """Accepted so far."""

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    def __enter__(self) -> Proxy:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(5)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def fall_silent(self) -> None:
        """Keep every connection open, take whatever is sent, and pass nothing on; so with new ones."""
        self._silent = True

    def forward_new(self) -> None:
        """Serve new connections again; those that fell silent stay so, as what they lost cannot be made up for."""
        self._silent = False

    def cut(self) -> None:
        """End every connection; new ones are served as before."""

        async def end() -> None:
            for task in list(self._tasks):
                task.cancel()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)

    async def _listen(self) -> None:
        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = self._loop.create_task(self._serve(reader, writer))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

        self._server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        state = {"silent": self._silent}
        try:
            if self._silent:
                await _swallow(reader)
                return
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
            ways = [
                asyncio.ensure_future(self._pass(reader, far_writer, state)),
                asyncio.ensure_future(self._pass(far_reader, writer, state)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.wait(ways)
                far_writer.transport.abort()
        except OSError:
            pass
        finally:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, state: dict[str, bool]) -> None:
        """One direction: what arrives leaves ``delay`` seconds later, at whatever rate."""
        waiting: deque[tuple[float, bytes]] = deque()
        arrived = asyncio.Event()

        async def write() -> None:
            while True:
                await arrived.wait()
                arrived.clear()
                while waiting:
                    due, data = waiting.popleft()
                    await asyncio.sleep(max(0.0, due - self._loop.time()))
                    if not state["silent"]:
                        writer.write(data)
                        await writer.drain()

        writing = asyncio.ensure_future(write())
        try:
            while data := await reader.read(65536):
                state["silent"] = state["silent"] or self._silent
                waiting.append((self._loop.time() + self.delay, data))
                arrived.set()
            if state["silent"]:
                await asyncio.Event().wait()  # the other side does not learn of the end, either
        except OSError:
            pass
        finally:
            writing.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await writing


async def _swallow(reader: asyncio.StreamReader) -> None:
    with suppress(OSError):
        while await reader.read(65536):
            pass
