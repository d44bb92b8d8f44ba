"""Who waits for which reply: the bookkeeping of requests that are under way, without I/O.

All replies of a connection arrive below one inbox; the last token of their subject says whose they are. Tokens are
random, since a responder sees the ones addressed to it and must not be able to guess another's.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from heapq import heappop, heappush

from lattice.errors import Code, LatticeError, Unreachable
from lattice.headers import STATUS
from lattice.transport import Headers, Reply

NO_RESPONDERS = "503"

TICK = 0.01
"""Seconds; a request ends at most this much later than its timeout says."""
_TOKEN = 16
_POOL = 256


class Gathered:
    """Replies to one request that several peers may answer."""

    __slots__ = ("ended", "replies")

    def __init__(self, ended: asyncio.Future[Reply]) -> None:
        self.ended = ended
        self.replies: list[Reply] = []


class Waiters:
    """Requests without an answer so far, by token.

    Time-outs share one timer: tokens lie in buckets of :data:`TICK` seconds, because a timer of its own per request
    costs more than all the rest of its bookkeeping.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: dict[str, tuple[asyncio.Future[Reply], str, float, Gathered | None]] = {}
        self._buckets: dict[int, list[str]] = {}
        self._order: list[int] = []
        self._timer: asyncio.TimerHandle | None = None
        self._armed_for = 0
        self._random = ""
        self._used = 0
        self.late = 0
        """Replies that came after their request had ended."""

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, subject: str, timeout: float) -> tuple[str, asyncio.Future[Reply]]:
        """A token and the future of its first reply; the future fails with TIMED_OUT after ``timeout`` seconds."""
        token = self._token()
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[token] = (future, subject, timeout, None)
        self._expire_later(token, timeout)
        return token, future

    def add_gathering(self, subject: str) -> tuple[str, Gathered]:
        """A token that collects replies until it is discarded; ``ended`` is done early when nobody listens."""
        token = self._token()
        gathered = Gathered(self._loop.create_future())
        self._waiting[token] = (gathered.ended, subject, 0.0, gathered)
        return token, gathered

    def discard(self, token: str) -> None:
        self._waiting.pop(token, None)

    def deliver(self, token: str, headers: Headers, payload: bytes) -> None:
        """Hand a reply to whoever waits for it."""
        waiting = self._waiting.get(token)
        if waiting is None:
            self.late += 1
            return
        future, subject, _, gathered = waiting
        if future.done():
            return
        if headers is not None and not payload and headers.get(STATUS) == NO_RESPONDERS:
            del self._waiting[token]
            future.set_exception(Unreachable(f"nobody listens on {subject}", code=Code.NO_RESPONDERS))
        elif gathered is not None:
            gathered.replies.append(Reply(payload, headers))
        else:
            del self._waiting[token]
            future.set_result(Reply(payload, headers))

    def fail(self, why: Callable[[str], LatticeError], *, only: Callable[[str], bool] | None = None) -> int:
        """End every request (or those whose subject ``only`` picks) with ``why(subject)``; says how many."""
        tokens = [t for t, (_, subject, _, _) in self._waiting.items() if only is None or only(subject)]
        for token in tokens:
            future, subject, _, _ = self._waiting.pop(token)
            if not future.done():
                future.set_exception(why(subject))
        return len(tokens)

    def close(self) -> None:
        """Stop the timer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _token(self) -> str:
        if self._used >= len(self._random):
            self._random = secrets.token_hex(_TOKEN // 2 * _POOL)
            self._used = 0
        token = self._random[self._used : self._used + _TOKEN]
        self._used += _TOKEN
        return token

    def _expire_later(self, token: str, timeout: float) -> None:
        bucket = int((self._loop.time() + timeout) / TICK) + 1
        tokens = self._buckets.get(bucket)
        if tokens is not None:
            tokens.append(token)
            return
        self._buckets[bucket] = [token]
        heappush(self._order, bucket)
        if self._timer is None or bucket < self._armed_for:
            self._arm()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._armed_for = self._order[0]
        self._timer = self._loop.call_at(self._armed_for * TICK, self._expire)

    def _expire(self) -> None:
        self._timer = None
        # The loop calls a timer up to its clock's resolution early.
        due = int(self._loop.time() / TICK + 0.01)
        while self._order and self._order[0] <= due:
            for token in self._buckets.pop(heappop(self._order)):
                waiting = self._waiting.pop(token, None)
                if waiting is None or waiting[0].done():
                    continue
                future, subject, timeout, _ = waiting
                future.set_exception(Unreachable(f"no reply from {subject} within {timeout:g} s", code=Code.TIMED_OUT))
        if not self._waiting:
            self._buckets.clear()
            self._order.clear()
        if self._order:
            self._arm()
