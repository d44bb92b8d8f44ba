"""`wasmhost host` daemons as a service manager has them: a log file each, killed, frozen and started again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lattice.claims import read_actor
from tests.support.nats import NatsServer
from tests.support.processes import ROOT, WASMHOST, ProcessId, descendants, wait_until

COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"


class Daemon:
    """One host by name, whose state folder outlives its processes."""

    def __init__(self, name: str, nats: NatsServer, env: Mapping[str, str], folder: Path, *options: str) -> None:
        """``options`` come on top of name, server, ``--allow-file-load`` and trust in who signed the counter."""
        self.name = name
        self.log = folder / f"{name}.log"
        self.env = dict(env)
        trusted = read_actor(COUNTER.read_bytes()).issuer
        self._command = [*WASMHOST, "host", "--name", name, "--nats-url", nats.url, "--trust", trusted]
        self._command += ["--allow-file-load", "--structured-logging", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self._begins = 0
        """Where in the log the present process begins."""

    def begin(self) -> Daemon:
        """Start a process without waiting for it."""
        with self.log.open("ab") as log:
            self._begins = log.tell()
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.env, cwd=ROOT
            )
        return self

    def start(self, *, timeout: float = 30) -> Daemon:
        """Start a process and return when it answers commands."""
        self.begin()
        self.wait_for("host.started", timeout=timeout)
        return self

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def started(self) -> bool:
        return self.running and bool(self.events("host.started"))

    def lines(self, *, all_runs: bool = False) -> Iterator[dict[str, Any]]:
        """The log of the present process, or of all so far; a line that is not JSON under ``raw``."""
        with self.log.open("rb") as log:
            log.seek(0 if all_runs else self._begins)
            data = log.read().decode("utf-8", "replace")
        for line in data.splitlines():
            try:
                event = json.loads(line)
            except ValueError:
                event = {"event": "", "raw": line}
            yield event if isinstance(event, dict) else {"event": "", "raw": line}

    def events(self, name: str, *, all_runs: bool = False) -> list[dict[str, Any]]:
        return [event for event in self.lines(all_runs=all_runs) if event.get("event") == name]

    def wait_for(self, event: str, *, count: int = 1, timeout: float = 30) -> list[dict[str, Any]]:
        """The events of that name in the log of the present process, once there are ``count``."""

        def seen() -> bool:
            if len(self.events(event)) >= count:
                return True
            assert self.running, f"{self.name} ended with {self._process and self._process.returncode}: {self.tail()}"
            return False

        wait_until(seen, timeout=timeout, what=f"{event} of {self.name}; its log ends with {self.tail()}")
        return self.events(event)

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-1500:]

    def providers(self) -> dict[str, ProcessId]:
        """Its provider processes by the id of their run."""
        found = {}
        for process in descendants(self.pid) if self.running else ():
            instance = mark_of(process.pid, "WASMHOST_INSTANCE")
            if instance:
                found[instance] = process
        return found

    def provider(self, text: str) -> ProcessId:
        """The one provider process whose command line has ``text``."""
        found = [process for process in self.providers().values() if text in process.command]
        assert len(found) == 1, f"{text!r} on {self.name}: {[process.command for process in found]}"
        return found[0]

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        """SIGKILL, as a crash does it; its providers are left to themselves."""
        if self.running:
            self.signal(signal.SIGKILL)
            assert self._process is not None
            self._process.wait(10)

    def stop(self, *, timeout: float = 30) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        if self.running:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
        return self._process.wait(timeout)

    def end(self) -> None:
        """Leave nothing, whatever state it is in."""
        left = set(self.providers().values())
        if self.running:
            self.signal(signal.SIGCONT)
        self.kill()
        for process in left:
            if process.alive:
                os.kill(process.pid, signal.SIGKILL)


def mark_of(pid: int, name: str) -> str:
    """A variable in the environment that a process was started with; empty without it."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return ""
    wanted = f"{name}=".encode()
    return next((each[len(wanted) :].decode() for each in variables if each.startswith(wanted)), "")


def processes_with(text: str) -> set[ProcessId]:
    """All live processes with ``text`` in their environment: what a test's folders have left running."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid() and (read := ProcessId.read(int(entry.name))):
            try:
                if text.encode() in (entry / "environ").read_bytes() and read[2] != "Z":
                    found.add(read[0])
            except OSError:
                continue
    return found


def frozen(pid: int) -> bool:
    """Whether SIGSTOP has taken effect."""
    read = ProcessId.read(pid)
    return read is not None and read[2] == "T"


def freeze(pid: int) -> None:
    """SIGSTOP, in effect when this returns."""
    os.kill(pid, signal.SIGSTOP)
    deadline = time.monotonic() + 5
    while not frozen(pid):
        assert time.monotonic() < deadline, f"process {pid} does not stop"
        time.sleep(0.005)
