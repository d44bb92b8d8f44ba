"""The two encodings of the control subjects: msgpack, which our own client speaks, and JSON, which everybody does."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final

from lattice import document, wire

CONTENT_TYPE: Final = "Content-Type"
JSON_TYPE: Final = "application/json"
MSGPACK_TYPE: Final = "application/msgpack"


class Encoding(Enum):
    """The value is what stands in the ``Content-Type`` header."""

    JSON = JSON_TYPE
    MSGPACK = MSGPACK_TYPE

    def encode(self, value: object) -> bytes:
        """``value``, made of dicts, lists, text and numbers."""
        return document.encode(value) if self is Encoding.JSON else wire.pack(value)

    def decode(self, payload: bytes, what: str = "message") -> object:
        """Raise MalformedMessage, and nothing else."""
        if self is Encoding.JSON:
            return document.parse(what, payload)
        return wire.unpack_value(payload, what)

    @property
    def headers(self) -> Mapping[str, str]:
        return {CONTENT_TYPE: self.value}


def encoding_of(payload: bytes, headers: Mapping[str, str] | None = None) -> Encoding:
    """The encoding of a request: what its ``Content-Type`` says, else what it looks like; JSON when it is empty.

    Every control document is a map, and the first byte of a msgpack map never begins a JSON text.
    """
    named = ""
    if headers:
        named = next((value for name, value in headers.items() if name.lower() == "content-type"), "")
    named = named.split(";")[0].strip().lower()
    if named in (MSGPACK_TYPE, "application/x-msgpack", "application/vnd.msgpack"):
        return Encoding.MSGPACK
    if named == JSON_TYPE or not payload:
        return Encoding.JSON
    first = payload[0]
    return Encoding.MSGPACK if 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF else Encoding.JSON


def decode_body(
    payload: bytes, headers: Mapping[str, str] | None = None, what: str = "control request"
) -> tuple[object, Encoding]:
    """The value of a request (None when it is empty) and the encoding that its answer must use.

    Raises MalformedMessage, and nothing else; the answer then takes :func:`encoding_of`.
    """
    encoding = encoding_of(payload, headers)
    return (encoding.decode(payload, what) if payload else None), encoding


def encode_reply(value: object, encoding: Encoding) -> bytes:
    """The answer in the encoding of its request."""
    return encoding.encode(value)
