"""Floods: what is let through and what is counted."""

from __future__ import annotations

from structlog.testing import capture_logs

from lattice.contracts.logging import LogEntry
from wasmhost.budget import LOG_LINE, Budget
from wasmhost.calls.builtin import LONGEST_TEXT, Builtin
from wasmhost.guest.calls import HostCall
from wasmhost.guest.guestlog import GuestLogger
from wasmhost.guest.instance import LogText


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_budget_lets_a_burst_through_and_then_its_rate() -> None:
    clock = Clock()
    budget = Budget(per_second=2, burst=3, clock=clock)
    assert [budget.take() for _ in range(5)] == [True, True, True, False, False]
    assert budget.refused() == 2 and budget.refused() == 0
    clock.now += 1
    assert [budget.take() for _ in range(3)] == [True, True, False]
    clock.now += 1000
    assert [budget.take() for _ in range(4)] == [True, True, True, False]


def write_log(level: str, text: str) -> HostCall:
    payload = LogEntry(level=level, text=text).encode()
    return HostCall("default", "wasmcloud:builtin:logging", "Logging.WriteLog", payload)


def test_an_actor_that_floods_the_log_loses_lines_and_is_told_of_once() -> None:
    clock = Clock()
    builtin = Builtin("MACTOR", budget=Budget(per_second=LOG_LINE, burst=3 * (10 + LOG_LINE), clock=clock))
    with capture_logs() as logs:
        for _ in range(100):
            assert builtin.answer(write_log("info", "x" * 10)) == b""
        clock.now += 10
        builtin.answer(write_log("info", "after"))
    assert [line["event"] for line in logs] == ["guest.log"] * 3 + ["guest.log_dropped", "guest.log"]
    assert logs[3]["lines"] == 97 and logs[3]["actor"] == "MACTOR"


def test_what_an_actor_prints_is_bounded_over_all_its_calls() -> None:
    clock = Clock()
    logger = GuestLogger("MACTOR", budget=Budget(per_second=LOG_LINE, burst=5 * (1 + LOG_LINE), clock=clock))
    texts = [LogText(b"x", ""), LogText(b"y", "stdout")]
    with capture_logs() as logs:
        for _ in range(50):
            logger(texts, 0)
        clock.now += 10
        logger(texts[:1], 7)
    events = [line["event"] for line in logs]
    assert events == ["guest.log"] * 5 + ["guest.log_dropped", "guest.log", "guest.log_dropped"]
    assert (logs[5]["lines"], logs[7]["bytes"]) == (95, 7)
    assert {line["actor"] for line in logs} == {"MACTOR"}


def test_levels_of_all_generations_are_understood_and_long_lines_are_cut() -> None:
    builtin = Builtin("MACTOR")
    levels = {"trace": "debug", "warn": "warning", "critical": "critical", "shout": "debug", "ERROR": "error"}
    with capture_logs() as logs:
        for level in levels:
            builtin.answer(write_log(level, "y" * (LONGEST_TEXT + 5)))
    assert [line["log_level"] for line in logs] == list(levels.values())
    assert {len(line["text"]) for line in logs} == {LONGEST_TEXT}
