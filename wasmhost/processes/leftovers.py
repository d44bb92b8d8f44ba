"""Processes that a provider started and that outlive it, also those that left its process group.

A process group is left with one system call, an environment is inherited by all who come after. Hence every provider is
started with marks in its environment, by which the kernel's process table is searched. Where there is no ``/proc``,
nothing is found, and the process group is all that is ended.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

HOST_MARK: Final = "WASMHOST_PROVIDER_OF"
"""Variable with the state folder of the host, which one host at a time uses."""
INSTANCE_MARK: Final = "WASMHOST_INSTANCE"
"""Variable with the id of one run of one provider."""

_PROC: Final = Path("/proc")
_ROUNDS: Final = 20
"""How often the table is searched: who is killed may have forked a moment before."""


def end_leftovers(name: str, value: str) -> list[int]:
    """SIGKILL to every process of this user whose environment has this mark; their ids.

    Blocks, about 5 ms per 500 processes. The own process is never ended.
    """
    mark = f"{name}={value}".encode()
    ended: list[int] = []
    for _ in range(_ROUNDS):
        found = [pid for pid in _processes() if _end(pid, mark)]
        if not found:
            break
        ended += [pid for pid in found if pid not in ended]
    return ended


def _processes() -> Iterator[int]:
    own, user = os.getpid(), os.geteuid()
    try:
        entries = list(os.scandir(_PROC))
    except OSError:
        return
    for entry in entries:
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and int(entry.name) != own and entry.stat().st_uid == user:
                yield int(entry.name)


def _end(pid: int, mark: bytes) -> bool:
    """Kill one process if it has the mark; False when it has not, or is dead already."""
    try:
        # Held from before the look until after the signal, so that the id cannot pass to another process in between.
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):
        return False
    try:
        if mark not in (_PROC / str(pid) / "environ").read_bytes().split(b"\0"):
            return False  # that of one who is dead and waits for its parent is empty
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        return True
    except OSError:
        return False
    finally:
        os.close(handle)


def with_marks(environment: Mapping[str, str], *, host: Path, instance: str) -> dict[str, str]:
    """``environment`` with the marks."""
    return {**environment, HOST_MARK: str(host), INSTANCE_MARK: instance}
