"""On which host a command starts what it was asked to start."""

from __future__ import annotations

from collections.abc import Sequence

from lattice.control import Inventory
from wasmhost.cli.problems import not_found
from wasmhost.cli.session import Session


async def choose_host(session: Session, text: str | None) -> str:
    """The key of the host that ``text`` names, else of the one with the least to do."""
    if text is not None:
        return (await session.find_host(text)).id
    inventories = await session.inventories()
    if not inventories:
        raise not_found("the host that answered is gone", "try again")
    chosen = least_busy(inventories)
    if len(inventories) > 1:
        session.output.say(f"on host {chosen.friendly_name} ({chosen.host_id[:12]}…)")
    return chosen.host_id


def least_busy(inventories: Sequence[Inventory]) -> Inventory:
    """The host with the fewest instances and providers; the same one every time among equals."""
    return min(
        inventories,
        key=lambda i: (sum(actor.count for actor in i.actors) + len(i.providers), i.host_id),
    )
