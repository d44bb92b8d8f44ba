"""A child process of ours, a provider or a further host: its own group, its input as bytes, its output as lines.

Nothing here knows the lattice. What a child must be told comes as bytes, what it says goes to a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from wasmhost.parent_death import parent_death_signal

LONGEST_LINE: Final = 8 * 1024
"""Bytes of one output line that are kept; the rest of the line is dropped."""

_INHERITED: Final = (
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "LD_LIBRARY_PATH",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "RUST_LOG",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
_REAP_TIMEOUT: Final = 5.0


def child_environment(source: Mapping[str, str], *, home: Path) -> dict[str, str]:
    """The few variables that a provider may see of ``source``; its home and temporary folder are ``home``.

    An allow-list: the host's own variables hold seeds.
    """
    kept = {name: source[name] for name in _INHERITED if name in source}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), "PYTHONUNBUFFERED": "1"}


class ChildProcess:
    """A running child. Create it with :meth:`spawn`; end it with :meth:`terminate`."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self._reader = asyncio.create_task(self._read_lines(), name=f"output of process {process.pid}")

    @classmethod
    async def spawn(
        cls,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        folder: Path,
        first_line: bytes,
        on_line: Callable[[str], None],
        dies_with_parent: bool = False,
    ) -> ChildProcess:
        """Start ``command`` in ``folder``, write ``first_line`` to its standard input and leave that open.

        ``on_line`` is called on the loop for each line of its output, standard error included. ``dies_with_parent``
        has the kernel kill it when this process dies; programs that watch their standard input need no such help.
        Raises OSError when the program cannot be started.
        """
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=dict(environment),
            cwd=folder,
            process_group=0,
            preexec_fn=parent_death_signal(signal.SIGKILL) if dies_with_parent else None,
        )
        child = cls(process, on_line)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            process.stdin.write(first_line)  # a child that died already shows by its exit code
            await process.stdin.drain()
        return child

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def wait(self) -> int:
        """Wait for the end and for all of its output; the exit code, negative for a signal. May be cancelled."""
        code = await self._process.wait()
        # A grandchild may hold the pipe open for ever; what the child itself wrote is there at once.
        await asyncio.wait({self._reader}, timeout=0.5)
        return code

    def close_input(self) -> None:
        """Close its standard input: our own providers take that as the death of their host."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    async def terminate(self, *, grace: float) -> None:
        """SIGTERM to the whole group, SIGKILL after ``grace`` seconds; returns when the child has been reaped."""
        if self.running:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._process.wait(), grace)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to what is left of the group, whether or not the child itself still runs."""
        self._signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._process.wait(), _REAP_TIMEOUT)
        self.close_input()
        await asyncio.wait({self._reader}, timeout=0.5)
        self._reader.cancel()

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    async def _read_lines(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        rest = b""
        while chunk := await stream.read(64 * 1024):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                self._emit(line)
            rest = rest[:LONGEST_LINE]
        if rest:
            self._emit(rest)

    def _emit(self, line: bytes) -> None:
        text = line[:LONGEST_LINE].decode("utf-8", "replace").strip("\r ")
        if text:
            self._on_line(text)


def describe_exit(code: int) -> str:
    """``exited with code 1`` or ``killed by SIGKILL``."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
