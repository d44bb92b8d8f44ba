"""Claims: who signed an actor or a provider, what it may do, and which bytes were signed.

Structure, signature and hash are checked while reading (:func:`read_actor`); time and trust depend on the reader and
are separate decisions (:func:`check_times`, :func:`check_trust`). The hash is compared for tokens of every age, which
classic hosts do for the youngest only. Claims are written by :mod:`lattice.signing`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

from lattice import jwt, wasmfile
from lattice.document import Document
from lattice.errors import LatticeError, MalformedMessage, NotAuthorized
from lattice.keys import Role, require_key, verify

NOT_BEFORE_SKEW: Final = 60.0
"""Seconds by which the signer's clock may be ahead of ours."""
REVISIONS: Final = range(-(2**31), 2**31)
"""A revision fits into 32 bits."""

_HASH = re.compile(r"[0-9A-F]{64}")


class Problem(StrEnum):
    """Why claims were refused. The last four mean "not authorised", all others a bad file."""

    UNSIGNED = "unsigned"
    TWO_TOKENS = "two_tokens"
    NESTED_TOKEN = "nested_token"
    MALFORMED = "malformed"
    BAD_SIGNATURE = "bad_signature"
    WRONG_HASH = "wrong_hash"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    UNTRUSTED = "untrusted"
    REVOKED = "revoked"


class ClaimsError(LatticeError):
    """Claims that are refused; ``problem`` says why in one word."""

    problem: Problem

    def __init__(self, problem: Problem, message: str) -> None:
        super().__init__(message)
        self.problem = problem


class BadClaims(ClaimsError, MalformedMessage):
    """The file or token is not what it should be: malformed, unsigned, two tokens, wrong signature, wrong hash."""


class ClaimsRefused(ClaimsError, NotAuthorized):
    """Sound claims that do not permit this: untrusted account, expired, not yet valid, revoked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActorClaims:
    """What the token of an actor says. Times are whole seconds since the epoch."""

    subject: str
    """Public key of the actor, ``M…``."""
    issuer: str
    """Public key of the account that signed it, ``A…``."""
    name: str
    revision: int
    """Grows with each release; the issue time when the token has none."""
    version: str
    capabilities: tuple[str, ...]
    """Contracts it may use; empty means none."""
    tags: tuple[str, ...]
    call_alias: str | None
    hash: str
    """Upper-case hex SHA-256 of the file without its claims."""
    issued_at: int
    expires: int | None
    not_before: int | None
    token: str
    token_id: str = ""
    """``jti``: names this one token, so that it alone can be revoked."""

    def as_metadata(self) -> dict[str, str]:
        """The entry of the metadata bucket and of ``get.claims``: strings only, as all clients can read it."""
        return {
            "sub": self.subject,
            "iss": self.issuer,
            "name": self.name,
            "version": self.version,
            "rev": str(self.revision),
            "caps": ",".join(self.capabilities),
            "tags": ",".join(self.tags),
            "call_alias": self.call_alias or "",
            "contract_id": "",
        }

    def event_document(self) -> dict[str, Any]:
        """The ``claims`` member of actor events; the application manager needs caps to be a list."""
        return {
            "call_alias": self.call_alias,
            "caps": list(self.capabilities),
            "issuer": self.issuer,
            "tags": list(self.tags),
            "name": self.name,
            "version": self.version,
            "revision": self.revision,
            "not_before_human": human_time(self.not_before, "immediately"),
            "expires_human": human_time(self.expires, "never"),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderClaims:
    """What the token of a provider says. Times are whole seconds since the epoch."""

    subject: str
    """Public key of the provider, ``V…``."""
    issuer: str
    name: str
    contract_id: str
    vendor: str = ""
    revision: int = 0
    version: str = ""
    target_hashes: tuple[tuple[str, str], ...] = ()
    """(``arch-os``, upper-case hex SHA-256 of the binary)."""
    issued_at: int = 0
    expires: int | None = None
    not_before: int | None = None
    token: str = ""
    token_id: str = ""
    """``jti``; empty for a bundled provider, which has no token."""

    def as_metadata(self) -> dict[str, str]:
        """The entry of the metadata bucket and of ``get.claims``: strings only."""
        return {
            "sub": self.subject,
            "iss": self.issuer,
            "name": self.name,
            "version": self.version,
            "rev": str(self.revision),
            "caps": "",
            "tags": "",
            "call_alias": "",
            "contract_id": self.contract_id,
        }

    def event_document(self) -> dict[str, Any]:
        """The ``claims`` member of provider events; a list of tags would break the application manager."""
        return {
            "issuer": self.issuer,
            "tags": None,
            "name": self.name,
            "version": self.version,
            "not_before_human": human_time(self.not_before, "immediately"),
            "expires_human": human_time(self.expires, "never"),
        }


def human_time(seconds: int | None, absent: str = "") -> str:
    """A time for people, ``absent`` for none."""
    if seconds is None:
        return absent
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} seconds after 1970"


# ---- reading


def read_actor(data: bytes) -> ActorClaims:
    """The claims of a WebAssembly file: one token, sound, signed by its issuer, for exactly these bytes.

    Raises BadClaims. Neither times nor trust are checked. About 6 ms for a file of 1.8 MB.
    """
    with malformed_as_bad_claims():
        found = wasmfile.claims_tokens(data)
    nested = [section for section in found if section.depth]
    tokens = [section for section in found if not section.depth]
    if nested:
        # classic signers leave nested claims out of the hash, so anybody can add or change them
        raise BadClaims(Problem.NESTED_TOKEN, "claims inside a nested module; only those of the file itself count")
    if not tokens:
        raise BadClaims(Problem.UNSIGNED, "the file is not signed; sign it with: wasmhost claims sign")
    if len(tokens) > 1:
        raise BadClaims(
            Problem.TWO_TOKENS, f"the file carries {len(tokens)} tokens where one is allowed; sign it again"
        )
    claims = read_actor_token(tokens[0].token.decode("latin-1"))
    if claims.hash not in wasmfile.module_hashes(data):
        raise BadClaims(
            Problem.WRONG_HASH,
            f"the code is not what {claims.issuer} signed: its SHA-256 differs from the claims of {claims.subject}",
        )
    return claims


def read_actor_token(token: str) -> ActorClaims:
    """The claims of an actor's token alone; the signature is checked, the hash cannot be. Raises BadClaims."""
    with malformed_as_bad_claims():
        common, wascap = _read(token, Role.MODULE, "actor")
        digest = wascap.text("hash")
        if _HASH.fullmatch(digest) is None:
            raise MalformedMessage("claims: hash is not 64 upper-case hex digits")
        return ActorClaims(
            name=wascap.text("name"),
            revision=_revision(wascap, common["issued_at"]),
            version=wascap.text("ver"),
            # real files hold [] and [""] and nothing at all: all three grant nothing
            capabilities=tuple(capability for capability in wascap.texts("caps") if capability),
            tags=tuple(tag for tag in wascap.texts("tags") if tag),
            call_alias=normalise_alias(wascap.text("call_alias")) or None,
            hash=digest,
            **common,
        )


def read_provider_token(token: str) -> ProviderClaims:
    """The claims of a provider's token; the signature is checked, binaries cannot be. Raises BadClaims."""
    with malformed_as_bad_claims():
        common, wascap = _read(token, Role.SERVICE, "provider")
        hashes = wascap.mapping("target_hashes")
        if not all(_HASH.fullmatch(digest) for digest in hashes.values()):
            raise MalformedMessage("claims: target_hashes holds something else than SHA-256 digests")
        return ProviderClaims(
            name=wascap.text("name"),
            contract_id=wascap.required_text("capid"),
            vendor=wascap.text("vendor"),
            revision=_revision(wascap, common["issued_at"]),
            version=wascap.text("ver"),
            target_hashes=tuple(sorted(hashes.items())),
            **common,
        )


@contextmanager
def malformed_as_bad_claims() -> Iterator[None]:
    """Turn the MalformedMessage of what is within into BadClaims."""
    try:
        yield
    except BadClaims:
        raise
    except MalformedMessage as error:
        raise BadClaims(Problem.MALFORMED, str(error)) from error


def _read(token: str, role: Role, noun: str) -> tuple[dict[str, Any], Document]:
    """The members that all claims share, and the type-specific object."""
    parsed = jwt.decode("claims", token)
    body = Document("claims", parsed.body)
    issuer = require_key(body.text("iss"), Role.ACCOUNT, "claims: issuer")
    subject = require_key(body.text("sub"), role, f"claims: {noun}")
    if body.raw("wascap") is None:
        raise MalformedMessage("claims: no wascap object; tokens of 2019 are not supported")
    issued_at = body.optional_count("iat")
    if issued_at is None:
        raise MalformedMessage("claims: iat is missing")
    if not verify(issuer, parsed.signing_input, parsed.signature):
        raise BadClaims(Problem.BAD_SIGNATURE, f"the signature of {issuer} on the claims of {subject} is not valid")
    common = {
        "subject": subject,
        "issuer": issuer,
        "issued_at": issued_at,
        "expires": body.optional_count("exp"),
        "not_before": body.optional_count("nbf"),
        "token": token,
        "token_id": body.text("jti"),
    }
    return common, body.document("wascap")


def normalise_alias(text: str) -> str:
    """A call alias as hosts compare it: lower case, trimmed, ASCII only, space, ``-`` and ``.`` turned into ``_``."""
    plain = text.encode("ascii", "ignore").decode().strip().lower()
    return re.sub(r"[ .-]", "_", plain)


def _revision(wascap: Document, issued_at: int) -> int:
    value = wascap.integer("rev")
    if value not in REVISIONS:
        raise MalformedMessage("claims: rev does not fit into 32 bits")
    if value:
        return value
    low = issued_at & 0xFFFF_FFFF
    return low if low in REVISIONS else low - 2**32


# ---- time and trust


def check_times(claims: ActorClaims | ProviderClaims, now: float) -> None:
    """Raise ClaimsRefused when the claims have expired or are not valid yet at ``now`` (seconds since the epoch)."""
    if claims.expires is not None and claims.expires < now:
        raise ClaimsRefused(
            Problem.EXPIRED,
            f"the claims of {claims.subject} expired at {human_time(claims.expires)}; have {claims.issuer} sign again",
        )
    if claims.not_before is not None and claims.not_before > now + NOT_BEFORE_SKEW:
        raise ClaimsRefused(
            Problem.NOT_YET_VALID,
            f"the claims of {claims.subject} are not valid before {human_time(claims.not_before)}; "
            "wait until then, or check this machine's clock",
        )


def check_trust(claims: ActorClaims | ProviderClaims, trusted: Collection[str]) -> None:
    """Raise ClaimsRefused unless the signing account is one of ``trusted``; an empty list refuses everybody."""
    if claims.issuer not in trusted:
        raise ClaimsRefused(
            Problem.UNTRUSTED,
            f"{claims.subject} is signed by account {claims.issuer}, which this host does not trust; "
            f"to trust it start the host with --trust {claims.issuer}",
        )
