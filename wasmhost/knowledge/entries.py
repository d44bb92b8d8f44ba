"""Keys and values of the metadata bucket, as classic hosts and control clients write them.

Source: ``docs/protocol.md``; the forms are those of both generations of hosts.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, Final

from lattice import document
from lattice.errors import MalformedMessage
from lattice.links import LinkDefinition

LINK_PREFIX: Final = "LINKDEF_"
CLAIMS_PREFIX: Final = "CLAIMS_"
REFERENCE_PREFIX: Final = "REFMAP_"

_NEWER_NAMES: Final = {"capabilities": "caps", "issuer": "iss", "revision": "rev", "subject": "sub"}


def encode(value: Mapping[str, Any]) -> bytes:
    """The value of any entry."""
    return document.encode(dict(value))


def reference_key(reference: str) -> str:
    """The bucket's key for an image reference."""
    return REFERENCE_PREFIX + base64.urlsafe_b64encode(reference.encode()).rstrip(b"=").decode()


def read_link(key: str, value: bytes) -> LinkDefinition:
    """The link in the entry ``key``. Raises MalformedMessage."""
    link = LinkDefinition.from_json(document.parse("link definition", value)).check()
    if LINK_PREFIX + link.id != key:
        raise MalformedMessage("the key is not the hash of the link that it holds")
    return link


def read_claims(key: str, value: bytes) -> dict[str, str]:
    """The all-string form of the claims in the entry ``key``. Raises MalformedMessage."""
    claims = as_texts(document.parse("claims", value))
    subject = key.removeprefix(CLAIMS_PREFIX)
    if claims.get("sub", subject) != subject:
        raise MalformedMessage("the key does not name whose claims it holds")
    return claims


def as_texts(value: object) -> dict[str, str]:
    """The all-string form of claims, also from the typed form that later classic hosts write.

    Raises MalformedMessage.
    """
    fields = document.Document("claims", value)
    claims = {}
    for name in fields.names():
        member = fields.raw(name)
        items = member if isinstance(member, list) else [] if member is None else [member]
        if not all(isinstance(item, str | int) for item in items):
            raise MalformedMessage(f"claims: {name[:40]} is neither text, number nor a list of them")
        claims[_NEWER_NAMES.get(name, name)] = ",".join(map(str, items))
    return claims
