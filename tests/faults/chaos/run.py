"""One run: load, faults, the time to settle, and the verdict."""

from __future__ import annotations

import random
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from tests.faults.chaos import faults
from tests.faults.chaos.traffic import Outcome, Request, Traffic
from tests.faults.chaos.truth import untruths
from tests.faults.chaos.world import World
from tests.support.daemons import processes_with
from tests.support.idle import resident

SETTLING = 90.0
"""Seconds in which all must be as it is meant to be after the last fault."""
_BEFORE = "before any fault"
_CALM = 20
"""200s in a row, at each address, that count as calm."""


@dataclass(frozen=True, slots=True)
class Happened:
    """A fault that happened; times are those of ``time.monotonic()``."""

    kind: str
    began: float
    ended: float


@dataclass
class Report:
    """What a run found. ``complaints`` is empty when every promise held."""

    seed: int
    seconds: float = 0.0
    happened: list[Happened] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    ports: Sequence[int] = ()
    settled_after: float = 0.0
    stored: int = 0
    memory: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Bytes of each host, after warming up and at the end."""
    restored: int = 0
    commanded: int = 0
    complaints: list[str] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        return sum(request.outcome is outcome for request in self.requests)

    def cause(self, moment: float) -> str:
        """The latest fault that had begun by then."""
        return next((fault.kind for fault in reversed(self.happened) if fault.began <= moment), _BEFORE)

    def gaps(self) -> dict[str, float]:
        """The longest time without a 200 at one address, by the fault that began in it or was the last before."""
        longest: dict[str, float] = defaultdict(float)
        for port in self.ports:
            good = [each.ended for each in self.requests if each.port == port and each.outcome is Outcome.COUNTED]
            for before, after in pairwise(sorted(good)):
                begun = next((fault.kind for fault in self.happened if before <= fault.began <= after), None)
                kind = begun or self.cause(before)
                longest[kind] = max(longest[kind], after - before)
        return dict(longest)

    def longest_silence(self) -> float:
        """The longest time without a 200 at any address."""
        good = sorted(each.ended for each in self.requests if each.outcome is Outcome.COUNTED)
        return max((after - before for before, after in pairwise(good)), default=0.0)

    def lines(self) -> list[str]:
        """For people."""
        counted, refused, unknown = (self.count(each) for each in (Outcome.COUNTED, Outcome.REFUSED, Outcome.UNKNOWN))
        lines = [
            f"seed {self.seed}: {len(self.happened)} faults in {self.seconds:.0f} s",
            f"requests {len(self.requests)}: {counted} answered with 200, {refused} refused with a reason, "
            f"{unknown} of unknown outcome",
            f"stored {self.stored}: {self.stored - counted} of the unknown ones were counted",
            f"longest time without a 200 anywhere: {self.longest_silence():.1f} s",
            f"settled {self.settled_after:.1f} s after the last fault",
            f"hosts that came back: {self.restored} by themselves with all they ran, {self.commanded} by command",
            f"{'fault':<18}{'times':>6}{'refused':>9}{'unknown':>9}{'longest gap at one address':>28}",
        ]
        times = Counter(fault.kind for fault in self.happened)
        failed: Counter[tuple[str, Outcome]] = Counter()
        for request in self.requests:
            if request.outcome is not Outcome.COUNTED:
                failed[self.cause(request.ended), request.outcome] += 1
        gaps = self.gaps()
        for kind in sorted({*times, _BEFORE}):
            lines.append(
                f"{kind:<18}{times[kind]:>6}{failed[kind, Outcome.REFUSED]:>9}{failed[kind, Outcome.UNKNOWN]:>9}"
                f"{gaps.get(kind, 0.0):>26.1f} s"
            )
        for name, (before, after) in self.memory.items():
            lines.append(f"memory of {name}: {before / 1e6:.0f} MB at the start, {after / 1e6:.0f} MB at the end")
        reasons = Counter(_shape(each.reason) for each in self.requests if each.outcome is not Outcome.COUNTED)
        lines += [f"  {number:>6} x {reason}" for reason, number in reasons.most_common(15)]
        lines += [f"COMPLAINT: {complaint}" for complaint in self.complaints] or ["every promise held"]
        return lines


def _shape(reason: str) -> str:
    """A reason without what differs from call to call."""
    words = ("…" if len(word) > 40 else word for word in reason.split())
    return " ".join(words)[:170]


def run(
    folder: Path,
    *,
    seconds: float,
    seed: int,
    say: Callable[[str], None] = print,
    clients: int = 6,
    pause: tuple[float, float] = (1.0, 5.0),
    only: Sequence[str] = (),
) -> Report:
    """Let faults happen for ``seconds``, one after the other with a ``pause`` in between, then judge."""
    rng = random.Random(seed)
    report = Report(seed)
    world = World(folder, say)
    try:
        world.open()
        report.ports = tuple(world.ports.values())
        with Traffic(report.ports, clients=clients) as traffic:
            _calm(world, traffic, 60)
            memory = {place.daemon.name: resident(place.daemon.pid) for place in world.places}
            began = time.monotonic()
            for fault in faults.endless(rng, only):
                if fault.when_complete:
                    world.wait_until_complete()
                say(f"{time.monotonic() - began:6.1f} s  {fault.kind}: {fault.detail}")
                since = time.monotonic()
                report.happened.append(Happened(fault.kind, since, since))
                try:
                    fault.happen(world)
                except AssertionError as error:
                    report.complaints.append(f"{fault.kind}, {fault.detail}: {error}")
                report.happened[-1] = Happened(fault.kind, since, time.monotonic())
                time.sleep(rng.uniform(*pause))
                if time.monotonic() - began > seconds:
                    break
            report.seconds = time.monotonic() - began
            since = time.monotonic()
            report.complaints += _settle(world, traffic)
            report.settled_after = time.monotonic() - since
            say(f"settled after {report.settled_after:.1f} s")
        report.requests = traffic.requests()
        for place in world.places:
            now = resident(place.daemon.pid) if place.daemon.running else 0
            report.memory[place.daemon.name] = memory[place.daemon.name], now
        report.stored = sum(world.stored(client.key) for client in traffic.clients)
        report.complaints += filter(None, (client.complaint(world.stored(client.key)) for client in traffic.clients))
        report.complaints += _bare(report.requests)
        report.restored = sum(place.restored for place in world.places)
        report.commanded = sum(place.commanded for place in world.places)
        codes = world.close()
        if any(codes):
            report.complaints.append(f"hosts ended with {codes} after SIGTERM")
        report.complaints += _left_behind(folder)
        report.complaints += _errors(world)
    finally:
        world.abandon()
    return report


def _calm(world: World, traffic: Traffic, timeout: float) -> str:
    """Wait for answers at every address, and nothing but; what is not right after ``timeout``."""
    deadline = time.monotonic() + timeout
    since = time.monotonic()
    seen = 0
    while True:
        bad = [r for r in (c.requests[-1] for c in traffic.clients if c.requests) if r.began > since and not r.count]
        if bad:
            since, seen = time.monotonic(), seen + 1
        if min(traffic.good_since(since).values()) >= _CALM:
            return ""
        if time.monotonic() > deadline:
            return f"no calm within {timeout:g} s: {bad or traffic.good_since(since)}"
        time.sleep(0.1)


def _settle(world: World, traffic: Traffic) -> list[str]:
    """Wait until status is true and every request is answered; what is still not so."""
    deadline = time.monotonic() + SETTLING
    wrong = ["nothing was looked at"]
    while wrong and time.monotonic() < deadline:
        time.sleep(0.5)
        wrong = untruths(world)
    trouble = _calm(world, traffic, max(10.0, deadline - time.monotonic()))
    return [*wrong, *([trouble] if trouble else [])]


def _bare(requests: Sequence[Request]) -> list[str]:
    """Answers that do not say what went wrong."""
    bare = [each for each in requests if each.outcome is not Outcome.COUNTED and len(each.reason.split()) < 2]
    return [f"{len(bare)} answers without a reason, the first with status {bare[0].status}"] if bare else []


def _left_behind(folder: Path) -> list[str]:
    """Processes that outlived their hosts by more than a moment."""
    home = f"HOME={folder / 'home'}"
    deadline = time.monotonic() + 5
    while (left := processes_with(home)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return [f"left behind: {process.command}" for process in left]


def _errors(world: World) -> list[str]:
    """What hosts have logged that only a mistake of ours can cause."""
    complaints = []
    for place in world.places:
        for line in place.daemon.lines(all_runs=True):
            if line.get("level") in ("error", "critical") or "exception" in line or "Traceback" in line.get("raw", ""):
                complaints.append(f"log of {place.daemon.name}: {str(line)[:600]}")
    return complaints[:10]
