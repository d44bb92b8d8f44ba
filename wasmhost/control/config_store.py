"""Configuration of actors and providers, kept in a JetStream bucket for whoever asks on the control subjects.

Classic hosts have this since 0.81. Values are bytes that nobody here reads; a key is ``{entity}_{key}`` in the bucket.
"""

from __future__ import annotations

from typing import Final

from lattice import events, subjects
from lattice.connection import Connection
from lattice.errors import Code, LatticeError, MalformedMessage, TooLarge
from lattice.events import Publish
from lattice.keys import Role, is_key
from lattice.store import Bucket, StoreUnavailable, open_bucket

MOST_BYTES: Final = 64 * 1024
"""Of one value; in JSON each byte becomes up to four characters."""


class ConfigStore:
    """The bucket ``CONFIGDATA_{lattice}``, opened when it is first needed."""

    def __init__(
        self, connection: Connection, lattice: str, publish_event: Publish, *, js_domain: str | None = None
    ) -> None:
        self._connection = connection
        self._lattice = lattice
        self._publish = publish_event
        self._js_domain = js_domain or ""
        self._bucket: Bucket | None = None

    async def put(self, entity: str, key: str, value: bytes) -> None:
        """Store one value. Raises LatticeError; nothing is stored then."""
        _check(entity)
        if len(value) > MOST_BYTES:
            raise TooLarge(f"the value of {key} has {len(value)} bytes, at most {MOST_BYTES} are kept")
        await (await self._open()).put(_entry(entity, key), value)
        self._publish(*events.config_set(entity_id=entity, key=key))

    async def delete(self, entity: str, key: str) -> None:
        """Forget one value; one that is not there is no error."""
        _check(entity)
        await (await self._open()).delete(_entry(entity, key))
        self._publish(*events.config_deleted(entity_id=entity, key=key))

    async def clear(self, entity: str) -> None:
        """Forget everything about an actor or a provider."""
        for key in await self._keys(entity):
            await self.delete(entity, key)

    async def get(self, entity: str, key: str) -> bytes | None:
        _check(entity)
        entry = await (await self._open()).get(_entry(entity, key))
        return None if entry is None else entry.value

    async def all(self, entity: str) -> dict[str, bytes]:
        """Every key of an actor or a provider with its value."""
        found = {}
        for key in await self._keys(entity):
            value = await self.get(entity, key)
            if value is not None:
                found[key] = value
        return found

    async def _keys(self, entity: str) -> list[str]:
        _check(entity)
        prefix = _entry(entity, "")
        return [name.removeprefix(prefix) for name in await (await self._open()).keys(prefix)]

    async def _open(self) -> Bucket:
        if self._bucket is None:
            try:
                self._bucket = await open_bucket(
                    self._connection, subjects.config_bucket(self._lattice), domain=self._js_domain
                )
            except StoreUnavailable as error:
                raise LatticeError(
                    f"configuration is kept in JetStream, which this lattice does not have: {error}",
                    code=Code.UNSUPPORTED,
                ) from error
        return self._bucket


def _entry(entity: str, key: str) -> str:
    return f"{entity}_{key}"


def _check(entity: str) -> None:
    if not is_key(entity, Role.MODULE) and not is_key(entity, Role.SERVICE):
        raise MalformedMessage(f"{entity[:60]!r} is not the public key of an actor (M…) or a provider (V…)")
