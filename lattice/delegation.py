"""Delegation tokens: a cluster key says which key signs for one of its providers.

Hosts of another cluster, which accept that cluster key as an issuer but do not hold its seed, cannot derive the keys of
its providers; the token tells them. It has the form of a cluster token (issuer and subject the cluster key, the key in
``valid_signers``), and names lattice, provider, link name and generation in members of our own.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Final

from lattice import jwt
from lattice.document import Document
from lattice.errors import MalformedMessage, NotAuthorized
from lattice.keys import KeyPair, Role, require_key, verify

LIFETIME: Final = 24 * 3600
"""Seconds for which a token is valid. Its host makes a new one long before."""
SKEW: Final = 60
"""Seconds by which the clock of its signer may be ahead of ours."""
_WHAT: Final = "delegation"


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationToken:
    """What a verified token says. Times are whole seconds since the epoch."""

    issuer: str
    """The cluster key that delegates, ``C…``."""
    key: str
    """The key that may sign, ``C…``."""
    lattice: str
    provider: str
    """The provider for which it signs, ``V…``, under this link name."""
    link_name: str
    generation: int
    """Grows when the provider's key is revoked."""
    issued_at: int
    expires: int

    @classmethod
    def read(cls, token: str, *, issuers: Collection[str], lattice: str, now: float) -> DelegationToken:
        """Verify a token. Raises NotAuthorized when its issuer is not among ``issuers``, its signature is wrong, it is

        of another lattice, expired or not yet valid; MalformedMessage when it is none.
        """
        decoded = jwt.decode(_WHAT, token)
        body = Document(_WHAT, decoded.body)
        claims = body.document("wascap")
        issuer = require_key(body.required_text("iss"), Role.CLUSTER, f"{_WHAT}: iss")
        if issuer not in issuers:
            raise NotAuthorized(f"{_WHAT}: its issuer {issuer} is not among the accepted cluster keys")
        if not verify(issuer, decoded.signing_input, decoded.signature):
            raise NotAuthorized(f"{_WHAT}: its signature is wrong")
        signers = claims.texts("valid_signers")
        if body.text("sub") != issuer or len(signers) != 1:
            raise MalformedMessage(f"{_WHAT}: it is not about one key of its issuer")
        found = cls(
            issuer=issuer,
            key=require_key(signers[0], Role.CLUSTER, f"{_WHAT}: valid_signers"),
            lattice=claims.required_text("lattice"),
            provider=require_key(claims.required_text("provider"), Role.SERVICE, f"{_WHAT}: provider"),
            link_name=claims.required_text("link_name"),
            generation=claims.count("generation"),
            issued_at=body.count("iat"),
            expires=body.count("exp"),
        )
        if found.lattice != lattice:
            raise NotAuthorized(f"{_WHAT}: it is for lattice {found.lattice[:60]!r}, not {lattice!r}")
        if found.key in issuers:
            raise NotAuthorized(f"{_WHAT}: {found.key} is a cluster key itself, which no delegation can bind")
        if now > found.expires:
            raise NotAuthorized(f"{_WHAT}: it expired {now - found.expires:.0f} s ago")
        if found.issued_at > now + SKEW:
            raise NotAuthorized(f"{_WHAT}: it was issued in the future; compare the clocks of both machines")
        return found


def sign(
    cluster: KeyPair,
    *,
    key: str,
    lattice: str,
    provider: str,
    link_name: str,
    generation: int = 0,
    now: float,
    lifetime: float = LIFETIME,
) -> str:
    """The token by which ``cluster`` lets ``key`` sign for one provider and link name for ``lifetime`` seconds."""
    body: dict[str, Any] = {
        "exp": int(now + lifetime),
        "jti": secrets.token_hex(11),
        "iat": int(now),
        "iss": cluster.public,
        "sub": cluster.public,
        "wascap": {
            "name": "wasmhost provider key",
            "valid_signers": [key],
            "lattice": lattice,
            "provider": provider,
            "link_name": link_name,
            "generation": generation,
        },
        "wascap_revision": 3,
    }
    return jwt.encode(json.dumps(body, separators=(",", ":")).encode(), cluster)
