"""Providers of other makers: small C programs and a Python one that uses no code of ours, as archives hold them."""

from __future__ import annotations

import functools
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "foreign"


@functools.cache
def compiled(name: str) -> bytes:
    """The program that ``tests/foreign/<name>.c`` is the source of."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise RuntimeError("a C compiler is missing: apt-get install gcc libc6-dev")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / name
        subprocess.run([compiler, "-O1", "-o", program, SOURCES / f"{name}.c"], check=True)
        return program.read_bytes()


def classic() -> bytes:
    """``tests/foreign/classic.py`` as a program: the kernel runs it with the interpreter of the tests."""
    return script((SOURCES / "classic.py").read_text())


def script(text: str) -> bytes:
    """A Python program that takes nothing from its surroundings."""
    return f"#!{sys.executable} -I\n{text}".encode()
