"""Actors written in C, compiled by Debian's clang when a test needs them."""

from __future__ import annotations

import functools
import subprocess
import tempfile
from pathlib import Path

GUESTS = Path(__file__).parents[1] / "guests"
PACKAGES = "clang lld wasi-libc libclang-rt-14-dev-wasm32"
COMPILER = "/usr/bin/clang"


@functools.cache
def compiled(source: str | Path, *flags: str) -> bytes:
    """A C file, or ``tests/guests/<name>.c``, for WASI with these flags. A missing compiler fails the test, and says
    what to do."""
    path = GUESTS / f"{source}.c" if isinstance(source, str) else source
    if not Path(COMPILER).exists():
        raise AssertionError(f"{COMPILER} is missing; run tests/packages.sh, or: apt-get install {PACKAGES}")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "guest.wasm"
        command = [
            COMPILER,
            "--target=wasm32-wasi",
            "-Os",
            "-s",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-parameter",
        ]
        done = subprocess.run(
            [*command, *flags, str(path), "-o", str(out)],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return out.read_bytes()
