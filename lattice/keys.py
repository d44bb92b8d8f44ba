"""nkeys: Ed25519 keys whose text form says what they are for.

``base32(prefix byte | 32 bytes | CRC-16/XMODEM little endian)``; seeds have two prefix bytes. The nkeys package is not
used: it knows neither actor nor provider keys, never checks the CRC of a seed and cannot verify with a public key.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from enum import Enum
from functools import lru_cache
from typing import Final

import nacl.bindings
import nacl.exceptions

from lattice.errors import MalformedMessage

_SEED: Final = re.compile(r"S[A-Z][A-Z2-7]{56}")
_SEED_PREFIX: Final = 0x90
_PUBLIC_LENGTH: Final = 56
_SEED_LENGTH: Final = 58


class Role(Enum):
    """What a key stands for; the value is its prefix byte."""

    ACCOUNT = 0x00
    """Signs actors and providers: ``A…``."""
    CLUSTER = 0x10
    """Signs invocations: ``C…``."""
    MODULE = 0x60
    """Names an actor: ``M…``."""
    HOST = 0x68
    """Names a host: ``N…``."""
    OPERATOR = 0x70
    USER = 0xA0
    """A NATS user: ``U…``."""
    SERVICE = 0xA8
    """Names a provider: ``V…``."""

    @property
    def letter(self) -> str:
        return {0x00: "A", 0x10: "C", 0x60: "M", 0x68: "N", 0x70: "O", 0xA0: "U", 0xA8: "V"}[self.value]


_NOUNS: Final = {
    Role.ACCOUNT: "an account",
    Role.CLUSTER: "a cluster",
    Role.MODULE: "an actor",
    Role.HOST: "a host",
    Role.OPERATOR: "an operator",
    Role.USER: "a user",
    Role.SERVICE: "a provider",
}
_ROLES: Final = {role.value: role for role in Role}


def _encode(data: bytes) -> str:
    checked = data + binascii.crc_hqx(data, 0).to_bytes(2, "little")
    return base64.b32encode(checked).decode().rstrip("=")


def _decode(what: str, text: str, length: int) -> bytes:
    if len(text) != length:
        raise MalformedMessage(f"{what} has {len(text)} characters instead of {length}")
    try:
        data = base64.b32decode(text + "=" * (-length % 8))
    except ValueError as error:
        raise MalformedMessage(f"{what} holds characters other than A-Z and 2-7") from error
    body, crc = data[:-2], data[-2:]
    # Only one spelling of a key is accepted: the unused bits of the last character must be zero.
    if binascii.crc_hqx(body, 0).to_bytes(2, "little") != crc or _encode(body) != text:
        raise MalformedMessage(f"{what} is misspelt: its checksum does not match")
    return body


@lru_cache(maxsize=4096)
def decode_public(text: str) -> tuple[Role, bytes]:
    """Role and the 32 raw bytes of a public key; MalformedMessage if it is none (length, alphabet, CRC, prefix)."""
    body = _decode("public key", text, _PUBLIC_LENGTH)
    role = _ROLES.get(body[0])
    if role is None:
        raise MalformedMessage(f"public key has the unknown prefix byte {body[0]:#04x}")
    return role, body[1:]


def role_of(text: str) -> Role | None:
    """The role of a public key, None if ``text`` is none."""
    try:
        return decode_public(text)[0]
    except MalformedMessage:
        return None


def is_key(text: str, role: Role) -> bool:
    """Whether ``text`` is a valid public key of this role."""
    return role_of(text) is role


def require_key(text: str, role: Role, what: str) -> str:
    """``text`` itself if it is a public key of this role; otherwise a MalformedMessage that begins with ``what``."""
    try:
        found = decode_public(text)[0]
    except MalformedMessage as error:
        raise MalformedMessage(f"{what} {text[:60]!r}: {error}") from error
    if found is not role:
        raise MalformedMessage(
            f"{what} {text}: this is {_NOUNS[found]} key; {_NOUNS[role]} key begins with {role.letter}"
        )
    return text


def holds_seed(text: str) -> bool:
    """Whether there is the secret half of a key in a text, of whatever kind."""
    return _SEED.search(text) is not None


def verify(public: str, message: bytes, signature: bytes) -> bool:
    """Whether ``signature`` over ``message`` was made with the key ``public``; MalformedMessage if that is no key.

    About 60 µs: the decoded key is kept, the rest is curve arithmetic.
    """
    raw = decode_public(public)[1]
    if len(signature) != 64:
        return False
    try:
        nacl.bindings.crypto_sign_open(signature + message, raw)
    except nacl.exceptions.BadSignatureError:
        return False
    return True


class KeyPair:
    """A key that can sign. Its ``repr`` shows the public key only."""

    __slots__ = ("_raw", "_secret", "public", "role")

    def __init__(self, role: Role, raw: bytes) -> None:
        if len(raw) != 32:
            raise MalformedMessage(f"a raw seed has 32 bytes, not {len(raw)}")
        public, self._secret = nacl.bindings.crypto_sign_seed_keypair(raw)
        self._raw = raw
        self.role = role
        self.public: str = _encode(bytes([role.value]) + public)

    @classmethod
    def generate(cls, role: Role) -> KeyPair:
        """A new random key."""
        return cls(role, os.urandom(32))

    @classmethod
    def from_raw(cls, role: Role, raw: bytes) -> KeyPair:
        """The key of 32 secret bytes."""
        return cls(role, raw)

    @classmethod
    def from_seed(cls, text: str, role: Role | None = None) -> KeyPair:
        """The key of a seed such as ``SA…``; white space around it is ignored, the checksum is verified.

        ``role`` demands one role. The MalformedMessage never repeats what was given, as it may be a secret.
        """
        text = text.strip()
        if len(text) == _PUBLIC_LENGTH and role_of(text) is not None:
            raise MalformedMessage("this is a public key; a seed begins with S and has 58 characters")
        body = _decode("seed", text, _SEED_LENGTH)
        found = _ROLES.get((body[0] & 7) << 5 | body[1] >> 3)
        if body[0] & 0xF8 != _SEED_PREFIX or body[1] & 7 or found is None:
            raise MalformedMessage("seed has an unknown prefix")
        if role is not None and found is not role:
            raise MalformedMessage(
                f"this is {_NOUNS[found]} seed (S{found.letter}…); {_NOUNS[role]} seed begins with S{role.letter}"
            )
        return cls(found, body[2:])

    @property
    def seed(self) -> str:
        """The secret text form, 58 characters."""
        prefix = self.role.value
        return _encode(bytes([_SEED_PREFIX | prefix >> 5, (prefix & 31) << 3]) + self._raw)

    def sign(self, message: bytes) -> bytes:
        """64 bytes of Ed25519 over ``message``."""
        return nacl.bindings.crypto_sign(message, self._secret)[:64]

    def derived_secret(self, info: bytes, length: int = 32) -> bytes:
        """HKDF-SHA256 (RFC 5869) of the secret seed; ``length`` at most 32."""
        pseudo_random = hmac.digest(b"wasmhost key derivation v1", self._raw, hashlib.sha256)
        return hmac.digest(pseudo_random, info + b"\x01", hashlib.sha256)[:length]

    def __repr__(self) -> str:
        return f"<KeyPair {self.public}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyPair) and self.public == other.public

    def __hash__(self) -> int:
        return hash(self.public)

    def __reduce__(self) -> str | tuple[object, ...]:
        raise TypeError("a key pair is not pickled: that would copy its secret")


def derive(
    cluster: KeyPair, *, lattice: str, purpose: str, subject: str, link_name: str = "", generation: int = 0
) -> KeyPair:
    """The issuer key that stands for ``subject`` in place of the cluster key.

    ``purpose`` is ``provider`` (subject: its public key, with its link name) or ``client`` (subject: the label it puts
    into ``origin.public_key``). Every holder of the cluster seed computes the same key; raising ``generation``
    revokes the old one. The result is a cluster key (``C…``), so that classic providers sign with it unknowingly.
    """
    parts = [part.encode() for part in (purpose, lattice, subject, link_name)]
    # each part carries its length, so that no two different requests give the same input
    info = b"".join(len(part).to_bytes(4) + part for part in parts) + generation.to_bytes(8)
    return KeyPair(Role.CLUSTER, cluster.derived_secret(info))
