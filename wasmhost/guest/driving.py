"""Carries a started guest to the end of its step: host calls, computing, cancellation."""

from __future__ import annotations

import asyncio

import structlog

from lattice.errors import LatticeError, TooLarge
from wasmhost.guest.calls import CallContext, HostCallHandler, Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.instance import Instance

log = structlog.get_logger(__name__)

_TICKS_INLINE = 2
"""Epochs a guest may spend on the loop thread during one call; then it goes on in a worker thread."""


_TURN = 0.002
"""Seconds of host calls that are answered at once before others get their turn."""


class Driver:
    """Drives the instances of one actor. Cancelling it leaves the instance unusable; the caller discards it."""

    def __init__(self, engine: Engine, host_calls: HostCallHandler, limits: Limits, *, actor: str) -> None:
        self._engine = engine
        self._host_calls = host_calls
        self._limits = limits
        self._log = log.bind(actor=actor)
        self._time = asyncio.get_running_loop().time

    async def finish(self, instance: Instance, context: CallContext) -> None:
        """Return when the step of ``instance`` that was started, and is not done, is done."""
        ticks = 1
        done = False
        turn = self._time()
        while not done:
            if instance.wanted:
                await self._answer(instance, context)
                if self._time() - turn > _TURN:
                    await asyncio.sleep(0)  # answers may have come without waiting
                    turn = self._time()
            elif ticks < _TICKS_INLINE:
                await asyncio.sleep(0)  # others first; the caller's deadline decides when it is enough
            # Once a guest computed for long it stays on threads to the end of its call: it may do so again.
            done = await self._compute(instance) if ticks >= _TICKS_INLINE else instance.poll()
            if not done and not instance.wanted:
                ticks += 1
                instance.flush_log()

    async def _answer(self, instance: Instance, context: CallContext) -> None:
        try:
            reply = await self._host_calls(instance.host_call(), context)
            if len(reply) > self._limits.reply:
                raise TooLarge(
                    f"the reply of {len(reply)} bytes is above this actor's limit of {self._limits.reply} bytes"
                )
        except LatticeError as error:
            instance.answer_error(str(error))
        except Exception:
            self._log.exception("host_call.failed", invocation=context.invocation_id)
            instance.answer_error("internal error")
        else:
            instance.answer(reply)

    async def _compute(self, instance: Instance) -> bool:
        slice_ = self._engine.compute(instance)
        try:
            return await asyncio.wrap_future(slice_)
        except asyncio.CancelledError:
            # A thread may be inside the guest until the next tick. Only then can the instance be closed.
            instance.interrupted = True
            instance.lent = True
            slice_.add_done_callback(lambda _: instance.close())
            raise
