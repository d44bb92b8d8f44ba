"""What a pool does next: pure decisions over numbers, carried out by the pool."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Plan:
    """Numbers of calls to assign, instances to start and idle instances to retire."""

    assign: int = 0
    grow: int = 0
    retire: int = 0


def plan(*, waiting: int, idle: int, starting: int, size: int, wanted: int) -> Plan:
    """Serve waiting calls with idle instances, in order; start more for the rest up to ``wanted``.

    ``size`` counts instances that are idle, busy or starting; ``starting`` those that a waiting call may count on.
    """
    assign = min(waiting, idle)
    starved = waiting - idle - starting
    return Plan(
        assign=assign,
        grow=max(0, min(starved, wanted - size)),
        retire=max(0, min(idle - assign, size - wanted)),
    )


_FIRST = 3
_SMOOTHING = 0.1


class Average:
    """A moving average of durations in seconds, unknown until three of them came.

    It begins with the shortest of those: by the first one alone, a hiccup of the machine would pass for how long every
    call takes, and refuse a burst that is no load.
    """

    __slots__ = ("_seen", "_shortest", "value")

    def __init__(self) -> None:
        self.value = 0.0
        """0 while unknown."""
        self._seen = 0
        self._shortest = float("inf")

    def add(self, seconds: float) -> None:
        """One more; the newest one counts a tenth."""
        if self.value:
            self.value += (seconds - self.value) * _SMOOTHING
        elif seconds > 0:
            self._seen += 1
            self._shortest = min(self._shortest, seconds)
            if self._seen == _FIRST:
                self.value = self._shortest

    def bound(self, seconds: float) -> None:
        """One that is this long at most: it counts if that is shorter than the average."""
        if seconds < self.value:
            self.value += (seconds - self.value) * _SMOOTHING


PATIENCE = 0.5
"""Part of the caller's remaining time by which a call must be expected to end. Under overload every accepted call
waits as long as the bound allows, so that without this reserve most of them would be answered a moment too late."""


@dataclass(frozen=True, slots=True)
class Queue:
    """The state that decides whether one more call may wait. Durations in seconds."""

    waiting: int
    waiting_bytes: int
    byte_limit: int
    instances: int
    """How many calls run at a time."""
    service_time: float
    """Moving average of how long a call holds its instance; 0 while unknown."""
    pace: float = 0.0
    """Moving average of the time from one call leaving the queue to the next; 0 while unknown. It is longer than
    ``service_time / instances`` where instances share a processor, among themselves and with all other work."""

    @property
    def expected_wait(self) -> float:
        """How long a call that arrives now waits for its turn; of the running ones half is over."""
        return (self.waiting + 0.5) * max(self.pace, self.service_time / max(1, self.instances))


def refusal(queue: Queue, *, size: int, remaining: float) -> str | None:
    """Why a call of ``size`` bytes whose caller gives up in ``remaining`` seconds may not wait; None if it may.

    What counts is the expected wait, not the number of calls: 200 calls of 20 µs are no load, 20 of a second are.
    """
    if queue.waiting_bytes + size > queue.byte_limit:
        return f"{queue.waiting} calls with {queue.waiting_bytes} bytes wait already"
    expected = queue.expected_wait + queue.service_time
    if expected > remaining * PATIENCE:
        return (
            f"{queue.waiting} calls wait already, another one would take about {expected:.2g} s,"
            f" and its caller gives up in {max(0.0, remaining):.2g} s"
        )
    return None
