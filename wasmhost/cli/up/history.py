"""What an earlier ``wasmhost up`` put into a lattice, so that the next one can take away what it no longer names."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from lattice.links import LinkKey
from wasmhost.private_files import StateError, read_private, replace_file

EMBEDDED = "embedded"
"""What stands for a NATS server of ours in the place, as its port may be another one each time."""


class History:
    """The links that were put, by lattice, in a file of the state folder. A damaged file counts as empty."""

    def __init__(self, path: Path, *, place: str) -> None:
        """``place`` names the lattice: its NATS server and its prefix."""
        self._path = path
        self._place = place

    def links(self) -> frozenset[LinkKey]:
        """The keys of the links that earlier runs put and have not removed."""
        entries = self._read().get(self._place)
        if not isinstance(entries, list):
            return frozenset()
        return frozenset(
            (entry[0], entry[1], entry[2])
            for entry in entries
            if isinstance(entry, list) and len(entry) == 3 and all(isinstance(part, str) for part in entry)
        )

    def note(self, links: Iterable[LinkKey]) -> None:
        """Replace what is known. Raises OSError."""
        known = self._read()
        known[self._place] = sorted([list(key) for key in links])
        self._write(known)

    @classmethod
    def forget_embedded(cls, path: Path) -> None:
        """Forget all lattices on servers of ours: their data were removed. Raises OSError."""
        history = cls(path, place="")
        left = {place: links for place, links in history._read().items() if not place.startswith(EMBEDDED)}
        history._write(left)

    def _write(self, known: dict[str, object]) -> None:
        replace_file(self._path, json.dumps(known).encode())

    def _read(self) -> dict[str, object]:
        try:
            value = json.loads(read_private(self._path))
        except (OSError, StateError, ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}
