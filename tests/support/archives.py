"""Provider archives for tests, signed with keys of the tests' own."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

from lattice.archive import write_archive
from lattice.keys import KeyPair, Role
from lattice.signing import sign_provider
from tests.support.actors import ACCOUNT
from wasmhost.images.archive_file import native_target

SERVICE = KeyPair.from_raw(Role.SERVICE, bytes([31]) * 32)


def token(programs: Mapping[str, bytes], **claims: Any) -> str:
    """The claims of ``programs`` by target; ``claims`` replace what they say and who signs."""
    hashes = {target: sha256(content).hexdigest().upper() for target, content in programs.items()}
    given = {
        "account": ACCOUNT,
        "service": SERVICE,
        "name": "Test provider",
        "contract_id": "test:contract",
        "vendor": "tests",
        "revision": 3,
        "version": "0.3.0",
        "target_hashes": hashes,
    }
    return sign_provider(**{**given, **claims})


def archive(programs: Mapping[str, bytes], *, compress: bool = False, **claims: Any) -> bytes:
    """A sound archive of ``programs`` by target."""
    packed = BytesIO()
    write_archive(
        packed,
        token(programs, **claims),
        [(target, len(content), BytesIO(content)) for target, content in programs.items()],
        compress=compress,
    )
    return packed.getvalue()


def pack(folder: Path, program: bytes, *, name: str = "provider.par", compress: bool = False, **claims: Any) -> str:
    """Put an archive with a program for this machine into ``folder``; its ``file://`` reference."""
    path = folder / name
    path.write_bytes(archive({native_target(): program}, compress=compress, **claims))
    return path.as_uri()
