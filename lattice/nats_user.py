"""Tokens of NATS users, for servers in operator mode: who may connect, signed by an account.

With a *scoped* signing key the permissions are in the account's token, signed by the operator, and the user's token
says nothing but a name, which a template there may contain. Source: NATS JWT 2.0, ``nats-io/jwt`` ``user_claims.go``;
seen with nats-server 2.15: it refuses a scoped token that brings permissions or limits of its own.
"""

from __future__ import annotations

import json
import secrets
import time
from typing import Final

from lattice.jwt import encode_segment
from lattice.keys import KeyPair, Role, require_key

_HEADER: Final = encode_segment(b'{"typ":"JWT","alg":"ed25519-nkey"}')


def mint(signer: KeyPair, *, account: str, name: str, lifetime: float = 0.0) -> tuple[str, str]:
    """Token and seed of a new user of ``account`` (``A…``), valid for so many seconds, 0 for ever.

    ``signer`` is a scoped signing key of that account. ``name`` is the public key of a provider and nothing else: in a
    template a name ``*`` would become a wildcard, and with it the permissions of all others. Raises MalformedMessage.
    """
    require_key(name, Role.SERVICE, "name of a NATS user")
    user, now = KeyPair.generate(Role.USER), int(time.time())
    claims: dict[str, object] = {"jti": secrets.token_hex(16), "iat": now, "iss": signer.public, "sub": user.public}
    if lifetime:
        claims["exp"] = now + int(lifetime)
    claims |= {"name": name, "nats": {"type": "user", "version": 2, "issuer_account": account}}
    signed = f"{_HEADER}.{encode_segment(json.dumps(claims, separators=(',', ':')).encode())}"
    return f"{signed}.{encode_segment(signer.sign(signed.encode()))}", user.seed


def credentials(token: str, seed: str) -> str:
    """A credentials file, as every NATS client reads it."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
