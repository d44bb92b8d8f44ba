"""The token in every invocation that proves who sent it and what it carries.

A token names origin, target and operation as URLs and the SHA-256 of the whole message; the issuer's key signs it. The
classic senders set no expiry; ours do, which classic receivers honour.
"""

from __future__ import annotations

import json
import secrets
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from itertools import count
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from lattice import jwt
from lattice.errors import MalformedMessage
from lattice.invocation import Entity, Invocation
from lattice.keys import KeyPair

if TYPE_CHECKING:
    from hashlib import _Hash as HASH

LIFETIME: Final = 300.0
"""Seconds until a token of ours expires; long, as a classic peer whose clock runs ahead would refuse otherwise."""

_ALPHANUMERIC = string.ascii_letters + string.digits
_MOST_CONSTANTS = 4096
_JOINED = 16 * 1024


def invocation_hash(origin_url: str, target_url: str, operation: str, msg: bytes) -> str:
    """Upper-case hex SHA-256 of origin, target, operation and the whole ``msg``, in this order, without separators.

    ``target_url`` ends with the operation, which closes the ambiguity that the missing separators would leave.
    """
    digest = hashing(origin_url, target_url, operation)
    digest.update(msg)
    return digest.hexdigest().upper()


def hashing(origin_url: str, target_url: str, operation: str) -> HASH:
    """The beginning of that hash, for a ``msg`` that comes in pieces."""
    return sha256(f"{origin_url}{target_url}{operation}".encode())


@dataclass(frozen=True, slots=True)
class _Constants:
    """What does not change between calls of one origin, target and operation."""

    hashed: bytes
    json: str


class Signer:
    """Builds signed invocations. Each has a new id: a random prefix per signer and a counter.

    A process that forks must make a new signer in the child, or the ids repeat and are refused as replayed.
    """

    def __init__(
        self, key: KeyPair, host_id: str, *, lifetime: float = LIFETIME, clock: Callable[[], float] = time.time
    ) -> None:
        self._key = key
        self._host_id = host_id
        self._lifetime = int(lifetime)
        self._clock = clock
        self._count = count(1)
        self._id_prefix = secrets.token_hex(8)
        self._jti_prefix = "".join(secrets.choice(_ALPHANUMERIC) for _ in range(12))
        self._constants: dict[tuple[str, str, str], _Constants] = {}

    @property
    def issuer(self) -> str:
        """Public key of the signer."""
        return self._key.public

    @property
    def host_id(self) -> str:
        return self._host_id

    def use(self, key: KeyPair) -> None:
        """Sign with ``key`` from the next call on."""
        self._key = key

    def new_id(self) -> str:
        """An id that no other invocation has."""
        return f"{self._id_prefix}{next(self._count):016x}"

    def sign(
        self, *, origin: Entity, target: Entity, operation: str, msg: bytes, invocation_id: str | None = None
    ) -> Invocation:
        """The invocation, valid from now on for the signer's lifetime, with a new id unless it has one already.

        Safe to be called in another thread, which for many megabytes is kinder to the loop.
        """
        constants = self._constants.get((origin.url, target.url, operation))
        if constants is None:
            constants = self._remember(origin.url, target.url, operation)
        number = next(self._count)
        key = self._key  # read once: another thread may replace it
        if invocation_id is None:
            invocation_id = f"{self._id_prefix}{number:016x}"
        now = int(self._clock())
        body = (
            f'{{"exp":{now + self._lifetime},"jti":"{self._jti_prefix}{number % 10_000_000_000:010d}","iat":{now},'
            f'"iss":"{key.public}","sub":"{invocation_id}",{constants.json}'
            f'{_hashed(constants.hashed, msg)}"}},"wascap_revision":3}}'
        )
        return Invocation(
            origin=origin,
            target=target,
            operation=operation,
            msg=msg,
            id=invocation_id,
            encoded_claims=jwt.encode(body.encode(), key),
            host_id=self._host_id,
            content_length=len(msg),
        )

    def _remember(self, origin_url: str, target: str, operation: str) -> _Constants:
        target_url = f"{target}/{operation}"
        if len(self._constants) >= _MOST_CONSTANTS:
            self._constants.clear()
        constants = _Constants(
            hashed=f"{origin_url}{target_url}{operation}".encode(),
            json=(f'"wascap":{{"target_url":{_quoted(target_url)},"origin_url":{_quoted(origin_url)},"hash":"'),
        )
        self._constants[origin_url, target, operation] = constants
        return constants


def _hashed(constant: bytes, msg: bytes) -> str:
    if len(msg) <= _JOINED:  # one call with joined bytes is faster than two, until the copy costs more
        return sha256(constant + msg).hexdigest().upper()
    digest = sha256(constant)
    digest.update(msg)
    return digest.hexdigest().upper()


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


class InvocationClaims(NamedTuple):
    """What a token says; nothing of it is verified yet. Times are whole seconds since the epoch."""

    issuer: str
    subject: str
    """The id of the invocation."""
    target_url: str
    origin_url: str
    hash: str
    issued_at: int
    expires: int | None
    not_before: int | None
    signing_input: bytes
    signature: bytes


_WHAT: Final = "invocation claims"
NO_METADATA: Final = "No wascap metadata found on claims"


def parse(encoded_claims: str) -> InvocationClaims:
    """Read a token without verifying it; MalformedMessage says which member is wrong."""
    data, signing_input, signature = jwt.split(_WHAT, encoded_claims)
    body = _body(data)
    metadata = body.get("wascap")
    if type(metadata) is not dict:
        raise MalformedMessage(NO_METADATA)
    return InvocationClaims(
        _text(body, "iss"),
        _text(body, "sub"),
        _text(metadata, "target_url"),
        _text(metadata, "origin_url"),
        _text(metadata, "hash"),
        _seconds(body, "iat"),
        None if body.get("exp") is None else _seconds(body, "exp"),
        None if body.get("nbf") is None else _seconds(body, "nbf"),
        signing_input,
        signature,
    )


_READ: Final = json.JSONDecoder().raw_decode


def _body(data: bytes) -> dict[str, Any]:
    """The JSON object of a token.

    Duplicate members are not looked for, unlike in claims of actors: the last one counts, also for the issuer whose
    key must fit, so there is no second reading that somebody could profit from. It saves 3 µs per call.
    """
    try:
        body, end = _READ(data.decode())
        if end != len(data):  # white space around it, or text that is not ASCII
            body = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"{_WHAT}: the body is not JSON") from error
    if type(body) is not dict:
        raise MalformedMessage(f"{_WHAT}: the body is not a JSON object")
    return body


def _text(members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if type(value) is str and value:
        return value
    raise MalformedMessage(f"{_WHAT}: {name} is {'missing' if not value else 'not text'}")


def _seconds(members: dict[str, Any], name: str) -> int:
    value = members.get(name)
    if type(value) is int and 0 <= value < 2**64:
        return value
    raise MalformedMessage(f"{_WHAT}: {name} is {'missing' if value is None else 'not a whole number of seconds'}")
