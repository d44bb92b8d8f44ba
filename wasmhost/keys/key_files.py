"""The key files of one user: what each holds and what is wrong with it. Reads only; not even a mode is mended here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role
from wasmhost.state import StatePaths

SUFFIX = ".nk"
_PATTERNS = (
    "*.nk",
    "cluster/*.nk",
    "modules/*.nk",
    "hosts/*/*.nk",
    "hosts/*/cluster/*.nk",
    "hosts/*/hosts/*/*.nk",
    "hosts/*/hosts/*/cluster/*.nk",
)
_LONGEST = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """One file that should hold a seed."""

    name: str
    """Short, for people: ``cluster``, ``modules/3f2a…``, ``hosts/default``."""
    path: Path
    role: Role | None = None
    """None when the file could not be read or holds no seed."""
    public: str = ""
    mode: int = 0
    """Permission bits."""
    unreadable: str = ""
    """Why its seed cannot be used."""

    @property
    def exposed(self) -> bool:
        """Whether others than its owner may read or change it."""
        return bool(self.mode & 0o077)


def key_files(paths: StatePaths) -> list[KeyFile]:
    """The key files of a user's state folders, by name."""
    found: dict[Path, KeyFile] = {}
    for folder in (paths.shared, paths.host):
        for file in in_folder(folder):
            found.setdefault(file.path, file)
    return sorted(found.values(), key=lambda file: (file.name.count("/"), file.name))


def in_folder(folder: Path) -> list[KeyFile]:
    """The key files in a folder that is laid out as a state folder, or holds some in any other way."""
    return [read_key_file(path, _name(path, folder)) for path in _paths(folder)]


def read_key_file(path: Path, name: str) -> KeyFile:
    """One file, whatever is in it."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read(_LONGEST).decode("ascii", "replace")
    except OSError as error:
        return KeyFile(name=name, path=path, unreadable=(error.strerror or str(error)).lower())
    try:
        key = KeyPair.from_seed(text.strip())
    except MalformedMessage as error:
        return KeyFile(name=name, path=path, mode=mode, unreadable=str(error))
    return KeyFile(name=name, path=path, role=key.role, public=key.public, mode=mode)


def _paths(folder: Path) -> Iterable[Path]:
    return dict.fromkeys(path for pattern in _PATTERNS for path in sorted(folder.glob(pattern)) if path.is_file())


def _name(path: Path, folder: Path) -> str:
    text = str(path.relative_to(folder).with_suffix(""))
    parts = text.split("/")
    if len(parts) > 1 and parts[-1] == "host":
        parts.pop()
    if parts[0] == "modules":
        parts[-1] = parts[-1][:12]
    return "/".join(parts)
