"""Files and folders for one user alone: made, read and replaced so that nobody else decides what is in them."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from lattice.errors import Code, LatticeError

MOST_BYTES: Final = 64 * 1024 * 1024
"""Of one file that is read."""


class StateError(LatticeError):
    """A state folder cannot be used. ``code`` is CONFLICT when another process holds its lock."""

    code = Code.INTERNAL


def make_private_folder(path: Path) -> None:
    """Make ``path`` and what is missing above it, readable by this user only. Raises StateError.

    A folder of another user is refused, since that one can read and replace what is put there. Root, who works in
    folders that others have mounted, is let. A symbolic link is refused, and one on the way that is another user's:
    they lead where whoever made them wants our files to be written, or removed.
    """
    user = os.geteuid()
    try:
        _refuse_links(path, user)
        _make(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == user:
                os.fchmod(descriptor, 0o700)
        finally:
            os.close(descriptor)
    except OSError as exc:
        raise unusable(path, exc) from exc
    if user != 0 and found.st_uid not in (user, 0):
        raise StateError(
            f"state folder {path} belongs to user {found.st_uid}, who could read and change what is kept there; "
            "choose another with --state DIR or WASMHOST_STATE"
        )
    if not os.access(path, os.W_OK | os.X_OK):
        number = errno.EROFS if os.statvfs(path).f_flag & os.ST_RDONLY else errno.EACCES
        raise unusable(path, OSError(number, os.strerror(number)))


def _make(path: Path) -> None:
    """Unlike ``Path.mkdir`` with the folders above it: those are this user's, too, whatever the umask is."""
    missing = []
    for folder in (path, *path.parents):
        if folder.exists():
            break
        missing.append(folder)
    for folder in reversed(missing):
        with contextlib.suppress(FileExistsError):  # another process was faster
            folder.mkdir(mode=0o700)


def _refuse_links(path: Path, user: int) -> None:
    for folder in (path, *path.parents):
        try:
            found = folder.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        if stat.S_ISLNK(found.st_mode) and (folder is path or found.st_uid not in (user, 0)):
            whose = "" if folder is path else f" of user {found.st_uid}"
            raise StateError(
                f"state folder {path} cannot be used: {folder} is a symbolic link{whose} to {os.readlink(folder)}; "
                "name the folder itself with --state DIR or WASMHOST_STATE"
            )


def read_private(path: Path, *, most: int = MOST_BYTES) -> bytes:
    """The first ``most`` bytes of a file that this user keeps; a mode that lets others read it is mended.

    Raises OSError, and StateError for what is no regular file (a symbolic link, say), or another user's.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise StateError(f"{path} is a symbolic link; put the file itself there") from error
        raise
    with os.fdopen(descriptor, "rb") as file:
        found, user = os.fstat(descriptor), os.geteuid()
        if not stat.S_ISREG(found.st_mode):
            raise StateError(f"{path} is no regular file; remove it")
        if user != 0 and found.st_uid not in (user, 0):
            raise StateError(f"{path} belongs to user {found.st_uid}; remove it, or make it this user's")
        if stat.S_IMODE(found.st_mode) & 0o077 and found.st_uid == user:
            os.fchmod(descriptor, 0o600)
        return file.read(most)


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` into ``path`` (0600), whole or not at all, also when the machine stops meanwhile. Raises OSError.

    For files that one process at a time writes: the draft has a fixed name, so that one left behind is overwritten.
    """
    draft = path.with_name(f".{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)  # or the old name may be back after a power failure
    finally:
        os.close(folder)


def unusable(folder: Path, exc: OSError) -> StateError:
    """What to say of a folder in which something could not be written."""
    full = exc.errno in (errno.ENOSPC, errno.EDQUOT)
    remedy = "free some space there" if full else "make it writable for this user"
    return StateError(
        f"state folder {folder} cannot be written: {exc.strerror or exc}; {remedy}, "
        "or choose another with --state DIR or WASMHOST_STATE"
    )
