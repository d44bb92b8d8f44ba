"""What hosts have stopped because it may not run any more, as commands show it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lattice.control import Inventory
from lattice.inventory import HaltedDescription
from wasmhost.cli import identify
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Output, shorten
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session
from wasmhost.cli.signed_files import day


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


_NEXT = {
    "expired": "once it is signed again, start it with `wasmhost start actor`",
    "revoked": "`wasmhost claims revoked` lists what is; once that is taken back, start it again",
}


async def why_halted(session: Session, text: str) -> Problem | None:
    """Why the actor that ``text`` means, however it is named, runs nowhere; None if no host has halted it."""
    inventories = await session.inventories()
    halted = {
        each.id: (each, inventory.friendly_name)
        for inventory in inventories
        for each in inventory.halted
        if not each.link_name
    }
    if not halted:
        return None
    aliases = {entry.get("sub", ""): entry.get("call_alias", "") for entry in await session.client.claims()}
    known = [
        Candidate(key=key, name=each.name, alias=aliases.get(key, ""), references=frozenset({each.image_ref}))
        for key, (each, _) in halted.items()
    ]
    try:
        each, host = halted[identify.resolve(text, known, what="actor", look="wasmhost get actors").key]
    except Problem:
        return None
    return Problem(
        f"host {host} has stopped that actor: {each.error}",
        exit_code=ExitCode.NOT_AUTHORISED,
        hint=_NEXT.get(each.state, ""),
    )
