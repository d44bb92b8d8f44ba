"""A peer that answers calls and takes part in the exchange of large payloads."""

from __future__ import annotations

import asyncio

from lattice import rpc
from lattice.chunks import Chunks
from lattice.connection import Connection
from lattice.invocation import Invocation, InvocationResponse
from lattice.transport import Headers


class Storing:
    """Answers with ``size`` bytes, read from and stored in the object store where that is due."""

    def __init__(self, connection: Connection, chunks: Chunks, size: int | None = None) -> None:
        self.asked: list[tuple[Invocation, Headers]] = []
        self.seconds = 0.0
        self._connection = connection
        self._chunks = chunks
        self._size = size
        self._tasks: set[asyncio.Task[None]] = set()

    def __call__(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation = Invocation.decode(payload)
        self.asked.append((invocation, headers))
        self._tasks.add(asyncio.get_running_loop().create_task(self._answer(invocation, reply)))

    async def _answer(self, invocation: Invocation, reply: str) -> None:
        await asyncio.sleep(self.seconds)
        msg = invocation.msg
        if invocation.chunked:
            end = asyncio.get_running_loop().time() + 5
            size = invocation.content_length or 0
            msg = await self._chunks.receive(invocation.id, size, what="it", deadline=end)
        response = InvocationResponse(msg=msg if self._size is None else b"y" * self._size, invocation_id=invocation.id)
        if self._chunks.is_large(len(response.msg)):
            response = await rpc.store_answer(self._chunks, response, invocation.operation)
        rpc.respond(self._connection, reply, response)
