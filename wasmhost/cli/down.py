"""``wasmhost down``: stop what ``wasmhost up`` started, and, if asked to, remove what applications stored."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import click

from lattice.addresses import shown
from wasmhost.cli.app import App, name_option, output_option, pass_app, state_option
from wasmhost.cli.output import size
from wasmhost.cli.problems import Problem, invalid, timed_out
from wasmhost.cli.up.background import up_folder
from wasmhost.cli.up.history import History
from wasmhost.contexts.context import UpRecord
from wasmhost.state import StateFolder, StatePaths, lock_holder

STOP_TIMEOUT = 60.0
"""Seconds: longer than a drain and the forced end of everything that does not end by itself."""


@dataclass(frozen=True, slots=True)
class Stopped:
    """The ``up`` that was stopped."""

    pid: int
    record: UpRecord | None
    """What it told of itself; None if it had not got that far."""


@click.command(short_help="stop a running `wasmhost up`")
@click.option("--purge", is_flag=True, help="Remove what applications stored, too.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask before removing.")
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    default=STOP_TIMEOUT,
    metavar="SECONDS",
    help="Longest wait for its end (default: 60).",
)
@name_option
@state_option
@output_option
@pass_app
def down(app: App, *, purge: bool, yes: bool, timeout: float) -> None:
    """Stop a running `wasmhost up`: its applications, hosts and NATS server. Calls in flight finish.

    What applications stored is there again next time, unless --purge removes it. Keys stay in any case.
    """
    paths = app.paths
    store = up_folder(paths) / "jetstream"
    if purge and not yes:
        _ask(app, store)
    stopped = stop(paths, timeout)
    removed = remove_stored(paths, store) if purge else None
    if app.output.json:
        record = stopped.record if stopped else None
        app.output.document(
            {
                "stopped": stopped is not None,
                "pid": stopped.pid if stopped else None,
                "lattice": record.lattice if record else None,
                "nats_url": shown(record.nats_url) if record else None,
                "hosts": record.hosts if record else 0,
                "removed_bytes": removed,
            }
        )
        return
    app.output.text(_told(stopped) if stopped else f"Nothing to stop: no `wasmhost up` runs in {paths.host}.")
    if stopped and stopped.record and not stopped.record.own_server:
        app.output.text(f"The NATS server at {shown(stopped.record.nats_url)} is not its own and stays as it is.")
    if removed is not None:
        app.output.text(f"Removed {size(removed)} that applications stored." if removed else "Nothing was stored.")


def _told(stopped: Stopped) -> str:
    record = stopped.record
    if record is None:
        return f"Stopped `wasmhost up` (process {stopped.pid}), which was not ready yet."
    hosts = "the host" if record.hosts == 1 else f"{record.hosts} hosts"
    server = f" and the NATS server at {shown(record.nats_url)}" if record.own_server else ""
    return f"Stopped lattice '{record.lattice}': {hosts}{server} (process {stopped.pid})."


def _ask(app: App, store: Path) -> None:
    """Have the user agree. Raises Problem if not."""
    stored = stored_bytes(store)
    if not stored:
        return
    if app.output.json or not sys.stdin.isatty():
        raise invalid("--purge asks before it removes, and nobody can answer here", "add --yes")
    if not click.confirm(f"Stop it and remove {size(stored)} that applications stored in {store}?", err=True):
        raise Problem("nothing was stopped or removed")


def stop(paths: StatePaths, timeout: float) -> Stopped | None:
    """Stop the ``up`` of this state folder and wait for its end; None when none runs. Raises Problem."""
    folder = up_folder(paths)
    pid = lock_holder(folder)
    if pid is None:
        return None
    record = UpRecord.read(paths.host)
    if record is not None and record.pid != pid:
        record = None
    with _process(pid) as process:
        # Asked again with the process in hand: its number may have gone to another one meanwhile.
        if process is not None and lock_holder(folder) == pid:
            _end(process, pid, timeout)
    return Stopped(pid, record)


@contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A descriptor of a process; None when there is no such process any more."""
    try:
        descriptor = os.pidfd_open(pid)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _end(process: int, pid: int, timeout: float) -> None:
    try:
        signal.pidfd_send_signal(process, signal.SIGTERM)
    except ProcessLookupError:
        return
    except PermissionError:
        raise Problem(f"process {pid} belongs to another user", hint="stop it as that user") from None
    poll = select.poll()
    poll.register(process, select.POLLIN)
    if not poll.poll(timeout * 1000):
        raise timed_out(
            f"process {pid} still runs {timeout:g} s after it was told to stop",
            "calls in flight may be finishing; `wasmhost down` again ends it at once",
        )


def stored_bytes(store: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.lstat().st_size for path in store.rglob("*") if path.is_file())


def remove_stored(paths: StatePaths, store: Path) -> int:
    """Remove the data of the NATS server that ``up`` brings along; their size. Raises StateError, OSError."""
    if not store.exists():
        return 0
    with StateFolder.open(replace(paths, host=up_folder(paths))):  # no other `up` begins meanwhile
        stored = stored_bytes(store)
        shutil.rmtree(store)
        History.forget_embedded(up_folder(paths) / "applied.json")
    return stored
