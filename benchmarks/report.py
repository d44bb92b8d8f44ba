"""How figures are shown: each beside its reference, and one line per figure at the end."""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import NoReturn

from benchmarks.rounds import Figure, Plan, Series
from wasmhost import logs

Measure = Callable[[Plan], Awaitable[list[Figure]]]
"""What each benchmark offers."""


def lines(figure: Figure) -> Iterator[str]:
    """A paragraph."""
    yield figure.name
    width = max(len(figure.reference.name), len(figure.measured.name))
    for side in (figure.reference, figure.measured):
        yield f"  {side.name:{width}}  {_speed(side, of_time=figure.of_time)}{_processor(side)}"
    spread = f"{min(figure.ratios):.2f} to {max(figure.ratios):.2f} over {len(figure.ratios)} rounds"
    yield f"  ratio {figure.ratio:.2f} ({spread}){_verdict(figure)}"
    operations = figure.reference.operations + figure.measured.operations
    yield f"  {operations} operations, {figure.failures} failures"


def summary(figures: Sequence[Figure]) -> Iterator[str]:
    """One line per figure."""
    width = max(len(figure.name) for figure in figures)
    yield f"{'':{width}}  ratio  processor  failures"
    for figure in figures:
        busy = figure.processor_ratio
        yield (
            f"{figure.name:{width}}  {figure.ratio:5.2f}  {'' if busy is None else f'{busy:.1f} x':>9}"
            f"  {figure.failures:8}{_verdict(figure)}"
        )


def _speed(side: Series, *, of_time: bool) -> str:
    if of_time:
        return f"{side.each * 1e6:8.2f} µs each"
    p50 = "" if side.p50 is None else f", p50 {side.p50 * 1e3:6.2f} ms"
    return f"{side.rate:8.0f}/s{p50}"


def _processor(side: Series) -> str:
    if not side.processor:
        return ""
    return ", processor µs each: " + " ".join(f"{name} {each * 1e6:.0f}" for name, each in side.processor.items())


def _verdict(figure: Figure) -> str:
    if figure.failures:
        return "  no result: something failed"
    if figure.target is None:
        return ""
    bound = "at most" if figure.of_time else "at least"
    return f"  target {bound} {figure.target:g}: {'reached' if figure.reached else 'MISSED'}"


def main(*measures: Measure) -> NoReturn:
    """Run benchmarks, show their figures, end with 1 when something failed or a target was missed."""
    parser = argparse.ArgumentParser(description="Measure beside a reference, in one run; show ratios.")
    parser.add_argument("--quick", action="store_true", help="short rounds: for a look, not for a result")
    plan = Plan.quick() if parser.parse_args().quick else Plan()
    logs.configure("warning")

    async def run() -> list[Figure]:
        figures: list[Figure] = []
        for measure in measures:
            for figure in await measure(plan):
                print("\n".join(lines(figure)), end="\n\n", flush=True)
                figures.append(figure)
        return figures

    figures = asyncio.run(run())
    print("\n".join(summary(figures)))
    raise SystemExit(0 if all(figure.reached for figure in figures) else 1)
