"""Rounds: a reference and what is measured beside it, alternating in one run, with the processor time of each process.

Absolute numbers move with the machine and with its other work; the ratio of two neighbouring rounds moves little. So a
figure is the median of the ratios per round. A round with a wrong answer counts its failures, and a figure with any is
no result.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Plan:
    """How long to measure. Seconds are those of one round of one side."""

    rounds: int = 5
    seconds: float = 2.0
    warm_up: float = 1.0

    @classmethod
    def quick(cls) -> Plan:
        """For a look, not for a result: kernel ticks of 10 ms make processor times coarse."""
        return cls(rounds=2, seconds=0.5, warm_up=0.3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """What one side did in one round."""

    operations: int
    seconds: float
    failures: int = 0
    processor: Mapping[str, float] = field(default_factory=dict)
    """Processor seconds by process."""
    p50: float | None = None
    """Median seconds of one operation, where it was looked at."""

    @property
    def rate(self) -> float:
        return self.operations / self.seconds

    @property
    def each(self) -> float:
        """Seconds per operation."""
        return self.seconds / max(self.operations, 1)

    @property
    def busy(self) -> float:
        """Processor seconds per operation, all processes together."""
        return sum(self.processor.values()) / max(self.operations, 1)


Side = Callable[[], Awaitable[Round]]
"""Runs one round."""


@dataclass(frozen=True, slots=True)
class Series:
    """All rounds of one side; figures are medians over them."""

    name: str
    rounds: Sequence[Round]

    @property
    def rate(self) -> float:
        return statistics.median(each.rate for each in self.rounds)

    @property
    def each(self) -> float:
        return statistics.median(each.each for each in self.rounds)

    @property
    def p50(self) -> float | None:
        known = [each.p50 for each in self.rounds if each.p50 is not None]
        return statistics.median(known) if known else None

    @property
    def processor(self) -> dict[str, float]:
        """Processor seconds per operation by process."""
        return {
            process: statistics.median(each.processor[process] / max(each.operations, 1) for each in self.rounds)
            for process in self.rounds[0].processor
        }

    @property
    def operations(self) -> int:
        return sum(each.operations for each in self.rounds)

    @property
    def failures(self) -> int:
        return sum(each.failures for each in self.rounds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One result: what was measured beside its reference."""

    name: str
    reference: Series
    measured: Series
    target: float | None = None
    """Of the ratio; None where there is none."""
    of_time: bool = False
    """The ratio is that of the time per operation, and the target its largest; else of the rates, and its smallest."""

    @property
    def ratios(self) -> list[float]:
        """One per round."""
        pairs = zip(self.reference.rounds, self.measured.rounds, strict=True)
        if self.of_time:
            return [measured.each / reference.each for reference, measured in pairs]
        return [measured.rate / reference.rate for reference, measured in pairs]

    @property
    def ratio(self) -> float:
        return statistics.median(self.ratios)

    @property
    def processor_ratio(self) -> float | None:
        """Processor time per operation beside the reference's; None where it was not looked at or too short."""
        pairs = zip(self.reference.rounds, self.measured.rounds, strict=True)
        ratios = [measured.busy / reference.busy for reference, measured in pairs if reference.busy]
        return statistics.median(ratios) if ratios else None

    @property
    def failures(self) -> int:
        return self.reference.failures + self.measured.failures

    @property
    def reached(self) -> bool:
        if self.failures or not all(side.operations for side in (self.reference, self.measured)):
            return False
        if self.target is None:
            return True
        return self.ratio <= self.target if self.of_time else self.ratio >= self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A result with a bound of its own, not a ratio: bytes kept, time to an answer."""

    name: str
    values: Sequence[float]
    """One per round, in ``unit``."""
    unit: str
    beside: str
    """What to read it beside: the value of the reference, as a sentence."""
    target: float | None = None
    """The largest that is good; None where there is no bound."""
    failures: int = 0

    @property
    def value(self) -> float:
        return statistics.median(self.values)

    @property
    def reached(self) -> bool:
        return not self.failures and (self.target is None or self.value <= self.target)


Result = Figure | Reading


async def alternate(plan: Plan, sides: Mapping[str, Side]) -> dict[str, Series]:
    """Every side once per round, in turn: A B C, A B C, …"""
    rounds: dict[str, list[Round]] = {name: [] for name in sides}
    for _ in range(plan.rounds):
        for name, side in sides.items():
            rounds[name].append(await side())
    return {name: Series(name, done) for name, done in rounds.items()}


def processor_seconds(pid: int) -> float:
    """User and system time of a process so far: fields 14 and 15 of its stat file, in ticks of 10 ms."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident(pid: int) -> int:
    """Bytes of a process that are in memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def descriptors(pid: int) -> int:
    """Open files and sockets of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


class Clock:
    """Wall and processor time of a stretch; its figures are those of its end, or of now."""

    def __init__(self, pids: Mapping[str, int]) -> None:
        self._pids = pids
        self._busy = {name: processor_seconds(pid) for name, pid in pids.items()}
        self._start = time.perf_counter()
        self.seconds = 0.0
        self.processor: dict[str, float] = {}

    def stop(self) -> None:
        self.seconds = time.perf_counter() - self._start
        self.processor = {name: processor_seconds(pid) - self._busy[name] for name, pid in self._pids.items()}


@contextmanager
def timed(**pids: int) -> Iterator[Clock]:
    """Wall time of the block, and processor time of these processes meanwhile."""
    clock = Clock(pids)
    yield clock
    clock.stop()
