"""Key-value data on Redis servers."""

from __future__ import annotations

import json
from collections.abc import Mapping

from lattice.errors import Code
from lattice.links import LinkDefinition
from providers.keyvalue.provider import KeyValue
from providers.keyvalue.redis.address import DEFAULT_URL, Address
from providers.keyvalue.redis.server import Server
from providers.keyvalue.redis.store import RedisStore
from providers.provider import LinkFailed


class RedisKeyValue(KeyValue[Address]):
    """The place of a link is its server, database and user: links with the same URL share one connection."""

    def place(self, link: LinkDefinition) -> Address:
        url = _url(link.values) or self._configured_url() or DEFAULT_URL
        try:
            return Address.parse(url)
        except ValueError as error:
            raise LinkFailed(f"invalid parameter: {error}", code=Code.INVALID) from None

    async def open(self, place: Address) -> RedisStore:
        return RedisStore(Server(place))

    def _configured_url(self) -> str:
        text = self.host_data.config_json
        if not text or not text.strip():
            return ""
        try:
            document = json.loads(text)
        except ValueError:
            document = None
        if not isinstance(document, dict):  # never quoted: it may hold a password
            raise LinkFailed(
                "invalid parameter: the link has no URL, and the configuration that the provider was started with is "
                f'not a JSON document such as {{"url": "{DEFAULT_URL}"}}',
                code=Code.INVALID,
            )
        return _url(document)


def _url(values: Mapping[str, object]) -> str:
    """The member ``url``, in upper or lower case."""
    found = next((value for name, value in values.items() if name.lower() == "url"), "")
    return found.strip() if isinstance(found, str) else ""
