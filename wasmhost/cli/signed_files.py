"""Signed files: read, named in errors, shown and replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from typing import Any

from lattice.claims import ActorClaims, ClaimsRefused, ProviderClaims, check_times, human_time
from lattice.errors import LatticeError
from wasmhost.cli.problems import Problem, invalid


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file, open for reading. Raises Problem."""
    try:
        with path.open("rb") as file:
            yield file
    except IsADirectoryError:
        raise invalid(f"{path} is a folder, not a WebAssembly file", "name the file in it") from None
    except FileNotFoundError:
        raise invalid(f"there is no file {path}", "check the path") from None


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises Problem."""
    with opened(path) as file:
        return file.read()


def day(seconds: int | None) -> str | None:
    """A time of the claims as RFC 3339, None for none."""
    return human_time(seconds) or None


def claims_document(claims: ActorClaims, now: float) -> dict[str, Any]:
    """Claims as ``-o json`` shows them."""
    problem = time_problem(claims, now)
    return {
        "actor_id": claims.subject,
        "account_id": claims.issuer,
        "name": claims.name,
        "version": claims.version or None,
        "revision": claims.revision,
        "token_id": claims.token_id,
        "call_alias": claims.call_alias or None,
        "capabilities": sorted(claims.capabilities),
        "tags": list(claims.tags),
        "module_hash": claims.hash,
        "issued_at": day(claims.issued_at),
        "expires": day(claims.expires),
        "not_before": day(claims.not_before),
        "valid_now": problem is None,
        "problem": problem,
    }


def time_problem(claims: ActorClaims | ProviderClaims, now: float) -> str | None:
    """``expired`` or ``not_yet_valid``; None when the claims may be used now."""
    try:
        check_times(claims, now)
    except ClaimsRefused as error:
        return str(error.problem)
    return None


def named(error: LatticeError, file: Path) -> LatticeError:
    """Put the file in front of the sentence: claims do not know where they came from."""
    error.args = (f"{file}: {error}",)
    return error


def replace_file(path: Path, data: bytes) -> None:
    """Write the file whole or not at all. Raises Problem."""
    draft = path.with_name(f".{path.name}.{os.urandom(4).hex()}")
    try:
        with draft.open("xb") as file:  # never through a link that somebody put there
            file.write(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Problem(
            f"{path} cannot be written: {(error.strerror or str(error)).lower()}", hint="choose another with -d"
        ) from error
