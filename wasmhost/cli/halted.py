"""What hosts have stopped because it may not run any more, as commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lattice.control import Inventory
from lattice.inventory import HaltedDescription
from wasmhost.cli.claims import day
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Output, shorten
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session


def halted_document(halted: HaltedDescription) -> dict[str, Any]:
    """One of them as ``-o json`` shows it."""
    return {
        "id": halted.id,
        "name": halted.name or None,
        "image_ref": halted.image_ref,
        "link_name": halted.link_name or None,
        "state": halted.state,
        "error": halted.error,
        "at": day(halted.at),
    }


def halted_documents(inventories: Sequence[Inventory], letter: str) -> list[dict[str, Any]]:
    """Those of all hosts whose keys begin with ``letter``, each with its host."""
    return [
        {**halted_document(each), "host_id": inventory.host_id, "host_name": inventory.friendly_name}
        for inventory in inventories
        for each in inventory.halted
        if each.id.startswith(letter)
    ]


def show_halted(output: Output, inventories: Sequence[Inventory], *, letter: str = "") -> None:
    """Say of each what happened, below the table of what runs; ``letter`` is the first one of the keys wanted."""
    for inventory in inventories:
        for each in inventory.halted:
            if each.id.startswith(letter):
                name = each.name or each.image_ref
                output.text(f"{each.state}: {name} ({shorten(each.id, 13)}) on {inventory.friendly_name}: {each.error}")


async def why_halted(session: Session, text: str) -> Problem | None:
    """Why the actor that ``text`` means, by key, beginning of it, name or image, runs nowhere; None if not halted."""
    for inventory in await session.inventories():
        for each in inventory.halted:
            if not each.link_name and (each.id.startswith(text) or text in (each.name, each.image_ref)):
                hint = "" if each.state == "denied" else "once it is signed again, start it with `wasmhost start actor`"
                message = f"host {inventory.friendly_name} has stopped that actor: {each.error}"
                return Problem(message, exit_code=ExitCode.NOT_AUTHORISED, hint=hint)
    return None
