"""Writing claims: the tokens of actors and providers, signed by an account, and actors that carry theirs.

Source of the members and of their order: the reference signer; see docs/protocol.md.
"""

from __future__ import annotations

import json
import re
import secrets
import string
import time
from collections.abc import Mapping, Sequence
from typing import Any, Final, Required, TypedDict, Unpack

from lattice import jwt, wasmfile
from lattice.claims import REVISIONS, BadClaims, Problem, malformed_as_bad_claims, read_provider_token
from lattice.keys import KeyPair, Role, role_of

WASCAP_REVISION: Final = 3
"""Generation of the hash rule that is written; see docs/protocol.md."""

_ALPHANUMERIC = string.ascii_letters + string.digits
_ALIAS = re.compile(r"[a-z0-9_/]{1,128}")


class Lifetime(TypedDict, total=False):
    """When a token counts, in seconds since the epoch."""

    issued_at: int | None
    """None: now."""
    expires: int | None
    not_before: int | None


class ActorSays(Lifetime, total=False):
    """What a token says of an actor, beside its key and its code."""

    name: Required[str]
    capabilities: Sequence[str]
    tags: Sequence[str]
    revision: int
    version: str
    call_alias: str | None


def sign_actor(data: bytes, *, account: KeyPair, module: KeyPair, **says: Unpack[ActorSays]) -> bytes:
    """The file with new claims at its end; claims it had are replaced.

    The file is written with shortest-form section lengths, so that tools which re-encode it agree on the hash. Raises
    BadClaims for what is no WebAssembly file or an alias that cannot be one.
    """
    with malformed_as_bad_claims():
        stripped = wasmfile.reencode(data)
    token = actor_token(account=account, module=module, module_hash=wasmfile.module_hashes(stripped)[0], **says)
    return wasmfile.append_token(stripped, token)


def actor_token(*, account: KeyPair, module: KeyPair, module_hash: str = "", **says: Unpack[ActorSays]) -> str:
    """The token of an actor, without a file.

    ``module_hash`` is the upper-case hex SHA-256 that :func:`lattice.wasmfile.module_hashes` gives; without it the
    token stands for no code. Raises BadClaims for an alias that cannot be one.
    """
    _require(account, Role.ACCOUNT)
    _require(module, Role.MODULE)
    alias = says.get("call_alias")
    if alias is not None and (_ALIAS.fullmatch(alias) is None or role_of(alias.upper()) is not None):
        raise BadClaims(
            Problem.MALFORMED, f"call alias {alias[:80]!r} is not made of lower-case letters, digits, '_' and '/'"
        )
    wascap: dict[str, Any] = {
        "name": says["name"],
        "hash": module_hash,
        "tags": list(says.get("tags", ())),
        "caps": list(says.get("capabilities", ())),
    }
    wascap |= _release(says.get("revision", 0), says.get("version", ""))
    if alias is not None:
        wascap["call_alias"] = alias
    wascap["prov"] = False
    return _signed(account, module.public, wascap, says)


def sign_provider(
    *,
    account: KeyPair,
    service: KeyPair,
    name: str,
    contract_id: str,
    vendor: str = "",
    revision: int = 0,
    version: str = "",
    target_hashes: Mapping[str, str] | None = None,
    config_schema: object = None,
    **lifetime: Unpack[Lifetime],
) -> str:
    """The token of a provider; ``target_hashes`` maps ``arch-os`` to the upper-case hex SHA-256 of the binary.

    ``config_schema`` is a JSON schema of the link values, as parsed.
    """
    _require(account, Role.ACCOUNT)
    _require(service, Role.SERVICE)
    wascap: dict[str, Any] = {"name": name, "capid": contract_id, "vendor": vendor}
    wascap |= _release(revision, version)
    wascap["target_hashes"] = dict(sorted((target_hashes or {}).items()))
    if config_schema is not None:
        wascap["config_schema"] = config_schema
    return _signed(account, service.public, wascap, lifetime)


def resign_provider(token: str, *, account: KeyPair, target_hashes: Mapping[str, str]) -> str:
    """The token with other hashes, signed anew by the same account; all else that it says stays.

    Raises BadClaims when the token is not sound, or of another account: what is said about a provider would then
    change its author unnoticed.
    """
    claims = read_provider_token(token)
    if account.public != claims.issuer:
        raise BadClaims(
            Problem.MALFORMED,
            f"{claims.subject} is signed by {claims.issuer}, and the key given is that of {account.public}",
        )
    parsed = jwt.decode("claims", token).body
    wascap = {**parsed["wascap"], "target_hashes": dict(sorted(target_hashes.items()))}
    if not wascap.get("rev"):
        wascap["rev"] = claims.revision  # a missing one counts as the issue time, which changes now
    return _signed(account, claims.subject, wascap, {"expires": claims.expires, "not_before": claims.not_before})


def _require(key: KeyPair, role: Role) -> None:
    if key.role is not role:
        raise BadClaims(Problem.MALFORMED, f"{key.public} cannot take this part: its role is {key.role.name.lower()}")


def _release(revision: int, version: str) -> dict[str, Any]:
    if revision not in REVISIONS:
        raise BadClaims(Problem.MALFORMED, f"revision {revision} does not fit into 32 bits")
    return ({"rev": revision} if revision else {}) | ({"ver": version} if version else {})


def _signed(account: KeyPair, subject: str, wascap: Mapping[str, Any], lifetime: Lifetime) -> str:
    """The token of a body of compact JSON, in the member order of the reference signer."""
    expires, not_before, issued_at = (lifetime.get(each) for each in ("expires", "not_before", "issued_at"))
    body: dict[str, Any] = {}
    if expires is not None:
        body["exp"] = expires
    body["jti"] = "".join(secrets.choice(_ALPHANUMERIC) for _ in range(22))
    body["iat"] = int(time.time()) if issued_at is None else issued_at
    body["iss"] = account.public
    body["sub"] = subject
    if not_before is not None:
        body["nbf"] = not_before
    body["wascap"] = wascap
    body["wascap_revision"] = WASCAP_REVISION
    return jwt.encode(json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode(), account)
