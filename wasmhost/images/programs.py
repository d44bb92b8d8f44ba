"""The native programs of a host's providers: unpacked, private to the host's user, named by what they hold.

Archives are signed, files of this machine are not: whoever can write to the folder decides what runs. Hence a folder
that nobody else may enter, names that are the SHA-256 of the content, and another look at it before each start.
"""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import BinaryIO

from lattice.archive import Program
from wasmhost.images.files import ImageError
from wasmhost.private_files import make_private_folder


@dataclass(frozen=True, slots=True)
class StoredProgram:
    """An executable file in the store."""

    path: Path
    digest: str
    """Upper-case hex SHA-256 of its content, as signed."""

    def check(self) -> None:
        """Raise ImageError unless the file is still what was stored. Blocks: about 1 ms per MB."""
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                status = os.fstat(descriptor)
                sound = stat.S_ISREG(status.st_mode) and status.st_uid == os.geteuid() and self._matches(descriptor)
            finally:
                os.close(descriptor)
        except OSError as exc:
            raise ImageError(
                f"the unpacked program {self.path} cannot be read: {exc.strerror}; "
                "stop this provider and start it again"
            ) from exc
        if not sound:
            raise ImageError(
                f"the unpacked program {self.path} was changed by somebody, it is not what was signed; "
                "find out by whom, then stop this provider and start it again"
            )

    def _matches(self, descriptor: int) -> bool:
        with open(descriptor, "rb", closefd=False) as file:
            return file_digest(file, "sha256").hexdigest().upper() == self.digest


class ProgramStore:
    """One folder of programs. It belongs to one running host and holds what that has unpacked since it started."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made or removed before the first program is put."""
        self._folder = folder
        self._lock = threading.Lock()
        self._ready = False

    def put(self, program: Program) -> StoredProgram:
        """Unpack ``program`` while it is verified; the file appears whole or not at all.

        Blocks. Raises BadClaims when it is not what was signed, StateError or ImageError when it cannot be written.
        """
        with self._lock:
            self._prepare()
        stored = StoredProgram(self._folder / program.digest.lower(), program.digest)
        with self._draft(stored.path) as file:
            for chunk in program.chunks():
                file.write(chunk)
        return stored

    def _prepare(self) -> None:
        make_private_folder(self._folder)
        if not self._ready:  # what an earlier run of this host left is not used again
            for path in self._folder.iterdir():
                with suppress(OSError):
                    path.unlink()
            self._ready = True

    @contextmanager
    def _draft(self, target: Path) -> Iterator[BinaryIO]:
        draft = target.with_name(f".{target.name}.{os.urandom(4).hex()}")
        try:
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                os.fchmod(descriptor, 0o500)
                os.fsync(descriptor)
            draft.replace(target)
        except OSError as exc:
            raise ImageError(
                f"the program cannot be unpacked into {self._folder}: {exc.strerror or exc}; "
                "free some space, or give the host another folder with --state DIR"
            ) from exc
        finally:
            draft.unlink(missing_ok=True)
