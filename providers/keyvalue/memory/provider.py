"""Key-value data in the memory of the provider process."""

from __future__ import annotations

from lattice.links import LinkDefinition
from providers.keyvalue.memory.shelf import Shelf
from providers.keyvalue.provider import KeyValue


class MemoryKeyValue(KeyValue[tuple[str, str]]):
    """The place of a link is the store that it names, else its actor's own."""

    def place(self, link: LinkDefinition) -> tuple[str, str]:
        named = {key.lower(): value for key, value in link.values.items()}.get("store", "")
        return ("store", named) if named else ("actor", link.actor_id)

    async def open(self, place: tuple[str, str]) -> Shelf:
        kind, name = place
        return Shelf(f"memory of {kind} {name}")
