"""Actors on the real engine, their host calls answered by the test."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from lattice.errors import RemoteError
from wasmhost.guest.calls import CallContext, HostCall, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.pool import ActorPool


class Actor:
    """A running actor. ``replies`` are the answers to its host calls in order; an exception is an error text."""

    def __init__(self) -> None:
        self.asked: list[HostCall] = []
        self.replies: list[bytes | str] = []
        self.pool: ActorPool | None = None

    async def answer(self, call: HostCall, _context: CallContext) -> bytes:
        self.asked.append(call)
        reply = self.replies.pop(0)
        if isinstance(reply, str):
            raise RemoteError(reply)
        return reply

    async def call(self, operation: str, payload: bytes, *replies: bytes | str) -> bytes:
        """Make one call; ``replies`` answer its host calls: bytes for success, text for an error."""
        assert self.pool is not None
        self.replies = list(replies)
        self.asked = []
        context = CallContext(deadline=asyncio.get_running_loop().time() + 10)
        response = await self.pool.call(operation, payload, context)
        assert not self.replies, "the actor made fewer host calls than expected"
        return response


Start = Callable[[bytes], Awaitable[Actor]]


@pytest.fixture(scope="session", params=["suspendable", "threads"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """The engine of this folder's tests, one for all as in a host; each test runs in both variants."""
    engine = Engine.open(tmp_path_factory.mktemp("compiled"), variant=request.param)
    yield engine
    engine.close()


@pytest.fixture
async def start(engine: Engine) -> AsyncIterator[Start]:
    """Start an actor from the bytes of its module."""
    pools: list[ActorPool] = []

    async def start(wasm: bytes) -> Actor:
        actor = Actor()
        actor.pool = ActorPool(
            engine,
            await engine.load(wasm),
            actor="M-under-test",
            limits=Limits(),
            host_calls=actor.answer,
            instances=1,
        )
        pools.append(actor.pool)
        await actor.pool.start_one()
        return actor

    yield start
    for pool in pools:
        await pool.close()
