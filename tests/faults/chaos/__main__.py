"""``python -m tests.faults.chaos --minutes 10 --seed N``: exit code 1 when a promise was broken."""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from pathlib import Path

from tests.faults.chaos import faults
from tests.faults.chaos.run import run


def main() -> int:
    """Run, print the figures, say whether every promise held."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="how long faults happen (default: 10)")
    parser.add_argument("--seed", type=int, help="repeat the faults of another run")
    parser.add_argument("--clients", type=int, default=6, help="load (default: 6 clients)")
    parser.add_argument("--only", action="append", choices=faults.kinds(), default=[], help="this fault; repeatable")
    parser.add_argument("--folder", type=Path, help="keep data and logs here (default: a temporary folder)")
    given = parser.parse_args()
    seed = random.SystemRandom().randrange(1_000_000) if given.seed is None else given.seed
    if given.folder is not None:
        return _judge(given.folder, given, seed)
    with tempfile.TemporaryDirectory(prefix="wasmhost-chaos-") as folder:
        return _judge(Path(folder), given, seed)


def _judge(folder: Path, given: argparse.Namespace, seed: int) -> int:
    print(f"seed {seed}, data in {folder}", flush=True)
    report = run(
        folder,
        seconds=given.minutes * 60,
        seed=seed,
        clients=given.clients,
        only=given.only,
        say=lambda line: print(line, flush=True),
    )
    print("\n".join(report.lines()), flush=True)
    return 1 if report.complaints else 0


if __name__ == "__main__":
    sys.exit(main())
