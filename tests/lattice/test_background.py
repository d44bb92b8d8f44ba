"""Work beside the caller: its failure is told when it happens, and its owner ends it."""

from __future__ import annotations

import asyncio

from structlog.testing import capture_logs

from lattice.background import Background, begin
from tests.support.waiting import eventually


async def fail() -> None:
    raise ValueError("this broke")


async def test_a_failure_is_told_at_once_by_the_name_of_the_work() -> None:
    with capture_logs() as logs:
        task = begin(fail(), "something")
        await eventually(lambda: logs)
    assert [(entry["event"], entry["log_level"], entry["task"]) for entry in logs] == [
        ("task.failed", "error", "something")
    ]
    assert str(logs[0]["exc_info"]) == "this broke"
    assert task.done()


async def test_the_end_lets_work_finish_cancels_what_is_late_and_says_how_much_that_was() -> None:
    work, hold = Background(), asyncio.Event()
    quick = work.begin(asyncio.sleep(0.01, "done"), "quick")
    late = work.begin(hold.wait(), "late")
    with capture_logs() as logs:
        assert await work.end(patience=0.2) == 1
    assert (quick.result(), late.cancelled(), len(work), logs) == ("done", True, 0, [])
    assert await work.end() == 0
