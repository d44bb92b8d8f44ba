"""Deadlines that share a timer: what ``asyncio.timeout_at`` promises, without a timer each."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from lattice.deadlines import Deadlines


async def test_a_block_ends_at_its_deadline_and_not_before_it() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    ends = [loop.time() + after for after in (0.06, 0.02, 0.04, 0.02)]

    async def late(end: float) -> float:
        with pytest.raises(TimeoutError), deadlines.at(end):
            await asyncio.sleep(60)
        return loop.time()

    assert all(ended >= end for end, ended in zip(ends, await asyncio.gather(*map(late, ends)), strict=True))
    assert len(deadlines) == 0


async def test_a_deadline_that_has_passed_ends_the_block_at_its_first_wait() -> None:
    deadlines = Deadlines()
    with pytest.raises(TimeoutError), deadlines.at(0.0):
        await asyncio.sleep(60)
    await asyncio.sleep(0)  # the task itself was not cancelled


async def test_a_block_that_ends_in_time_leaves_its_result_and_its_error_alone() -> None:
    deadlines = Deadlines()
    with deadlines.at(asyncio.get_running_loop().time() + 60):
        await asyncio.sleep(0)
    with pytest.raises(ZeroDivisionError), deadlines.at(asyncio.get_running_loop().time() + 60):
        raise ZeroDivisionError
    with pytest.raises(TimeoutError, match="its own"), deadlines.at(asyncio.get_running_loop().time() + 60):
        raise TimeoutError("its own")


async def test_a_cancellation_from_elsewhere_passes_also_together_with_the_deadline() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    for both in (False, True):
        started, scopes = asyncio.Event(), []

        async def work(started: asyncio.Event = started, scopes: list[object] = scopes) -> None:
            with deadlines.at(loop.time() + 60) as scope:
                scopes.append(scope)
                started.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await started.wait()
        if both:
            scopes[0].expire()  # type: ignore[attr-defined]
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_an_inner_deadline_does_not_end_the_outer_block_nor_the_other_way_round() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    with deadlines.at(loop.time() + 60):
        with pytest.raises(TimeoutError), deadlines.at(loop.time() + 0.01):
            await asyncio.sleep(60)
        await asyncio.sleep(0)
    reached = False
    with pytest.raises(TimeoutError), deadlines.at(loop.time() + 0.01):
        with contextlib.suppress(TimeoutError), deadlines.at(loop.time() + 60):
            await asyncio.sleep(60)
        reached = True
    assert not reached


async def test_what_is_kept_is_bounded_by_the_blocks_that_are_open() -> None:
    deadlines, loop = Deadlines(), asyncio.get_running_loop()
    most = 0
    for _ in range(1000):
        with deadlines.at(loop.time() + 600):
            most = max(most, len(deadlines))
    assert most <= 66
