"""What passes between a guest and the host: one interface for all kinds of guests.

Core modules today, components later: callers only see ``begin``/``call`` of the pool and answer
:class:`HostCall` objects, whatever runs below.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class HostCall:
    """What a guest asked of the host through ``__host_call``."""

    binding: str
    """Link name; empty in actor-to-actor calls."""
    namespace: str
    """Contract id, public key of an actor, or call alias."""
    operation: str
    payload: bytes


@dataclass(slots=True)
class CallContext:
    """What one call brings along, handed back with each of its host calls."""

    deadline: float
    """``loop.time()`` at which the caller gives up, in seconds; earlier where the actor may not take as long."""
    invocation_id: str = ""
    depth: int = 0
    """How many local actor-to-actor calls are above this one."""


HostCallHandler = Callable[[HostCall, CallContext], Awaitable[bytes]]
"""Answers one host call. Any LatticeError becomes status 0 with ``str(error)`` as the guest's error text; every other
exception is logged and becomes status 0 with "internal error"."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one actor. Sizes in bytes, durations in seconds."""

    memory: int = 64 * 1024 * 1024
    """Largest linear memory of one instance."""
    retain_memory: int = 32 * 1024 * 1024
    """An instance that grew above this is retired after its call."""
    deadline: float = 10.0
    """Longest call, if the caller allows more."""
    request: int = 16 * 1024 * 1024
    reply: int = 16 * 1024 * 1024
    queue_bytes: int = 64 * 1024 * 1024
    """Request bytes that may wait for a free instance; beyond, calls are refused as overloaded."""
    log_bytes_per_call: int = 64 * 1024
    """Text a guest may log during one call; the rest is dropped with one notice."""


class GuestCall(Protocol):
    """A started call. ``done`` right after ``begin`` in the usual case: finished in one poll, no task needed."""

    @property
    def done(self) -> bool: ...

    @property
    def waited(self) -> float:
        """Seconds from its arrival until it got an instance, or until it was done without one."""

    @property
    def ran(self) -> float:
        """Seconds for which a done call held an instance, its host calls included."""

    def result(self) -> bytes:
        """The response bytes of a done call; raises GuestError, GuestFailed, Overloaded or Unreachable(TIMED_OUT)."""

    async def wait(self) -> bytes:
        """Drive the call to its end (host calls, computing, waiting for an instance). Cancelling discards the
        instance. Await exactly once, and only if not done."""
