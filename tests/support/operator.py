"""A NATS server in operator mode, whose users carry tokens, as a lattice with several tenants has it."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Sequence
from pathlib import Path

from lattice.keys import KeyPair, Role


def _token(issuer: KeyPair, subject: KeyPair, name: str, nats: dict[str, object], expires: float | None = None) -> str:
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
    if expires is not None:
        claims["exp"] = int(expires)
    signed = f"{part({'typ': 'JWT', 'alg': 'ed25519-nkey'})}.{part(claims)}"
    return f"{signed}.{base64.urlsafe_b64encode(issuer.sign(signed.encode())).rstrip(b'=').decode()}"


_ANY = {"subs": -1, "data": -1, "payload": -1}
_ACCOUNT_LIMITS = {
    **_ANY,
    "imports": -1,
    "exports": -1,
    "wildcards": True,
    "conn": -1,
    "leaf": -1,
    "mem_storage": -1,
    "disk_storage": -1,
    "streams": -1,
    "consumer": -1,
}
_SYSTEM_LIMITS = {**_ANY, "imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1}


class Operator:
    """One operator with one account, which has JetStream; makes the server's configuration and users of the account."""

    def __init__(self) -> None:
        self._operator = KeyPair.generate(Role.OPERATOR)
        self._account = KeyPair.generate(Role.ACCOUNT)
        self._system = KeyPair.generate(Role.ACCOUNT)
        self._revoked: dict[str, int] = {}
        self._signing_keys: list[dict[str, object]] = []

    @property
    def config(self) -> str:
        operator = _token(
            self._operator, self._operator, "op", {"type": "operator", "system_account": self._system.public}
        )
        account = {
            "type": "account",
            "limits": _ACCOUNT_LIMITS,
            "revocations": self._revoked,
            "signing_keys": self._signing_keys,
        }
        tokens = {
            self._account.public: _token(self._operator, self._account, "acc", account),
            self._system.public: _token(
                self._operator, self._system, "SYS", {"type": "account", "limits": _SYSTEM_LIMITS}
            ),
        }
        preload = "\n".join(f"  {key}: {token}" for key, token in tokens.items())
        return (
            f"operator: {operator}\nsystem_account: {self._system.public}\n"
            f"resolver: MEMORY\nresolver_preload: {{\n{preload}\n}}\n"
        )

    def user(
        self,
        *,
        publish: Sequence[str] | None = None,
        subscribe: Sequence[str] | None = None,
        responses: int = 0,
        expires: float | None = None,
        seed: str = "",
    ) -> tuple[str, str]:
        """Token and seed of a user, a new one unless ``seed`` is given.

        It may do anything in the account, unless subjects are named. ``responses``: how often it may answer each
        request. ``expires`` is a Unix time.
        """
        key = KeyPair.from_seed(seed, Role.USER) if seed else KeyPair.generate(Role.USER)
        permissions: dict[str, object] = {
            "pub": {} if publish is None else {"allow": list(publish)},
            "sub": {} if subscribe is None else {"allow": list(subscribe)},
        }
        if responses:
            permissions["resp"] = {"max": responses, "ttl": 10_000_000_000}
        return _token(self._account, key, "user", {"type": "user", **permissions, **_ANY}, expires), key.seed

    def scoped_key(self, template: dict[str, object]) -> KeyPair:
        """A signing key of the account whose users may do what the template says, and only that."""
        key = KeyPair.generate(Role.ACCOUNT)
        limits = {"subs": -1, "data": -1, "payload": -1}
        scope = {"kind": "user_scope", "key": key.public, "role": "provider", "template": {**limits, **template}}
        self._signing_keys.append(scope)
        return key

    @property
    def account(self) -> str:
        """Public key of the account."""
        return self._account.public

    def revoke(self, seed: str) -> None:
        """Refuse all tokens of a user so far, once the server has read :attr:`config` again."""
        self._revoked[KeyPair.from_seed(seed, Role.USER).public] = int(time.time()) + 1


def write_credentials(path: Path, token: str, seed: str) -> Path:
    """A credentials file as ``nsc`` writes it, replaced as a whole."""
    draft = path.with_suffix(".new")
    draft.write_text(
        f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
    )
    draft.chmod(0o600)
    draft.replace(path)
    return path
