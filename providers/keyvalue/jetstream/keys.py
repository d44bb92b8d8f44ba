"""Keys of the contract as keys of a JetStream bucket.

A contract key is any text; a bucket key has a small alphabet. base64url without padding fits it, and keeps prefixes
apart from wildcards; the empty key, which has no base64 form, is a single ``=``.
"""

from __future__ import annotations

import base64
from typing import Final

from lattice.errors import Code, LatticeError

LONGEST: Final = 2048
"""Bytes of UTF-8: a bucket key is part of a subject, and a subject has to fit the server's control line of 4 KiB."""

_EMPTY: Final = "="


def encode(key: str) -> str:
    """Raises LatticeError (``invalid``) for a key that is too long."""
    data = key.encode()
    if len(data) > LONGEST:
        raise LatticeError(f"a key of {len(data)} bytes is too long; at most {LONGEST} are possible", code=Code.INVALID)
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode() or _EMPTY


def decode(stored: str) -> str:
    """The contract key of a bucket key. Raises ValueError for one that ``encode`` does not make."""
    if stored == _EMPTY:
        return ""
    return base64.b64decode(stored + "=" * (-len(stored) % 4), altchars=b"-_", validate=True).decode()
