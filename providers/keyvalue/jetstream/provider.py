"""Key-value data in JetStream KV buckets."""

from __future__ import annotations

import re
from typing import Final

from lattice.errors import Code
from lattice.links import LinkDefinition
from lattice.store import open_bucket
from providers.keyvalue.jetstream.cells import Cells
from providers.keyvalue.provider import KeyValue
from providers.provider import LinkFailed

_BUCKET: Final = re.compile(r"[A-Za-z0-9_-]{1,200}\Z")


def default_bucket(lattice: str) -> str:
    """The bucket of links without a value ``bucket``: one per lattice, shared by all its actors."""
    return f"KEYVALUE_{lattice}"


class JetStreamKeyValue(KeyValue[str]):
    """The place of a link is the name of its bucket."""

    def place(self, link: LinkDefinition) -> str:
        named = {key.lower(): value for key, value in link.values.items()}.get("bucket", "")
        if not named:
            return default_bucket(self.host_data.lattice_rpc_prefix)
        if not _BUCKET.match(named):
            raise LinkFailed(
                f"invalid parameter: bucket {named!r} is not made of letters, digits, '_' and '-'", code=Code.INVALID
            )
        return named

    async def open(self, place: str) -> Cells:
        return Cells(await open_bucket(self.connection, place, domain=self.host_data.js_domain or ""))
