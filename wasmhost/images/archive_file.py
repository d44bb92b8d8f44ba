"""From an archive file to a provider that may run here: its claims checked, its program for this machine unpacked.

First the claims and their signature, the account's trust and the times, and only then the first look at a program.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lattice import subjects
from lattice.archive import MAX_ARCHIVE, Archive
from lattice.claims import ProviderClaims, check_times, check_trust
from lattice.errors import Code, LatticeError
from wasmhost.configuration.config import detected_labels
from wasmhost.images.files import ImageError, name_file, opened
from wasmhost.images.programs import ProgramStore, StoredProgram

_WANTED = "a provider archive (.par or .par.gz)"


@dataclass(frozen=True, slots=True)
class ArchiveImage:
    """A provider that passed every check. Only :func:`load_archive` makes one."""

    claims: ProviderClaims
    program: StoredProgram


def native_target() -> str:
    """What archives call this machine: ``x86_64-linux``."""
    labels = detected_labels()
    return f"{labels['hostcore.arch']}-{labels['hostcore.os']}"


def load_archive(path: Path, *, trusted: Collection[str], programs: ProgramStore, now: float) -> ArchiveImage:
    """Check the archive at ``path`` and unpack its program for this machine. Blocks on files.

    ``trusted`` are accounts, ``now`` is Unix time in seconds. Raises ImageError (cannot be had, or nothing for this
    machine), MalformedMessage (no archive, or not what was signed) or NotAuthorized (untrusted account, times).
    """
    with opened(path, most=MAX_ARCHIVE, wanted=_WANTED) as file:
        try:
            archive = Archive.open(file)
            claims = archive.claims
            subjects.validate_contract(claims.contract_id)
            check_trust(claims, trusted)
            check_times(claims, now)
            wanted, found = native_target(), None
            for program in archive.programs():  # to the end: what follows can make the whole ambiguous
                if program.target == wanted:
                    found = programs.put(program)
        except LatticeError as error:
            name_file(error, path)
            raise
    if found is None:
        offered = ", ".join(target for target, _ in claims.target_hashes)
        raise ImageError(
            f"{path} holds no program for this machine ({wanted}), only for {offered}; "
            f"add one with: wasmhost par insert {path} --arch {wanted} --binary FILE",
            code=Code.UNSUPPORTED,
        )
    return ArchiveImage(claims, found)


@dataclass(frozen=True, slots=True)
class PackedProgram:
    """One program in an archive."""

    target: str
    size: int
    digest: str
    """Upper-case hex SHA-256."""


@dataclass(frozen=True, slots=True)
class ArchiveContents:
    """All that an archive holds, checked against its claims; whoever signed them, and for whatever time."""

    claims: ProviderClaims
    programs: tuple[PackedProgram, ...]
    compressed: bool


def examine_archive(path: Path) -> ArchiveContents:
    """Read the archive at ``path`` to its end. Blocks on the file. Raises ImageError and MalformedMessage."""
    with opened(path, most=MAX_ARCHIVE, wanted=_WANTED) as file:
        try:
            archive = Archive.open(file)
            programs = []
            for program in archive.programs():
                for _ in program.chunks():
                    pass
                programs.append(PackedProgram(program.target, program.size, program.digest))
        except LatticeError as error:
            name_file(error, path)
            raise
    return ArchiveContents(archive.claims, tuple(programs), archive.compressed)


def read_archive_claims(path: Path) -> ProviderClaims:
    """What the archive at ``path`` says about itself; signed, but maybe by nobody trusted. Blocks on the file.

    Raises ImageError and MalformedMessage.
    """
    with opened(path, most=MAX_ARCHIVE, wanted=_WANTED) as file:
        try:
            return Archive.open(file).claims
        except LatticeError as error:
            name_file(error, path)
            raise
