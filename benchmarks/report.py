"""How figures are shown: each beside its reference, and one line per figure at the end."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NoReturn

from benchmarks.rounds import Plan, Reading, Result, Series
from wasmhost import logs

Measure = Callable[[Plan], Awaitable[Sequence[Result]]]
"""What each benchmark offers."""


def lines(result: Result) -> Iterator[str]:
    """A paragraph."""
    yield result.name
    if isinstance(result, Reading):
        yield f"  {_amount(result)} ({_range(result)}){_verdict(result)}"
        yield f"  beside: {result.beside}"
        if result.failures:
            yield f"  {result.failures} failures"
        return
    width = max(len(result.reference.name), len(result.measured.name))
    for side in (result.reference, result.measured):
        yield f"  {side.name:{width}}  {_speed(side, of_time=result.of_time)}{_processor(side)}"
    spread = f"{min(result.ratios):.2f} to {max(result.ratios):.2f} over {len(result.ratios)} rounds"
    yield f"  ratio {result.ratio:.2f} ({spread}){_verdict(result)}"
    operations = result.reference.operations + result.measured.operations
    yield f"  {operations} operations, {result.failures} failures"


def summary(results: Sequence[Result]) -> Iterator[str]:
    """One line per result."""
    width = max(len(result.name) for result in results)
    yield f"{'':{width}}       ratio  processor  failures"
    for result in results:
        busy = None if isinstance(result, Reading) else result.processor_ratio
        shown = _amount(result) if isinstance(result, Reading) else f"{result.ratio:.2f}"
        yield (
            f"{result.name:{width}}  {shown:>10}  {'' if busy is None else f'{busy:.1f} x':>9}"
            f"  {result.failures:8}{_verdict(result)}"
        )


def _amount(reading: Reading) -> str:
    return f"{reading.value:.3g} {reading.unit}"


def _range(reading: Reading) -> str:
    return f"{min(reading.values):.3g} to {max(reading.values):.3g} over {len(reading.values)} rounds"


def _speed(side: Series, *, of_time: bool) -> str:
    if of_time:
        return f"{side.each * 1e6:8.2f} µs each"
    p50 = "" if side.p50 is None else f", p50 {side.p50 * 1e3:6.2f} ms"
    return f"{side.rate:8.0f}/s{p50}"


def _processor(side: Series) -> str:
    if not side.processor:
        return ""
    return ", processor µs each: " + " ".join(f"{name} {each * 1e6:.0f}" for name, each in side.processor.items())


def _verdict(result: Result) -> str:
    if result.failures:
        return "  no result: something failed"
    if result.target is None:
        return ""
    bound = "at most" if isinstance(result, Reading) or result.of_time else "at least"
    return f"  target {bound} {result.target:g}: {'reached' if result.reached else 'MISSED'}"


def main(*measures: Measure) -> NoReturn:
    """Run benchmarks, show their figures, end with 1 when something failed or a target was missed."""
    parser = argparse.ArgumentParser(description="Measure beside a reference, in one run; show ratios.")
    parser.add_argument("--quick", action="store_true", help="short rounds: for a look, not for a result")
    plan = Plan.quick() if parser.parse_args().quick else Plan()
    logs.configure("warning")

    async def run() -> list[Result]:
        results: list[Result] = []
        for measure in measures:
            for result in await measure(plan):
                print("\n".join(lines(result)), end="\n\n", flush=True)
                results.append(result)
        return results

    results = asyncio.run(run())
    print("\n".join(summary(results)))
    raise SystemExit(0 if all(result.reached for result in results) else 1)
