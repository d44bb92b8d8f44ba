"""The token format shared by claims and invocations: three base64url segments, signed with Ed25519.

General-purpose JWT libraries refuse or mishandle it: ``typ`` is ``jwt`` and ``alg`` is ``Ed25519`` (not ``EdDSA``), and
the verifying key is the issuer field itself.
"""

from __future__ import annotations

import binascii
import json
import string
from dataclasses import dataclass
from typing import Any, Final, cast

from lattice.errors import MalformedMessage
from lattice.keys import KeyPair

MAX_TOKEN: Final = 64 * 1024
"""Largest accepted token in characters; our own limit."""

_TO_URL = bytes.maketrans(b"+/", b"-_")
_URL_ALPHABET = (string.ascii_letters + string.digits + "-_").encode()
# everything outside the URL alphabet becomes "!", which the strict decoder refuses
_FROM_URL = bytes(
    b"+/"[b"-_".index(byte)] if byte in b"-_" else byte if byte in _URL_ALPHABET else ord("!") for byte in range(256)
)
_PADDING = (b"", None, b"==", b"=")
_LAST_OF_ONE_BYTE = b"AQgw"
_LAST_OF_TWO_BYTES = b"AEIMQUYcgkosw048"


def encode_segment(data: bytes) -> str:
    """Base64url without padding."""
    return binascii.b2a_base64(data, newline=False).rstrip(b"=").translate(_TO_URL).decode()


def decode_segment(what: str, segment: bytes) -> bytes:
    """Strict base64url without padding: one spelling per content, nothing skipped."""
    remainder = len(segment) % 4
    padding = _PADDING[remainder]
    if (
        padding is None
        or (remainder == 2 and segment[-1] not in _LAST_OF_ONE_BYTE)
        or (remainder == 3 and segment[-1] not in _LAST_OF_TWO_BYTES)
    ):
        raise MalformedMessage(f"{what}: a segment is not strict base64url")
    try:
        return binascii.a2b_base64(segment.translate(_FROM_URL) + padding, strict_mode=True)
    except binascii.Error as error:
        raise MalformedMessage(f"{what}: a segment is not strict base64url") from error


HEADER: Final = encode_segment(b'{"typ":"jwt","alg":"Ed25519"}')
"""The first segment of every token that is written."""

_HEADER_BYTES: Final = HEADER.encode()


@dataclass(frozen=True, slots=True)
class Token:
    """A token whose form was checked and whose signature was not."""

    body: dict[str, Any]
    signing_input: bytes
    signature: bytes


def encode(body: bytes, key: KeyPair) -> str:
    """The signed token around a JSON body."""
    signing_input = f"{HEADER}.{encode_segment(body)}"
    return f"{signing_input}.{encode_segment(key.sign(signing_input.encode()))}"


def decode(what: str, token: str) -> Token:
    """Check the form of a token: three strict segments, the header, a JSON object without duplicate members.

    Raises MalformedMessage, whose text begins with ``what``. The signature is *not* verified.
    """
    body, signing_input, signature = split(what, token)
    return Token(_object(f"{what}: the body", body), signing_input, signature)


def split(what: str, token: str) -> tuple[bytes, bytes, bytes]:
    """The undecoded JSON body, the signed text and the 64 bytes of signature of a token with the right header.

    Raises MalformedMessage as :func:`decode` does, of which it is the first half.
    """
    if len(token) > MAX_TOKEN:
        raise MalformedMessage(f"{what}: the token is larger than {MAX_TOKEN} characters")
    try:
        signing_input, _, signature = token.encode("ascii").rpartition(b".")
        header, body = signing_input.split(b".")
    except ValueError as error:
        raise MalformedMessage(f"{what}: not a token of three segments") from error
    if header != _HEADER_BYTES:
        _check_header(what, header)
    decoded = decode_segment(what, signature)
    if len(decoded) != 64:
        raise MalformedMessage(f"{what}: the signature has {len(decoded)} bytes instead of 64")
    return decode_segment(what, body), signing_input, decoded


def _check_header(what: str, segment: bytes) -> None:
    what += ": the header"
    if _object(what, decode_segment(what, segment)) != {"typ": "jwt", "alg": "Ed25519"}:
        raise MalformedMessage(f'{what} is not {{"typ":"jwt","alg":"Ed25519"}}')


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("duplicate members")
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_refuse_constant)


def _object(what: str, data: bytes) -> dict[str, Any]:
    try:
        text = data.decode()
        value = _DECODER.decode(text)
        if "\\u" in text:  # half a surrogate pair, which nobody could print or send afterwards
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "has duplicate members" if "duplicate" in str(error) else "is not JSON"
        raise MalformedMessage(f"{what} {reason}") from error
    if not isinstance(value, dict):
        raise MalformedMessage(f"{what} is not a JSON object")
    return cast(dict[str, Any], value)
