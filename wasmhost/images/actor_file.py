"""From a reference to a checked actor: bytes, digest and claims that may run here.

The order of checks is that of the facts they rest on: the bytes, exactly one token in them, its signature and the hash
over the bytes, then the account's trust and the times. Nothing is compiled before all of them hold.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from lattice.claims import ActorClaims, check_times, check_trust, read_actor
from lattice.errors import Code, LatticeError
from wasmhost.configuration.config import HostConfig
from wasmhost.images.files import ImageError, name_file, opened
from wasmhost.images.reference import FileReference, parse

MAX_ACTOR_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ActorImage:
    """A module that passed every check on claims. Only :func:`load_actor` makes one."""

    reference: str
    """As typed."""
    wasm: bytes
    digest: str
    """Lower-case hex SHA-256 of the whole file, claims included."""
    claims: ActorClaims


async def load_actor(reference: str, *, config: HostConfig, now: float) -> ActorImage:
    """Read and check the actor that ``reference`` names, in a worker thread.

    ``now`` is Unix time in seconds. Raises ImageError (cannot be had), MalformedMessage (no actor, or broken claims) or
    NotAuthorized (untrusted account, expired, not yet valid).
    """
    place = parse(reference)
    if not isinstance(place, FileReference):
        raise ImageError(f"{reference} is a provider, not an actor; start it with: wasmhost start provider {reference}")
    if not config.allow_file_load:
        raise ImageError(
            f"actor file loading is disabled: {reference}; allow it on this host with --allow-file-load "
            "or WASMCLOUD_ALLOW_FILE_LOAD=true",
            code=Code.NOT_AUTHORIZED,
        )
    return await asyncio.to_thread(_load, reference, place.path, config.trusted_issuers, now)


def _load(reference: str, path: Path, trusted: Collection[str], now: float) -> ActorImage:
    wasm = _read(path)
    try:
        claims = read_actor(wasm)
        check_trust(claims, trusted)
        check_times(claims, now)
    except LatticeError as exc:
        name_file(exc, path)
        raise
    return ActorImage(reference=reference, wasm=wasm, digest=hashlib.sha256(wasm).hexdigest(), claims=claims)


def _read(path: Path) -> bytes:
    with opened(path, most=MAX_ACTOR_BYTES, wanted="a signed .wasm file") as file:
        return file.read(MAX_ACTOR_BYTES)
