"""What an image reference names: a file, a provider that comes with this package, or something not offered yet.

References arrive in control messages, so parsing is linear in their length and bounded; the text itself is kept and
echoed unchanged wherever the image is reported (classic tools match on it).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from lattice.errors import Code, LatticeError

_MAX_LENGTH = 4096
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,20}:")
_BUNDLED_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


class InvalidReference(LatticeError):
    """A reference cannot be used here; the message says which kinds can."""

    code = Code.INVALID


@dataclass(frozen=True, slots=True)
class FileReference:
    """A file on this machine."""

    text: str
    """As typed."""
    path: Path
    """Absolute."""


@dataclass(frozen=True, slots=True)
class BundledReference:
    """A provider that comes with this package, ``bundled:<name>``."""

    text: str
    name: str


def parse(reference: str, *, base: Path | None = None) -> FileReference | BundledReference:
    """Read a reference. ``base`` is the folder from which relative paths count; a host has none.

    Raises InvalidReference; registries are refused by name, since they come later.
    """
    text = reference.strip()
    shown = text if len(text) <= 200 else text[:197] + "..."
    if not text or len(text) > _MAX_LENGTH or "\0" in text:
        raise InvalidReference(f"image reference {shown!r} is empty, too long or holds a zero byte")
    if text.startswith("bundled:"):
        name = text.removeprefix("bundled:")
        if not _BUNDLED_NAME.fullmatch(name):
            raise InvalidReference(f"{shown!r} names no bundled provider; example: bundled:httpserver")
        return BundledReference(text=reference, name=name)
    if text.startswith("file://"):
        location = unquote(text.removeprefix("file://").removeprefix("localhost"))
        if not location.startswith("/") or "\0" in location:
            raise InvalidReference(f"{shown!r} is not absolute; write three slashes: file:///folder/actor.wasm")
        return FileReference(text=reference, path=Path(location))
    if _is_path(text):
        path = Path(text).expanduser()
        if path.is_absolute():
            return FileReference(text=reference, path=path)
        if base is not None:
            return FileReference(text=reference, path=base / path)
        raise InvalidReference(f"{shown!r} is relative; a host needs an absolute one: file:///folder/actor.wasm")
    if _SCHEME.match(text) and "://" in text and not text.startswith(("oci://", "http://", "https://")):
        raise InvalidReference(f"{shown!r}: this kind of reference is not known; use file:///folder/actor.wasm")
    raise InvalidReference(
        f"{shown!r} names an image in a registry, which is not supported yet; "
        "use a file (file:///folder/actor.wasm) or a bundled provider (bundled:httpserver)",
        code=Code.UNSUPPORTED,
    )


def _is_path(text: str) -> bool:
    """Whether a reference without scheme is a path: it looks like one, or ends like a file that we can load."""
    return text.startswith(("/", "./", "../", "~/")) or text.endswith((".wasm", ".par", ".par.gz"))
