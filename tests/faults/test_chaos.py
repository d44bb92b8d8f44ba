"""A short chaos run, the same faults in the same order each time; ``python -m tests.faults.chaos`` runs longer ones."""

from __future__ import annotations

from pathlib import Path

from tests.faults.chaos.run import run
from tests.faults.chaos.traffic import Outcome

SEED = 28
SECONDS = 20.0
KINDS = (
    "host killed",
    "host frozen",
    "provider killed",
    "provider moved",
    "nats killed",
    "redis killed",
    "links changed",
    "actor updated",
)
"""Those that take seconds only, each of them once."""


def test_after_a_storm_of_faults_the_counter_is_right_status_is_true_and_nothing_is_left(tmp_path: Path) -> None:
    report = run(tmp_path, seconds=SECONDS, seed=SEED, clients=4, pause=(0.2, 1.0), only=KINDS)
    told = "\n".join(report.lines())
    print(told)
    assert not report.complaints, told
    assert report.count(Outcome.COUNTED) > 100, told
    assert len(report.happened) >= 4, told
