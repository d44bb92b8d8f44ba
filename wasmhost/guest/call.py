"""One call of an actor, from the queue to its outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from lattice.deadlines import Deadline, Deadlines
from lattice.errors import Code, GuestFailed, LatticeError, Unreachable
from wasmhost.guest.calls import CallContext
from wasmhost.guest.driving import STRAY_TICK, Driver
from wasmhost.guest.instance import Instance


class Lender(Protocol):
    """Where a call gets its instance from and returns it to."""

    driver: Driver
    deadlines: Deadlines
    time: Callable[[], float]
    """The clock of deadlines."""

    def forget(self, call: Call) -> None:
        """Take a call that nobody waits for any more out of the queue."""

    def driven(self, call: Call, *, by_task: bool) -> None:
        """Note which calls somebody awaits."""

    def release(self, instance: Instance, *, held: float) -> None:
        """Take an instance back after a call that held it for so many seconds."""

    def release_stray(self, instance: Instance) -> None:
        """Take back an instance whose call nobody will ever finish. Any thread."""


class Call:
    """Implements :class:`wasmhost.guest.calls.GuestCall` for a pool.

    It holds at most one instance, and gives it back exactly once: concluded, or poisoned by a deadline, a
    cancellation, or because nobody awaits it any more.
    """

    __slots__ = (
        "_abort",
        "_ended",
        "_error",
        "_instance",
        "_pool",
        "_response",
        "_scope",
        "_started",
        "_turn",
        "begun",
        "context",
        "deadline",
        "done",
        "operation",
        "payload",
    )

    def __init__(
        self, pool: Lender, operation: str, payload: bytes, context: CallContext, *, deadline: float, begun: float
    ) -> None:
        self._pool = pool
        self.operation = operation
        self.payload = payload
        self.context = context
        self.deadline = deadline
        self.begun = begun
        """When it arrived, by the clock of the loop."""
        self._started: float | None = None
        self._ended = begun
        self._instance: Instance | None = None
        self._turn: asyncio.Future[None] | None = None
        self._scope: Deadline | None = None
        self._abort: LatticeError | None = None
        self._response = b""
        self._error: LatticeError | None = None
        self.done = False

    def __del__(self) -> None:
        # A task that is cancelled before its first step never runs wait(). May happen on any thread.
        if self._instance is not None:
            self._pool.release_stray(self._instance)

    @property
    def waited(self) -> float:
        """Seconds from its arrival until it got an instance, or until it was done without one."""
        return (self._ended if self._started is None else self._started) - self.begun

    @property
    def ran(self) -> float:
        """Seconds for which a done call held an instance, its host calls included."""
        return 0.0 if self._started is None else self._ended - self._started

    def result(self) -> bytes:
        """The response of a done call; raises its error."""
        if self._error is not None:
            raise self._error
        if not self.done:
            raise RuntimeError("the call is not done; await wait()")
        return self._response

    async def wait(self) -> bytes:
        """Drive the call to its end. Await once, only if not done; cancelling throws the instance away."""
        self._pool.driven(self, by_task=True)
        try:
            with self._pool.deadlines.at(0 if self._abort else self.deadline) as self._scope:
                if not self.done and self._instance is None:
                    self._turn = asyncio.get_running_loop().create_future()
                    await self._turn
                if self._instance is not None:
                    await self._pool.driver.finish(self._instance, self.context)
                    self._conclude(self._instance)
        except TimeoutError:
            if not self.done:
                self.fail(self._abort or self._late())
        except LatticeError as error:
            self.fail(error)
        finally:
            self._scope = self._turn = None
            self._pool.driven(self, by_task=False)
            if not self.done:  # cancelled
                self.fail(Unreachable("the call was cancelled", code=Code.DISCONNECTED))
        return self.result()

    # --- for the pool -------------------------------------------------------------------------------------------

    def start(self, instance: Instance, now: float) -> None:
        """Run the call on a free instance until it ends or waits."""
        self._instance = instance
        self._started = now
        instance.deadline = self.deadline
        try:
            done = instance.invoke(self.operation.encode("utf-8", "replace"), self.payload)
        except LatticeError as error:
            self.fail(error, poison=False)
            return
        if not done and not instance.wanted and self._pool.time() - now < STRAY_TICK:
            done = instance.poll()
        if done:
            self._conclude(instance)
        else:
            self._wake()

    def fail(self, error: LatticeError, *, poison: bool = True) -> None:
        """End the call with an error; an instance it holds is in the middle of something unless ``poison`` is False."""
        self.done = True
        self._error = error.with_traceback(None)  # a kept traceback would keep this call, in a cycle
        instance, self._instance = self._instance, None
        self._ended = self._pool.time()
        if instance is None:
            self._pool.forget(self)
        else:
            instance.poisoned = instance.poisoned or poison
            self._pool.release(instance, held=self.ran)
        self._wake()

    def expire(self) -> None:
        """End a call whose deadline passed while it waited for an instance."""
        self.fail(self._late())

    def abort(self, error: LatticeError) -> None:
        """End a call that somebody awaits or begins to await, at the next turn of the loop."""
        self._abort = error
        if self._scope is not None:
            asyncio.get_running_loop().call_soon(self._scope.expire)

    def _conclude(self, instance: Instance) -> None:
        try:
            self._response = instance.conclude(self.operation)
        except LatticeError as error:
            self._error = error.with_traceback(None)
        self.done = True
        self._instance = None
        self._ended = self._pool.time()
        self._pool.release(instance, held=self.ran)
        self._wake()

    def _wake(self) -> None:
        if self._turn is not None and not self._turn.done():
            self._turn.set_result(None)

    def _late(self) -> LatticeError:
        allowed = self.deadline - self.begun
        if self._instance is None:
            return Unreachable(
                f"{self.operation}: no instance of the actor was free within {allowed:.3g} s", code=Code.TIMED_OUT
            )
        doing = ""
        if self._instance.wanted:
            doing = ", asleep" if self._instance.asleep else ", waiting for the answer to a host call"
        return GuestFailed(
            f"{self.operation}: the actor ran past its deadline of {allowed:.3g} s{doing}", code=Code.TIMED_OUT
        )
