"""Requests under way, without a network."""

from __future__ import annotations

import asyncio
import time

import pytest

from lattice.errors import Code, Unreachable
from lattice.transport import Reply
from lattice.waiters import TICK, Waiters


async def test_time_outs_come_in_order_and_on_time() -> None:
    waiters = Waiters(asyncio.get_running_loop())
    started = time.monotonic()
    ended: list[tuple[float, float]] = []

    async def wait(timeout: float) -> None:
        _, future = waiters.add("a", timeout)
        with pytest.raises(Unreachable, match=f"within {timeout:g} s") as caught:
            await future
        assert caught.value.code is Code.TIMED_OUT
        ended.append((timeout, time.monotonic() - started))

    await asyncio.gather(*(wait(timeout) for timeout in (0.3, 0.05, 0.1, 0.05, 0.2)))
    assert [timeout for timeout, _ in ended] == [0.05, 0.05, 0.1, 0.2, 0.3]
    for timeout, passed in ended:
        assert timeout - 0.001 <= passed < timeout + TICK + 0.3
    assert len(waiters) == 0


async def test_answered_requests_do_not_time_out_and_are_not_kept() -> None:
    waiters = Waiters(asyncio.get_running_loop())
    token, future = waiters.add("a", 0.02)
    waiters.deliver(token, None, b"x")
    await asyncio.sleep(0.05)
    assert await future == Reply(b"x")
    waiters.deliver(token, None, b"again")
    waiters.deliver("unknown", None, b"")
    assert (len(waiters), waiters.late) == (0, 2)


async def test_tokens_are_all_different() -> None:
    waiters = Waiters(asyncio.get_running_loop())
    tokens = {waiters.add("a", 100)[0] for _ in range(2000)}
    assert len(tokens) == 2000
    assert {len(token) for token in tokens} == {16}
    waiters.close()


async def test_failing_ends_only_what_is_meant() -> None:
    waiters = Waiters(asyncio.get_running_loop())
    _, first = waiters.add("a", 100)
    _, second = waiters.add("b", 100)
    assert waiters.fail(lambda subject: Unreachable(f"{subject} is gone"), only="a".__eq__) == 1
    with pytest.raises(Unreachable, match="a is gone"):
        await first
    assert not second.done()
    waiters.close()
