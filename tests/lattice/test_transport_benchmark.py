"""The transport benchmark runs and counts no failure; its ratios are for quiet machines."""

from __future__ import annotations

from benchmarks import transport


async def test_a_short_run_fails_nowhere() -> None:
    results = await transport.measure(rounds=1, seconds=0.3)
    assert [result.name for result in results] == ["responder", "requester"]
    lines: list[str] = []
    transport.report(results, lines.append)
    assert [result.failures for result in results] == [0, 0]
    assert all(result.reference.rate > 0 and result.seam.rate > 0 for result in results)
    assert len(lines) == 6
