"""Who listens on a port of this machine, as Linux tells."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that listens; ``pid`` 0 when it belongs to somebody else."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command})" if self.pid else "a process of another user"


def listener(port: int) -> Listener | None:
    """Who listens on this TCP port, on whatever address; None when nobody does."""
    inodes = {inode for table in ("tcp", "tcp6") for inode in _inodes(Path("/proc/net") / table, port)}
    if not inodes:
        return None
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _holds(folder / "fd", wanted):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            return Listener(int(folder.name), b" ".join(words).decode(errors="replace").strip()[:60])
    return Listener(0, "")


def _inodes(table: Path, port: int) -> list[str]:
    try:
        lines = table.read_text().splitlines()[1:]
    except OSError:
        return []
    rows = [line.split() for line in lines]
    return [row[9] for row in rows if row[3] == _LISTENING and int(row[1].rpartition(":")[2], 16) == port]


def _holds(folder: Path, wanted: set[str]) -> bool:
    with contextlib.suppress(OSError):
        for entry in os.scandir(folder):
            with contextlib.suppress(OSError):
                if os.readlink(entry.path) in wanted:
                    return True
    return False
