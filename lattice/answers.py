"""Many answers to one question: what a request with a single reply cannot do."""

from __future__ import annotations

import asyncio
import secrets
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import NamedTuple

from lattice.connection import Connection
from lattice.errors import Code, LatticeError, Unreachable
from lattice.transport import Headers, State, Subscription


class Answer(NamedTuple):
    """One message; ``reply`` is where it wants an answer itself, or empty."""

    reply: str
    headers: Headers
    payload: bytes


def _lost() -> Unreachable:
    return Unreachable(
        "the connection to the NATS server was lost before everything had arrived", code=Code.DISCONNECTED
    )


class Question:
    """The answers to one question, in the order of their arrival, kept without bound: ask for few at a time."""

    def __init__(self, inbox: str) -> None:
        self.inbox = inbox
        """The subject to name for replies; nobody can guess it."""
        self._waiting: deque[Answer] = deque()
        self._arrived = asyncio.Event()
        self._lost = False

    async def next(self, timeout: float) -> Answer:
        """The next answer, ``timeout`` seconds from now at most. Raises Unreachable: TIMED_OUT or DISCONNECTED."""
        if not self._waiting:
            self._arrived.clear()
            if not self._lost:
                try:
                    async with asyncio.timeout(timeout):
                        await self._arrived.wait()
                except TimeoutError:
                    raise Unreachable(f"the NATS server sent nothing for {timeout:g} s") from None
            if not self._waiting:
                raise _lost()
        return self._waiting.popleft()

    def add(self, reply: str, headers: Headers, payload: bytes) -> None:
        self._waiting.append(Answer(reply, headers, payload))
        self._arrived.set()

    def lose(self) -> None:
        """Nothing more will come."""
        self._lost = True
        self._arrived.set()


class Answers:
    """Questions on one connection. Those with replies share one subscription, so that asking costs none."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._prefix = f"{connection.new_inbox()}."
        self._open: dict[str, Question] = {}
        self._opening = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._end_watch: Callable[[], None] | None = None

    async def open(self) -> None:
        """Subscribe, unless that was done. Raises as ``Connection.subscribe`` does."""
        async with self._opening:
            if self._subscription is None:
                self._subscription = await self._connection.subscribe(f"{self._prefix}*", self._on_reply)
            if self._end_watch is None:
                self._end_watch = self._connection.on_state(self._on_state)

    async def close(self) -> None:
        """Leave; whoever still waits is told that the connection is lost."""
        subscription, self._subscription = self._subscription, None
        end_watch, self._end_watch = self._end_watch, None
        if end_watch is not None:
            end_watch()
        self._on_state(State.CLOSED)
        if subscription is not None:
            with suppress(LatticeError):  # without a connection nothing arrives any more
                await subscription.unsubscribe()

    @contextmanager
    def question(self) -> Iterator[Question]:
        """A question whose answers are replies, sent to its inbox. :meth:`open` comes first."""
        question = Question(f"{self._prefix}{secrets.token_hex(8)}")
        self._open[question.inbox] = question
        try:
            yield question
        finally:
            del self._open[question.inbox]

    @asynccontextmanager
    async def delivery(self) -> AsyncIterator[Question]:
        """A question whose answers a consumer delivers: they keep the subjects that they were stored under."""
        if self._connection.state is not State.CONNECTED:
            raise _lost()  # subscribing would wait for the next server
        question = Question(self._connection.new_inbox())
        subscription = await self._connection.subscribe(
            question.inbox, lambda subject, reply, headers, payload: question.add(reply, headers, payload)
        )
        self._open[question.inbox] = question
        try:
            yield question
        finally:
            del self._open[question.inbox]
            with suppress(LatticeError):
                await subscription.unsubscribe()

    def _on_reply(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        question = self._open.get(subject)
        if question is not None:
            question.add(reply, headers, payload)

    def _on_state(self, state: State) -> None:
        if state is not State.CONNECTED:
            for question in self._open.values():
                question.lose()
