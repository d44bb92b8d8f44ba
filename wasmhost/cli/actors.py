"""Actors as commands see them: ``get actors``, and which one on which host a command means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import click

from lattice.control import ActorDescription, Inventory
from wasmhost.cli import identify
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.halted import halted_documents, show_halted
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Column, Output, Row, shorten
from wasmhost.cli.problems import invalid, not_found
from wasmhost.cli.session import Session
from wasmhost.cli.watching import watch_option

LOOK = "wasmhost get actors"
COUNT_FLAGS = ("--count", "--max", "--max-concurrent", "--max-instances")
"""What generations of the classic client call the wanted number of instances."""


def actor_document(actor: ActorDescription) -> dict[str, Any]:
    """One actor on one host as ``-o json`` shows it."""
    return {
        "actor_id": actor.id,
        "name": actor.name,
        "image_ref": actor.image_ref,
        "image_digest": actor.image_digest or None,
        "instances": actor.count,
        "revision": max((instance.revision for instance in actor.instances), default=0),
        "annotations": dict(actor.instances[0].annotations) if actor.instances else {},
        "error": actor.error or None,
    }


_COLUMNS = [Column("ACTOR", 13, early=True), Column("NAME", 8), Column("IMAGE", 12, keep_end=True)]


def show_on_host(output: Output, actors: Sequence[ActorDescription]) -> None:
    """A table of the actors on one host."""
    output.table(
        [*_COLUMNS, Column("COUNT")],
        [Row([actor.id, actor.name or "", actor.image_ref or "", str(actor.count)]) for actor in actors],
    )


def candidates(inventories: Sequence[Inventory], claims: Sequence[dict[str, str]] = ()) -> list[Candidate]:
    """The actors that run, and those whose claims the lattice knows, each once."""
    names: dict[str, str] = {entry.get("sub", ""): entry.get("name", "") for entry in claims}
    aliases = {entry.get("sub", ""): entry.get("call_alias", "") for entry in claims}
    references: dict[str, set[str]] = {}
    for inventory in inventories:
        for actor in inventory.actors:
            names[actor.id] = actor.name or names.get(actor.id, "")
            references.setdefault(actor.id, set()).update({actor.image_ref} if actor.image_ref else ())
    return [
        Candidate(
            key=key,
            name=name or "",
            alias=aliases.get(key) or "",
            references=frozenset(references.get(key, set())),
        )
        for key, name in names.items()
        if key.startswith("M")
    ]


async def find_running(session: Session, text: str) -> tuple[Candidate, list[Inventory]]:
    """The running actor that ``text`` means, and every host's inventory. Raises Problem."""

    async def look() -> tuple[Candidate, list[Inventory]]:
        inventories = await session.inventories()
        running = {actor.id for inventory in inventories for actor in inventory.actors}
        known = [c for c in candidates(inventories, await session.client.claims()) if c.key in running]
        return identify.resolve(text, known, what="actor", look=LOOK), inventories

    return await session.find(look)


@click.command("actors", short_help="the actors of the lattice")
@lattice_options
@watch_option
@pass_app
def get_actors(app: App) -> None:
    """Show the actors that run in the lattice."""

    async def work(session: Session) -> tuple[list[Inventory], list[dict[str, str]]]:
        return await session.inventories(), await session.client.claims()

    inventories, claims = app.run(work)
    known = {candidate.key: candidate for candidate in candidates(inventories, claims)}
    found = [(inventory, actor) for inventory in inventories for actor in inventory.actors]
    if app.output.json:
        app.output.document(
            {
                "actors": [
                    {
                        **actor_document(actor),
                        "call_alias": known[actor.id].alias or None,
                        "host_id": inventory.host_id,
                        "host_name": inventory.friendly_name,
                    }
                    for inventory, actor in found
                ],
                "halted": halted_documents(inventories, "M"),
            }
        )
        return
    if not found:
        app.output.say("No actors run in this lattice.")
        show_halted(app.output, inventories, letter="M")
        return
    app.output.table(
        [
            Column("ACTOR", 13, early=True),
            Column("NAME", 8),
            Column("ALIAS", 8),
            Column("IMAGE", 12, keep_end=True),
            Column("HOST", 10, early=True, keep_end=True),
            Column("COUNT"),
        ],
        [
            Row(
                [
                    actor.id,
                    actor.name or "",
                    known[actor.id].alias,
                    actor.image_ref or "",
                    inventory.friendly_name,
                    str(actor.count),
                ],
                notes=[actor.error] if actor.error else [],
            )
            for inventory, actor in found
        ],
    )
    show_halted(app.output, inventories, letter="M")


@dataclass(frozen=True, slots=True)
class Placed:
    """An actor as it runs on a host after a command."""

    actor_id: str
    name: str
    host_id: str
    host_name: str
    image_ref: str
    instances: int

    def show(self, output: Output, verb: str) -> None:
        if output.json:
            output.document({name: getattr(self, name) for name in self.__slots__})
            return
        plural = "instance" if self.instances == 1 else "instances"
        name = self.name or self.image_ref
        output.text(f"{verb} {name} ({shorten(self.actor_id, 13)}) on {self.host_name}: {self.instances} {plural}")


async def placed(session: Session, actor_id: str, host_id: str) -> Placed:
    """An actor as it runs on a host now."""
    inventory = await session.client.inventory(host_id)
    actor = next((actor for actor in inventory.actors if actor.id == actor_id), None)
    return Placed(
        actor_id=actor_id,
        name=(actor.name or "") if actor else "",
        host_id=host_id,
        host_name=inventory.friendly_name,
        image_ref=(actor.image_ref or "") if actor else "",
        instances=actor.count if actor else 0,
    )


def actor_and_host(names: Sequence[str], host_text: str | None, verb: str) -> tuple[str, str | None]:
    """Actor and host of ACTOR, or of HOST ACTOR as the classic command line has it. Raises Problem."""
    if len(names) == 1:
        return names[0], host_text
    if len(names) == 2 and host_text is None:
        return names[1], names[0]
    raise invalid("name one actor", f"for example `wasmhost {verb} actor echo --host HOST`")


async def hosts_of(
    session: Session, actor_id: str, inventories: Sequence[Inventory], host_text: str | None
) -> list[str]:
    """The hosts on which an actor runs, or the one of them that is meant. Raises Problem."""
    running = [i.host_id for i in inventories if any(actor.id == actor_id for actor in i.actors)]
    if host_text is None:
        return running
    host = await session.find_host(host_text)
    if host.id not in running:
        raise not_found(f"that actor does not run on host {host.friendly_name}", f"`{LOOK}` lists where it does")
    return [host.id]
