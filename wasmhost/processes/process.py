"""A child process of ours, a provider or a further host: its own group, its input as bytes, its output as lines.

Nothing here knows the lattice. What a child must be told comes as bytes, what it says goes to a callback.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
from asyncio.subprocess import PIPE, STDOUT, SubprocessStreamProtocol
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from wasmhost.budget import Budget
from wasmhost.processes.parent_death import parent_death_signal

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
    "RUST_LOG",
    "OTEL_TRACES_EXPORTER",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
)
_INHERITED_BY_OURS: Final = ("PYTHONPATH", "VIRTUAL_ENV")
_OUTPUT_RATE: Final = 1024 * 1024
"""Bytes of output per second that are read in the long run; who writes more waits."""
_BUFFER: Final = 64 * 1024
_REAP_TIMEOUT: Final = 5.0
_BUSY_TRIES: Final = 40


def child_environment(source: Mapping[str, str], *, home: Path, ours: bool = True) -> dict[str, str]:
    """The few variables that a provider may see of ``source``; its home and temporary folder are ``home``.

    An allow-list: the host's own variables hold seeds.
    """
    names = (*_INHERITED, *_INHERITED_BY_OURS) if ours else _INHERITED
    kept = {name: source[name] for name in names if name in source}
    more = {"PYTHONUNBUFFERED": "1"} if ours else {}
    return {**kept, "HOME": str(home), "TMPDIR": str(home), **more}


class ChildProcess:
    """A running child. Create it with :meth:`spawn`; end it with :meth:`terminate`."""

    def __init__(
        self, transport: asyncio.SubprocessTransport, protocol: _Protocol, on_line: Callable[[str], None]
    ) -> None:
        self._transport = transport
        self._protocol = protocol
        self._on_line = on_line
        self._pid = transport.get_pid()
        self._reader = asyncio.create_task(self._read_lines(), name=f"output of process {self._pid}")

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
        confined: bool = False,
    ) -> ChildProcess:
        """Start ``command`` in ``folder``, write ``first_line`` to its standard input and leave that open.

        ``on_line`` is called on the loop for each line of its output, standard error included. ``dies_with_parent``
        has the kernel kill it when this process dies; programs that watch their standard input need no such help.
        ``confined``: what it writes is for its user only, its memory, which holds seeds, is never dumped, and it has no
        terminal to type into.
        Raises OSError when the program cannot be started.
        """
        loop = asyncio.get_running_loop()
        prepare = _before_program(dies_with_parent=dies_with_parent, confined=confined)
        for attempt in range(_BUSY_TRIES + 1):
            try:
                transport, protocol = await loop.subprocess_exec(
                    lambda: _Protocol(limit=_BUFFER, loop=loop),
                    *command,
                    stdin=PIPE,
                    stdout=PIPE,
                    stderr=STDOUT,
                    env=dict(environment),
                    cwd=folder,
                    process_group=None if confined else 0,
                    start_new_session=confined,
                    preexec_fn=prepare,
                    umask=0o077 if confined else -1,
                )
                break
            except OSError as error:
                # A program that has just been written may still be open in a child that another thread forked then.
                if error.errno != errno.ETXTBSY or attempt == _BUSY_TRIES:
                    raise
                await asyncio.sleep(0.05)
        child = cls(transport, protocol, on_line)
        if protocol.stdin is not None:
            # never waited for: a child that does not read it must not hold us, and one that died shows by its exit code
            protocol.stdin.write(first_line)
        return child

    @property
    def pid(self) -> int:
        return self._pid

    @property
    def running(self) -> bool:
        return not self._protocol.exited.is_set()

    async def wait(self) -> int:
        """Wait for the end and for all of its output; the exit code, negative for a signal. May be cancelled."""
        await self._protocol.exited.wait()
        # A grandchild may hold the pipe open for ever; what the child itself wrote is there at once.
        await asyncio.wait({self._reader}, timeout=0.5)
        code = self._protocol.code
        assert code is not None
        return code

    def write(self, line: bytes) -> None:
        """Write to its standard input, without waiting; a child that has ended or closed it takes nothing."""
        if self.running and self._protocol.stdin is not None and not self._protocol.stdin.is_closing():
            self._protocol.stdin.write(line)

    def close_input(self) -> None:
        """Close its standard input: our own providers take that as the death of their host."""
        if self._protocol.stdin is not None:
            self._protocol.stdin.close()

    async def terminate(self, *, grace: float) -> None:
        """SIGTERM to the whole group, SIGKILL after ``grace`` seconds; returns when the child has been reaped."""
        if self.running:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._protocol.exited.wait(), grace)
        await self.kill()

    async def kill(self) -> None:
        """SIGKILL to what is left of the group, whether or not the child itself still runs."""
        self._signal(signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._protocol.exited.wait(), _REAP_TIMEOUT)
        self.close_input()
        await asyncio.wait({self._reader}, timeout=0.5)
        self._reader.cancel()
        self._transport.close()  # a grandchild that got away must not keep our ends of the pipes open

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._pid, number)

    async def _read_lines(self) -> None:
        stream = self._protocol.stdout
        assert stream is not None
        budget = Budget(per_second=_OUTPUT_RATE, burst=4 * _OUTPUT_RATE)
        rest = b""
        while chunk := await stream.read(_BUFFER):
            while not budget.take(len(chunk)):  # noqa: ASYNC110 time is what fills a budget
                await asyncio.sleep(0.05)  # the pipe fills up meanwhile
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


class _Protocol(SubprocessStreamProtocol):
    """Notes the end of the child itself; asyncio's own wait lasts until its children have closed the pipes, too."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self.exited = asyncio.Event()
        self.code: int | None = None
        self._child: asyncio.SubprocessTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.SubprocessTransport)
        self._child = transport
        super().connection_made(transport)

    def process_exited(self) -> None:
        assert self._child is not None
        self.code = self._child.get_returncode()
        self._child = None
        self.exited.set()
        super().process_exited()


def _before_program(*, dies_with_parent: bool, confined: bool) -> Callable[[], None] | None:
    """What the child does between its birth and its program."""
    die = parent_death_signal(signal.SIGKILL) if dies_with_parent else None

    def prepare() -> None:
        if confined:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if die is not None:
            die()

    return prepare if confined or die is not None else None


def describe_exit(code: int) -> str:
    """``exited with code 1`` or ``killed by SIGKILL``."""
    if code >= 0:
        return f"exited with code {code}"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"
