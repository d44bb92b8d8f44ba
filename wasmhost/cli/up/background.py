"""``wasmhost up --detach``: the same command as a process of its own, watched until it is ready or has failed.

The process in the background tells how its bring-up ended with one line of JSON on a pipe; everything else that it says
goes to its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Output
from wasmhost.cli.problems import Problem, from_error
from wasmhost.private_files import make_private_folder
from wasmhost.processes.own_program import own_command
from wasmhost.state import StatePaths, lock_holder

REPORT_OPTION = "--report-to"
LOG_NAME = "up.log"
LARGEST_LOG = 10 * 1024 * 1024
"""Bytes of log with which a new one is begun; the old one is kept once."""
LOOK_INTERVAL = 0.1


def up_folder(paths: StatePaths) -> Path:
    """Where ``up`` keeps its lock, its log and the data of its NATS server."""
    return paths.host / "up"


@dataclass(slots=True)
class Report:
    """The background process's end of the pipe; without one, nobody is told anything."""

    descriptor: int | None = None
    log: str = ""
    """The log, when in the background."""

    @classmethod
    def to(cls, descriptor: int | None, paths: StatePaths) -> Report:
        """``descriptor`` is the number of an open pipe, None in the foreground."""
        if descriptor is None:
            return cls()
        os.set_inheritable(descriptor, False)
        return cls(descriptor, str(up_folder(paths) / LOG_NAME))

    @property
    def in_background(self) -> bool:
        return bool(self.log)

    def ready(self, document: Mapping[str, Any]) -> None:
        self._send({"ready": document})

    def failed(self, error: Exception) -> None:
        problem = from_error(error) or Problem(f"internal error: {type(error).__name__}: {error}")
        self._send({"error": str(problem), "hint": problem.hint, "exit_code": int(problem.exit_code)})

    def close(self) -> None:
        descriptor, self.descriptor = self.descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _send(self, message: Mapping[str, Any]) -> None:
        """Whoever waits shows the log as far as it went until now."""
        if self.descriptor is None:
            return
        message = {**message, "log_size": os.fstat(sys.stderr.fileno()).st_size}
        with contextlib.suppress(BrokenPipeError):
            os.write(self.descriptor, json.dumps(message).encode() + b"\n")
        self.close()


def arguments_of(context: click.Context, *, without: str) -> list[str]:
    """The command line that gives a command these parameters, but for the option called ``without``."""
    options: list[str] = []
    positional: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        value = context.params.get(name)
        # What came from the environment is there for the new process, too; it may hold a password.
        typed = context.get_parameter_source(name) is ParameterSource.COMMANDLINE
        if name == without or not typed or value in (None, False, ()):
            continue
        values = value if isinstance(value, tuple) else (value,)
        if isinstance(parameter, click.Argument):
            positional += map(str, values)
        elif value is True:
            options.append(parameter.opts[-1])
        else:
            options += [part for one in values for part in (parameter.opts[-1], str(one))]
    return [*options, "--", *positional]


@dataclass(slots=True)
class _Watched:
    """What came from the background process so far."""

    log: Path
    shown: int
    """Bytes of the log that were shown, or were there before."""
    report: bytes = field(default=b"")

    def show_log(self, output: Output, until: int | None = None) -> None:
        with self.log.open("rb") as file:
            file.seek(self.shown)
            data = file.read() if until is None else file.read(max(0, until - self.shown))
        if until is None:
            data = data[: data.rfind(b"\n") + 1]
        self.shown += len(data)
        for line in data.decode(errors="replace").splitlines():
            output.say(line)


def launch(arguments: Sequence[str], paths: StatePaths, output: Output) -> ExitCode:
    """Start ``up`` with these arguments in the background; returns once it is ready. Raises Problem as it would."""
    folder = up_folder(paths)
    make_private_folder(folder)
    log = folder / LOG_NAME
    if log.exists() and log.stat().st_size > LARGEST_LOG and lock_holder(folder) is None:
        log.replace(log.with_suffix(".log.1"))
    reading, writing = os.pipe()
    sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    watched = _Watched(log, shown=os.fstat(sink).st_size)
    try:
        process = subprocess.Popen(
            own_command("up", REPORT_OPTION, str(writing), *arguments),
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            pass_fds=[writing],
            start_new_session=True,  # neither Ctrl-C nor a closed terminal reaches it
        )
    finally:
        os.close(sink)
        os.close(writing)
    try:
        message = _wait(process, reading, watched, output)
    except KeyboardInterrupt:
        output.say("Stopping it.")
        process.send_signal(signal.SIGTERM)
        process.wait()
        raise
    finally:
        os.close(reading)
    _tell(message, process, log, paths, output)
    return ExitCode.DONE


def _wait(process: subprocess.Popen[bytes], reading: int, watched: _Watched, output: Output) -> Mapping[str, Any]:
    """What the background process reported. Raises Problem when it ended without a word."""
    while True:
        readable, _, _ = select.select([reading], [], [], LOOK_INTERVAL)
        if not readable:
            watched.show_log(output)
            continue
        if chunk := os.read(reading, 65536):
            watched.report += chunk
            if not chunk.endswith(b"\n"):
                continue
            message: Mapping[str, Any] = json.loads(watched.report)
            watched.show_log(output, message["log_size"])
            return message
        status = process.wait()
        watched.show_log(output)
        raise Problem(
            f"the background process ended before it was ready (exit status {status})",
            hint=f"look at its log: {watched.log}",
        )


def _tell(
    message: Mapping[str, Any], process: subprocess.Popen[bytes], log: Path, paths: StatePaths, output: Output
) -> None:
    if "ready" not in message:
        process.wait()
        raise Problem(message["error"], exit_code=ExitCode(message["exit_code"]), hint=message["hint"])
    document = message["ready"]
    if output.json:
        output.line({**document, "pid": process.pid, "log": str(log)})
        return
    for url in document["urls"]:
        output.text(url)
    usual = paths.host.parent == paths.shared / "hosts"
    where = f" --name {paths.host.name}" if usual else f" --state {paths.host}"
    if usual and paths.host.name == "default":
        where = ""
    output.say(f"Ready; it goes on in the background (process {process.pid}).")
    output.say(f"Follow: tail -f {log}")
    output.say(f"Stop:   wasmhost down{where}")
