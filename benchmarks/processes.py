"""Processes that a comparison runs beside itself, ended with it whatever happens."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.nats import NatsServer


@contextmanager
def nats_server(*, jetstream: bool = False) -> Iterator[NatsServer]:
    """A NATS server of our own on a free port."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder), jetstream=jetstream)
        try:
            yield server.start()
        finally:
            server.stop()


@contextmanager
def responder(module: str, *arguments: str) -> Iterator[int]:
    """``python -m module arguments`` in a process of its own, once it has printed ``ready``; its id."""
    command = [sys.executable, "-m", module, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            if said != b"ready\n":
                raise RuntimeError(f"{' '.join(command)}: not ready but {said!r}")
            yield process.pid
        finally:
            process.terminate()
