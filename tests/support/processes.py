"""Command line runs as real processes: their output, their descendants, what they leave behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
WASMHOST = [sys.executable, "-m", "wasmhost"]


def wait_until(condition: Callable[[], object], *, timeout: float, what: str) -> None:
    """Poll ``condition`` until it holds; fail the test after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout} s: {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class ProcessId:
    """A process id made unique by its start time."""

    pid: int
    started: str

    @classmethod
    def read(cls, pid: int) -> tuple[ProcessId, int, str] | None:
        """Identity, parent and state of a running process."""
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            return None
        return cls(pid, fields[19]), int(fields[1]), fields[0]

    @property
    def alive(self) -> bool:
        now = ProcessId.read(self.pid)
        return now is not None and now[0] == self and now[2] != "Z"

    @property
    def command(self) -> str:
        try:
            return Path(f"/proc/{self.pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            return ""


def descendants(root: int) -> set[ProcessId]:
    """Every process below ``root``, itself excluded."""
    children: dict[int, list[ProcessId]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (read := ProcessId.read(int(entry.name))):
            children.setdefault(read[1], []).append(read[0])

    def below(pid: int) -> Iterator[ProcessId]:
        for child in children.get(pid, []):
            yield child
            yield from below(child.pid)

    return set(below(root))


def user_environment(home: Path, **extra: str) -> dict[str, str]:
    """The environment of a user whose every folder lies below ``home``."""
    keep = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("WASMCLOUD_", "WASH_", "WASMHOST_", "XDG_", "HOST_"))
    }
    home.mkdir(parents=True, exist_ok=True)
    return {**keep, "HOME": str(home), "PYTHONPATH": str(ROOT), **extra}


class Running:
    """A wasmhost command that keeps running; output is collected line by line."""

    def __init__(
        self, arguments: list[str], *, env: Mapping[str, str], cwd: Path | None = None, prefix: Sequence[str] = ()
    ) -> None:
        """``prefix``: a command that runs it, such as ``ip netns exec NAME``."""
        self.lines: list[str] = []
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [*prefix, *WASMHOST, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(env),
            cwd=cwd or ROOT,
            start_new_session=True,
        )
        self._seen: set[ProcessId] = set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    def has_printed(self, text: str) -> bool:
        return any(text in line for line in self.lines)

    def wait_for_output(self, text: str, *, timeout: float = 30) -> None:
        def seen() -> bool:
            if self.process.poll() is not None and not self.has_printed(text):
                time.sleep(0.2)
                assert self.has_printed(text), f"ended with {self.process.returncode} before {text!r}:\n{self.output}"
            return self.has_printed(text)

        try:
            wait_until(seen, timeout=timeout, what=f"output {text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def wait_until(self, condition: Callable[[], object], *, timeout: float, what: str) -> None:
        """Like the function of that name; a failure shows the output so far, and an early end is one."""

        def holds() -> bool:
            assert self.process.poll() is None, f"ended with {self.process.returncode}"
            return bool(condition())

        try:
            wait_until(holds, timeout=timeout, what=what)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.output}") from None

    def family(self) -> set[ProcessId]:
        """All descendants seen so far; call while it runs so that leftovers can be named afterwards."""
        self._seen |= descendants(self.process.pid)
        return self._seen

    def child(self, text: str) -> ProcessId:
        """The one live descendant whose command line has ``text``."""
        found = [process for process in self.family() if process.alive and text in process.command]
        assert len(found) == 1, f"{text!r}: {[process.command for process in self.family()]}"
        return found[0]

    def stop(self, sig: int = signal.SIGINT, *, timeout: float = 30) -> int:
        """Send a signal, await the end, and fail if a descendant outlives it."""
        family = self.family()
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not end within {timeout} s after signal {sig}:\n{self.output}") from None
        self._reader.join(5)
        deadline = time.monotonic() + 2
        while (left := [process for process in family if process.alive]) and time.monotonic() < deadline:
            time.sleep(0.05)
        names = [process.command for process in left]
        for process in left:
            os.kill(process.pid, signal.SIGKILL)
        assert not left, f"left behind: {names}"
        return code

    def kill(self) -> None:
        """End it and everything below, whatever state it is in."""
        for process in {*self.family()}:
            if process.alive:
                os.kill(process.pid, signal.SIGKILL)
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)


def run(
    arguments: list[str],
    *,
    env: Mapping[str, str],
    cwd: Path | None = None,
    timeout: float = 60,
    user: int | None = None,
    prefix: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a wasmhost command to its end. ``user`` runs it under that numeric user id, ``prefix`` by another command."""
    return subprocess.run(
        [*prefix, *WASMHOST, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        env=dict(env),
        cwd=cwd or ROOT,
        timeout=timeout,
        user=user,
        check=False,
    )
