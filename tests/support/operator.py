"""A NATS server in operator mode, whose users carry tokens, as a lattice with several tenants has it."""

from __future__ import annotations

import base64
import json
import time

from lattice.keys import KeyPair, Role


def _token(issuer: KeyPair, subject: KeyPair, name: str, nats: dict[str, object]) -> str:
    def part(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    claims = {
        "jti": "x" * 52,
        "iat": int(time.time()),
        "iss": issuer.public,
        "sub": subject.public,
        "name": name,
        "nats": {"version": 2, **nats},
    }
    signed = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    return f"{signed}.{base64.urlsafe_b64encode(issuer.sign(signed.encode())).rstrip(b'=').decode()}"


_ANY = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT_LIMITS = {**_ANY, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}


class Operator:
    """One operator with one account; makes the server's configuration and users of the account."""

    def __init__(self) -> None:
        self._operator = KeyPair.generate(Role.OPERATOR)
        self._account = KeyPair.generate(Role.ACCOUNT)

    @property
    def config(self) -> str:
        operator = _token(self._operator, self._operator, "op", {"type": "operator"})
        account = _token(self._operator, self._account, "acc", {"type": "account", "limits": _ACCOUNT_LIMITS})
        return f"operator: {operator}\nresolver: MEMORY\nresolver_preload: {{ {self._account.public}: {account} }}\n"

    def user(self) -> tuple[str, str]:
        """Token and seed of a new user that may do anything in the account."""
        user = KeyPair.generate(Role.USER)
        return _token(self._account, user, "user", {"type": "user", "pub": {}, "sub": {}, **_ANY}), user.seed
