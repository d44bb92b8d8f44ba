"""The keys of a running provider of ours, which its host replaces while it runs.

One more line on the provider's standard input, after its host data and in the same form: base64 around JSON. A seed
must not cross NATS, and whoever may publish on a provider's subjects must not choose whom it believes.
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass, field
from typing import Final

from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role

_WHAT: Final = "provider keys"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderKeys:
    """What a provider signs with, and whom it believes."""

    key: KeyPair = field(repr=False)
    """Signs its calls."""
    issuers: tuple[str, ...]
    """Cluster keys whose calls it accepts, sorted."""

    def encode(self) -> bytes:
        """The line, newline included. It holds the seed."""
        document = {"invocation_seed": self.key.seed, "cluster_issuers": list(self.issuers)}
        return base64.b64encode(json.dumps(document).encode()) + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> ProviderKeys:
        """Read one line; MalformedMessage and nothing else, and never a text that holds the seed."""
        try:
            document = json.loads(base64.b64decode(line.strip(), validate=True))
        except (binascii.Error, ValueError, RecursionError):
            # not chained: the original error quotes the document
            raise MalformedMessage(f"{_WHAT}: not one line of base64 with a JSON document") from None
        fields = Document(_WHAT, document)
        key = KeyPair.from_seed(fields.required_text("invocation_seed"), Role.CLUSTER)
        return cls(key=key, issuers=fields.texts("cluster_issuers"))
