"""Folders on a small file system of their own, which can be full or read-only. As root only, like CI."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path


class Disk:
    """A mounted tmpfs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take all space that is left, to the last byte and the last file."""
        with self._ballast.open("ab", buffering=0) as file:
            for size in (65536, 4096, 1):
                with contextlib.suppress(OSError):
                    while file.write(b"x" * size):
                        pass

    def empty(self) -> None:
        """Give the space back."""
        self._ballast.unlink()

    def read_only(self) -> None:
        """Nothing can be opened for writing any more; what is open already stays so, or the kernel would refuse."""
        subprocess.run(["mount", "--bind", str(self.folder), str(self.folder)], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", str(self.folder)], check=True)

    def writable(self) -> None:
        """The end of :meth:`read_only`."""
        subprocess.run(["umount", "-l", str(self.folder)], check=True)


@contextlib.contextmanager
def small_disk(folder: Path, *, size: str = "2m") -> Iterator[Disk]:
    """Mount a tmpfs of that size at ``folder`` and unmount it at the end, whoever still uses it."""
    if os.geteuid() != 0:
        raise RuntimeError("tests of full and read-only disks mount file systems: run them as root")
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)], check=True)
    try:
        yield Disk(folder)
    finally:
        while os.path.ismount(folder):
            subprocess.run(["umount", "-l", str(folder)], check=True)
