"""Text that nobody but its owner should read where it lies or passes, such as the passwords in a configuration.

Its owner is a host, which keeps it on disk, or a cluster, whose hosts pass it on.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Final

import nacl.bindings
import nacl.exceptions

from lattice.errors import MalformedMessage
from lattice.keys import KeyPair

_FORM: Final = "v1:"
_NONCE: Final = nacl.bindings.crypto_secretbox_NONCEBYTES


class Seal:
    """Closes and opens texts with a key that is derived from its owner's seed: a copy of the file alone tells nothing.

    Whoever has the seed, which may lie beside the file, can open them.
    """

    __slots__ = ("_key",)

    def __init__(self, owner: KeyPair) -> None:
        self._key = owner.derived_secret(b"wasmhost sealed text")

    def close(self, text: str) -> str:
        """The same text gives the same result, so that a file of such texts changes only when they do."""
        plain = text.encode()
        nonce = hashlib.blake2b(plain, key=self._key, digest_size=_NONCE).digest()
        return _FORM + base64.b64encode(nonce + nacl.bindings.crypto_secretbox(plain, nonce, self._key)).decode()

    def open(self, sealed: str) -> str:
        """Raise MalformedMessage for what was not closed with this key, or was changed since."""
        try:
            data = base64.b64decode(sealed.removeprefix(_FORM), validate=True)
            plain = nacl.bindings.crypto_secretbox_open(data[_NONCE:], data[:_NONCE], self._key)
        except (ValueError, nacl.exceptions.CryptoError) as error:
            raise MalformedMessage("it was sealed by a host with another key, or changed since") from error
        return plain.decode()

    def __repr__(self) -> str:
        return "<Seal>"
