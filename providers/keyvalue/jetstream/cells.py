"""Keys of one bucket, read and changed by compare-and-set.

Changes of one key that arrive while another is on its way to the server are applied to the value together and written
once, each with an answer of its own: a hot counter costs one round trip per batch instead of one retry per caller.
What was written last is remembered, so that the next change of a key need not read first. The revision tells whether
the memory was right: an answer leaves only after a write that it allowed, or a read. When another process wrote the
key, the batch is applied again to what it wrote.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import structlog

from lattice.errors import Code, LatticeError, TooLarge
from lattice.store import Bucket, Conflict
from providers.keyvalue.jetstream import keys
from providers.keyvalue.store import shown
from providers.keyvalue.values import Change, Stored, Value
from providers.keyvalue.valuestore import ValueStore

log = structlog.get_logger()

MOST_CONFLICTS: Final = 100
"""Lost races in a row after which a batch gives up."""
MOST_BATCH: Final = 512
MOST_REMEMBERED: Final = 4096
"""Keys whose last written value is remembered, and the largest such value in bytes."""

Result = TypeVar("Result")


class ValueTooLarge(TooLarge):
    """A bucket holds what a key holds in one message, lists and sets, too. Nothing was stored."""

    confidential = True


@dataclass(slots=True, eq=False)
class _Request:
    change: Callable[[Stored], Change[Any]]
    answer: asyncio.Future[Any]


class Cells(ValueStore):
    """All keys of one bucket."""

    def __init__(self, bucket: Bucket, *, clock: Callable[[], float] = time.time) -> None:
        super().__init__(clock=clock)
        self.name = f"JetStream bucket {bucket.name}"
        self._bucket = bucket
        self._waiting: dict[str, list[_Request]] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._written: OrderedDict[str, tuple[Value, int]] = OrderedDict()

    async def read(self, key: str) -> Stored:
        return (await self._load(keys.encode(key)))[0]

    async def change(self, key: str, change: Callable[[Stored], Change[Result]]) -> Result:
        """As :class:`ValueStore` says. Cancelling the caller does not undo a change that is on its way. When the server
        does not answer, the change may have been stored or not; it is never sent twice.
        """
        stored_key = keys.encode(key)
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Result] = loop.create_future()
        waiting = self._waiting.setdefault(stored_key, [])
        waiting.append(_Request(change, answer))
        if stored_key not in self._workers:
            self._workers[stored_key] = loop.create_task(self._work(stored_key, waiting), name="key-value change")
        return await answer

    async def close(self) -> None:
        """Return when the changes under way are done or failed."""
        if self._workers:
            await asyncio.wait(list(self._workers.values()))

    async def _load(self, stored_key: str) -> tuple[Stored, int]:
        """Value and revision; revision 0 when the key was never there or is deleted."""
        entry = await self._bucket.get(stored_key)
        if entry is None:
            return None, 0
        return self._unless_ended(Value.decode(entry.value)), entry.revision

    def _unless_ended(self, value: Value) -> Stored:
        return None if value.ended(self.clock()) else value

    async def _work(self, stored_key: str, waiting: list[_Request]) -> None:
        """Serve the requests of one key until none is left."""
        try:
            while waiting:
                batch = waiting[:MOST_BATCH]
                del waiting[:MOST_BATCH]
                batch = [request for request in batch if not request.answer.done()]
                try:
                    await self._serve(stored_key, batch)
                except LatticeError as error:
                    _fail(batch, error)
                except Exception as error:
                    log.exception("keyvalue.change_broke")
                    _fail(batch, error)
        finally:
            del self._workers[stored_key], self._waiting[stored_key]
            _fail(waiting, LatticeError("the provider is stopping", code=Code.NOT_RUNNING))

    async def _serve(self, stored_key: str, batch: list[_Request]) -> None:
        remembered = self._written.pop(stored_key, None)
        for attempt in range(MOST_CONFLICTS):
            if remembered is not None:
                before, revision = self._unless_ended(remembered[0]), remembered[1]
            else:
                before, revision = await self._load(stored_key)
            after, outcomes = _apply(before, batch)
            if after is before and remembered is not None:
                remembered = None  # nothing to write that would prove the memory right
                continue
            try:
                await self._store(stored_key, before, after, revision)
            except Conflict:
                if remembered is None:
                    await asyncio.sleep(random.uniform(0, min(0.001 * 2**attempt, 0.05)))
                remembered = None
                continue
            for request, answer, failure in outcomes:
                if request.answer.done():
                    continue
                if failure is None:
                    request.answer.set_result(answer)
                else:
                    request.answer.set_exception(failure)
            return
        raise LatticeError(
            f"the key changed {MOST_CONFLICTS} times while it was being changed; try again", code=Code.CONFLICT
        )

    async def _store(self, stored_key: str, before: Stored, after: Stored, revision: int) -> None:
        """Write ``after`` if the key is still at ``revision``. Raises Conflict if it is not."""
        if after is before:
            return
        if after is None:
            await self._bucket.delete(stored_key, revision=revision)
            return
        data = after.encode()
        try:
            if revision:
                revision = await self._bucket.update(stored_key, data, revision)
            else:
                revision = await self._bucket.create(stored_key, data)
        except TooLarge as error:
            raise ValueTooLarge(
                f"key {shown(keys.decode(stored_key))} would hold {len(data)} bytes, more than the NATS server takes "
                "in one message; the key was not changed"
            ) from error
        if len(data) <= MOST_REMEMBERED:
            self._written[stored_key] = after, revision
            if len(self._written) > MOST_REMEMBERED:
                self._written.popitem(last=False)


def _apply(before: Stored, batch: list[_Request]) -> tuple[Stored, list[tuple[_Request, Any, LatticeError | None]]]:
    """The value after all changes, and each one's answer or failure."""
    after = before
    outcomes: list[tuple[_Request, Any, LatticeError | None]] = []
    for request in batch:
        try:
            after, answer = request.change(after)
            outcomes.append((request, answer, None))
        except LatticeError as error:
            outcomes.append((request, None, error))
    return after, outcomes


def _fail(requests: list[_Request], error: Exception) -> None:
    for request in requests:
        if not request.answer.done():
            request.answer.set_exception(error)
            request.answer.exception()  # nobody may be waiting any more
