"""Carries a started guest to the end of its step: host calls, pauses, computing, cancellation."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod

import structlog

from lattice.errors import Code, GuestFailed, LatticeError, TooLarge
from wasmhost.guest.calls import CallContext, HostCallHandler, Limits
from wasmhost.guest.instance import Instance

log = structlog.get_logger(__name__)

STRAY_TICK = 0.002
"""A guest interrupted earlier than this many seconds after it went on met an epoch by chance and just goes on."""


def no_thread_left() -> GuestFailed:
    """The error of a guest that needs a thread where the system gives no more to this process."""
    return GuestFailed(
        "this host could not start a thread for it: the system's limit of threads or processes is reached;"
        " raise it (systemd: TasksMax, containers: the limit of pids)",
        code=Code.OVERLOADED,
    )


class Driver(ABC):
    """Drives the instances of one actor. Cancelling it leaves the instance unusable; the caller discards it."""

    def __init__(self, host_calls: HostCallHandler, limits: Limits, *, actor: str) -> None:
        self._host_calls = host_calls
        self._limits = limits
        self._log = log.bind(actor=actor)
        self._time = asyncio.get_running_loop().time

    @abstractmethod
    async def finish(self, instance: Instance, context: CallContext) -> None:
        """Return when the step of ``instance`` that was started, and is not done, is done."""

    async def _answer(self, instance: Instance, context: CallContext) -> None:
        pause = instance.pause()
        if pause is not None:
            instance.flush_log()
            instance.asleep = True
            await asyncio.sleep(pause)
            instance.resume()
            return
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
