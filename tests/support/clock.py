"""A machine whose clock is wrong: processes that see another time of day, which can change while they run.

The time of day alone; what measures durations goes on as it does on a real machine whose clock is set.
"""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
from pathlib import Path

from tests.support.processes import ROOT

_SOURCE = Path(__file__).with_name("clock.c")
_AGAIN = """\
import os, sys
if "TEST_CLOCK" not in os.environ:
    os.environ.update({settings!r})
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
"""


class Clock:
    """The clock of one such machine."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        compiler = shutil.which("gcc") or shutil.which("cc")
        if compiler is None:
            raise RuntimeError("a C compiler is missing: apt-get install gcc libc6-dev")
        library, offset = folder / "clock.so", folder / "offset"
        subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-Wall", "-o", library, _SOURCE], check=True)
        offset.write_bytes(bytes(mmap.PAGESIZE))
        with offset.open("r+b") as file:
            self._offset = mmap.mmap(file.fileno(), mmap.PAGESIZE)
        settings = {"LD_PRELOAD": str(library), "TEST_CLOCK": str(offset)}
        # A host gives its providers few variables, this one among them: so they run on the same machine, too.
        (folder / "sitecustomize.py").write_text(_AGAIN.format(settings=settings))
        self.env = {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        """What Python processes of that machine have in their environment."""

    @property
    def prefix(self) -> tuple[str, ...]:
        """A command that runs another one on that machine."""
        return ("env", *(f"{name}={value}" for name, value in self.env.items()))

    def set(self, seconds: int) -> None:
        """Be so far ahead of the real time from now on, or behind it."""
        self._offset[:8] = struct.pack("q", seconds)
