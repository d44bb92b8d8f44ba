"""Links that differ by their link names, for tests of what hosts know of them."""

from __future__ import annotations

from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition

ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public


def link(number: int = 0, **values: str) -> LinkDefinition:
    return LinkDefinition(
        actor_id=ACTOR,
        provider_id=PROVIDER,
        contract_id="wasmcloud:keyvalue",
        link_name=f"l{number}",
        values=values,
    )
