"""Image files of this machine, opened so that no special file holds the reader."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from lattice.errors import Code, LatticeError


class ImageError(LatticeError):
    """An image cannot be had; the message names it, the reason and what to do."""

    code = Code.INVALID


@contextmanager
def opened(path: Path, *, most: int, wanted: str) -> Iterator[BinaryIO]:
    """The regular file at ``path``, which may have ``most`` bytes; ``wanted`` is what it should be, for the error.

    Blocks on the file. Raises ImageError.
    """
    try:
        # non-blocking: opening a named pipe must not hold the thread for ever
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise ImageError(f"{path} is not a regular file; name {wanted}")
            if status.st_size > most:
                raise ImageError(f"{path} holds {status.st_size} bytes, above the limit of {most}")
            with open(descriptor, "rb", closefd=False) as file:
                yield file
        finally:
            os.close(descriptor)
    except FileNotFoundError as exc:
        raise ImageError(f"there is no file {path} on this host; check the path", code=Code.NOT_FOUND) from exc
    except OSError as exc:
        raise ImageError(f"{path} cannot be read: {exc.strerror}; check its permissions") from exc


def name_file(error: LatticeError, path: Path) -> None:
    """Put the file in front of the error's sentence: claims do not know where they came from."""
    if str(path) not in str(error):
        error.args = (f"{path}: {error}",)
