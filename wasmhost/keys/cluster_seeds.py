"""Where a host looks for seeds of cluster keys. The operator carries them there; they never cross the network.

A command from the network may name a public key, or a file inside these folders by its bare name: no path, no link, so
that nobody makes a host read anything else.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.keys import KeyPair, Role
from wasmhost.private_files import StateError, make_private_folder, read_private
from wasmhost.state import StatePaths

log = structlog.get_logger(__name__)

FOLDER: Final = "cluster"
SUFFIX: Final = ".nk"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,80}")
_LONGEST: Final = 256


class ClusterSeeds:
    """The seeds of cluster keys in the folders of one host and of its user."""

    def __init__(self, paths: StatePaths) -> None:
        self.folders = (paths.host / FOLDER, paths.shared / FOLDER)
        self._own = (paths.host / "cluster.nk", paths.shared / "cluster.nk")

    def make_folders(self) -> None:
        """Make both folders, 0700, where that is possible."""
        for folder in self.folders:
            with contextlib.suppress(StateError):
                make_private_folder(folder)

    def find(self, public: str) -> KeyPair | None:
        """The key whose public half this is, None when no readable file holds its seed."""
        return next((key for key in self.all() if key.public == public), None)

    def named(self, name: str) -> KeyPair:
        """The key whose seed the file of this name holds, ``.nk`` left out or not. Raises LatticeError."""
        if not _NAME.fullmatch(name):
            raise MalformedMessage(
                f"{name[:60]!r} is neither a cluster's public key (C…) nor the bare name of a file in {self.where}"
            )
        for folder in self.folders:
            for path in (folder / name, folder / f"{name}{SUFFIX}"):
                if path.is_file() and not path.is_symlink():
                    return _read(path)
        raise LatticeError(f"there is no file {name}{SUFFIX} in {self.where} of this host", code=Code.NOT_FOUND)

    def names(self) -> dict[str, str]:
        """The public key in each usable file of the folders, by the name that commands may say."""
        found: dict[str, str] = {}
        for folder in reversed(self.folders):
            for path in sorted(folder.glob(f"*{SUFFIX}")):
                with contextlib.suppress(LatticeError):
                    found[path.stem] = _read(path).public
        return found

    @property
    def where(self) -> str:
        """The folders, for people."""
        return " or ".join(map(str, self.folders))

    def all(self) -> Iterator[KeyPair]:
        """Every key whose seed a readable file holds, some perhaps twice; the user's present one first."""
        for path in (*self._own, *(path for folder in self.folders for path in sorted(folder.glob(f"*{SUFFIX}")))):
            if path.is_file():
                try:
                    yield _read(path)
                except LatticeError as error:
                    log.warning("cluster.seed_unusable", reason=str(error))


def _read(path: Path) -> KeyPair:
    """The key in a file; its mode is mended. Raises StateError, whose text never holds the content."""
    try:
        text = read_private(path, most=_LONGEST).decode("ascii", "replace")
        return KeyPair.from_seed(text, Role.CLUSTER)
    except OSError as error:
        raise StateError(
            f"key file {path} cannot be read: {error.strerror}; check its owner and permissions"
        ) from error
    except MalformedMessage as error:
        raise StateError(f"key file {path} cannot be used: {error}") from error
