"""``migrate actor`` and ``migrate provider``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from lattice.control import Inventory, ProviderDescription
from wasmhost.apps.moving import (
    arriving,
    find_actor,
    find_provider,
    homes_for_actor,
    homes_for_provider,
    no_home,
    parts,
)
from wasmhost.cli import actors, providers
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.identify import Candidate
from wasmhost.cli.moving.actor import move_actor
from wasmhost.cli.moving.provider import move_provider
from wasmhost.cli.moving.steps import DRAIN_TIMEOUT, Moved
from wasmhost.cli.problems import Problem, invalid, not_found
from wasmhost.cli.session import Session


def _hosts_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--from`` and ``--to``."""
    for name, attribute, text in (
        ("--to", "target_text", "Host to move it to (default: the best that fits)."),
        ("--from", "source_text", "Host that it leaves (needed when it runs on several)."),
    ):
        command = click.option(name, attribute, metavar="HOST", shell_complete=complete.hosts, help=text)(command)
    return command


drain_option = click.option(
    "--drain",
    type=click.FloatRange(0, 600),
    default=DRAIN_TIMEOUT,
    show_default=True,
    metavar="SECONDS",
    help="What is under way at a provider, HTTP connections too, may take so long.",
)


@click.command("actor", short_help="move an actor to another host")
@click.argument("actor", shell_complete=complete.actors_of_lattice)
@_hosts_options
@lattice_options
@pass_app
def migrate_actor(app: App, actor: str, source_text: str | None, target_text: str | None) -> None:
    """Move all instances of ACTOR to another host: they start there, then those here finish their calls and leave.

    No call fails. Numbers, annotations and limits are kept. Where the other host cannot run it, nothing changes. A move
    that was cut off is completed by the same command.
    """

    async def work(session: Session) -> Moved:
        meant, inventories = await actors.find_running(session, actor)
        on = [i for i in inventories if (found := find_actor(i, meant.key)) is not None and not arriving(found)]
        on = on or [i for i in inventories if find_actor(i, meant.key) is not None]
        source = await _source(session, source_text, inventories, on, meant)
        here = find_actor(source, meant.key)
        if target_text is not None:
            target = await _inventory_of(session, target_text, inventories)
        else:
            if here is None:
                raise _not_there(meant, source, actors.LOOK)
            homes = homes_for_actor(here, source.host_id, inventories)
            target = _best(homes, source, inventories, [each.annotations for each in here.instances], meant)
        _check_two(source, target)
        if not parts(source.host_id, here, find_actor(target, meant.key)):
            raise _not_there(meant, source, actors.LOOK)
        return await move_actor(session, meant.key, source, target)

    _show(app, app.run(work))


@click.command("provider", short_help="move a provider to another host")
@click.argument("provider", shell_complete=complete.providers_of_lattice)
@_hosts_options
@click.option("--link-name", help="The one of this link name (needed when there are several).")
@drain_option
@click.option("--force", is_flag=True, help="Move one that loses its data with its process, too.")
@lattice_options
@pass_app
def migrate_provider(
    app: App,
    *,
    provider: str,
    source_text: str | None,
    target_text: str | None,
    link_name: str | None,
    drain: float,
    force: bool,
) -> None:
    """Move PROVIDER to another host: it starts there, is ready with its links, then the one here finishes and leaves.

    Link name, configuration and key are kept. Between hosts of one user on one machine the HTTP server hands its
    listening sockets over, and no client is refused. Where the other host cannot run it, nothing changes.
    """

    async def work(session: Session) -> Moved:
        meant, inventories = await providers.find_running(session, provider)
        on = [i for i in inventories if _running(i, meant.key, link_name)]
        source = await _source(session, source_text, inventories, on, meant)
        found = _running(source, meant.key, link_name)
        if not found:
            raise _not_there(meant, source, providers.LOOK)
        if len(found) > 1:
            links = ", ".join(each.link_name for each in found)
            raise invalid(f"{meant.describe()} runs there under {links}", "choose one with --link-name")
        if target_text is not None:
            target = await _inventory_of(session, target_text, inventories)
        else:
            homes = homes_for_provider(found[0], source.host_id, inventories)
            target = _best(homes, source, inventories, [found[0].annotations], meant)
        _check_two(source, target)
        return await move_provider(session, found[0], source, target, drain=drain, force=force)

    _show(app, app.run(work))


def _running(inventory: Inventory, provider_id: str, link_name: str | None) -> list[ProviderDescription]:
    """The providers of that key on a host; those that are stopping do not count."""
    names = {each.link_name for each in inventory.providers if each.id == provider_id}
    found = [find_provider(inventory, provider_id, name) for name in sorted(names) if link_name in (None, name)]
    return [each for each in found if each is not None and each.state != "stopping"]


async def _source(
    session: Session, text: str | None, inventories: Sequence[Inventory], on: Sequence[Inventory], meant: Candidate
) -> Inventory:
    if text is not None:
        return await _inventory_of(session, text, inventories)
    if len(on) == 1:
        return on[0]
    if not on:
        raise not_found(f"{meant.describe()} runs nowhere", "look at `wasmhost get inventory`")
    names = ", ".join(inventory.friendly_name for inventory in on)
    raise invalid(f"{meant.describe()} runs on {names}", "choose one of them with --from")


async def _inventory_of(session: Session, text: str, inventories: Sequence[Inventory]) -> Inventory:
    host = await session.find_host(text)
    found = next((inventory for inventory in inventories if inventory.host_id == host.id), None)
    if found is None:
        raise not_found(f"host {host.friendly_name} does not answer any more", "look at `wasmhost get hosts`")
    return found


def _best(
    homes: Sequence[Inventory], source: Inventory, inventories: Sequence[Inventory], annotations: Any, meant: Candidate
) -> Inventory:
    if not homes:
        reason = no_home(source.host_id, inventories, annotations)
        raise Problem(f"{meant.describe()} cannot move: {reason}", hint="start another host, or name one with --to")
    return homes[0]


def _check_two(source: Inventory, target: Inventory) -> None:
    if source.host_id == target.host_id:
        raise invalid(f"it is on {source.friendly_name} already", "name another host with --to")


def _not_there(meant: Candidate, source: Inventory, look: str) -> Problem:
    return not_found(f"{meant.describe()} does not run on {source.friendly_name}", f"`{look}` lists where it does")


def _show(app: App, moved: Moved) -> None:
    if app.output.json:
        app.output.document(moved.document())
    else:
        moved.show(app.output)
