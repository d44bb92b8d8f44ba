"""Hosts: ``get hosts``, ``get inventory``, ``stop host``."""

from __future__ import annotations

from typing import Any

import click

from lattice.addresses import shown
from lattice.cloudevents import Event
from lattice.control import HostPing, Inventory
from lattice.errors import Unreachable
from wasmhost.cli import actors, providers
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.halted import halted_document, show_halted
from wasmhost.cli.output import Column, Output, Row, duration
from wasmhost.cli.problems import hint_for, timed_out
from wasmhost.cli.session import Session
from wasmhost.cli.watching import watch_option

STOP_TIMEOUT = 30.0


def host_document(host: HostPing) -> dict[str, Any]:
    """One host as ``-o json`` shows it."""
    return {
        "host_id": host.id,
        "friendly_name": host.friendly_name,
        "version": host.version,
        "uptime_seconds": host.uptime_seconds,
        "lattice": host.lattice,
        "labels": dict(host.labels),
        "guests": host.guests or None,
        "cordoned": host.cordoned,
        "issuer_alarms": host.issuer_alarms,
    }


def inventory_document(inventory: Inventory) -> dict[str, Any]:
    """What runs on one host as ``-o json`` shows it."""
    return {
        "host_id": inventory.host_id,
        "friendly_name": inventory.friendly_name,
        "labels": dict(inventory.labels),
        "degraded": inventory.degraded,
        "cordoned": inventory.cordoned,
        "actors": [actors.actor_document(actor) for actor in inventory.actors],
        "providers": [providers.provider_document(provider) for provider in inventory.providers],
        "halted": [halted_document(each) for each in inventory.halted],
    }


@click.command("hosts", short_help="the hosts of the lattice")
@lattice_options
@watch_option
@pass_app
def get_hosts(app: App) -> None:
    """Show the hosts of the lattice."""
    hosts = app.run(lambda session: session.hosts())
    if app.output.json:
        app.output.document({"hosts": [host_document(host) for host in hosts]})
        return
    if not hosts:
        context = app.context()
        app.output.say(f"No host answers in lattice '{context.lattice}' at {shown(context.nats_url)}.")
        app.output.say(f"Next: {hint_for('no_responders')}")
        return
    app.output.table(
        [
            Column("HOST", 13, early=True),
            Column("NAME", 10),
            Column("UPTIME"),
            Column("VERSION", 6),
            Column("GUESTS", 7),
        ],
        [
            Row(
                [host.id, host.friendly_name, duration(host.uptime_seconds), host.version, host.guests],
                notes=_notes(host),
            )
            for host in hosts
        ],
    )


def _notes(host: HostPing) -> list[str]:
    notes = ["cordoned: it takes on nothing new"] if host.cordoned else []
    if host.issuer_alarms:
        calls = "1 call was" if host.issuer_alarms == 1 else f"{host.issuer_alarms} calls were"
        notes.append(
            f"{calls} refused whose issuer and origin disagree; a key may be stolen: see `wasmhost events --since 1d`"
        )
    return notes


@click.command("inventory", short_help="what runs on each host")
@click.argument("host", required=False, shell_complete=complete.hosts)
@lattice_options
@watch_option
@pass_app
def get_inventory(app: App, host: str | None) -> None:
    """Show what runs on HOST (default: on every host): actors, providers, their state."""

    async def work(session: Session) -> list[Inventory]:
        if host is None:
            return await session.inventories()
        return [await session.client.inventory((await session.find_host(host)).id)]

    inventories = app.run(work)
    if app.output.json:
        app.output.document({"hosts": [inventory_document(inventory) for inventory in inventories]})
        return
    for number, inventory in enumerate(inventories):
        if number:
            app.output.text()
        _show_inventory(app.output, inventory)


def _show_inventory(output: Output, inventory: Inventory) -> None:
    output.facts(
        [
            ("host", inventory.host_id),
            ("name", inventory.friendly_name),
            ("labels", ", ".join(f"{name}={value}" for name, value in sorted(inventory.labels.items()))),
            ("degraded", inventory.degraded or ""),
            ("cordoned", "it takes on nothing new" if inventory.cordoned else ""),
        ]
    )
    output.text()
    if inventory.actors:
        actors.show_on_host(output, inventory.actors)
    else:
        output.text("no actors")
    output.text()
    if inventory.providers:
        providers.show_on_host(output, inventory.providers)
    else:
        output.text("no providers")
    show_halted(output, [inventory])


@click.command("host", short_help="stop a host")
@click.argument("host", shell_complete=complete.hosts)
@click.option(
    "--host-timeout",
    "drain_ms",
    type=click.IntRange(0, 86_400_000),
    metavar="MS",
    help="Time for calls in flight (default: as long as this command waits).",
)
@lattice_options
@pass_app
def stop_host(app: App, host: str, drain_ms: int | None) -> None:
    """Stop HOST: it finishes its calls, stops its providers and leaves the lattice."""

    async def work(session: Session) -> HostPing:
        drain = None if drain_ms is None else drain_ms / 1000
        return await stop_and_wait(session, await session.find_host(host), drain=drain)

    stopped_host = app.run(work)
    if app.output.json:
        app.output.document({"host_id": stopped_host.id, "friendly_name": stopped_host.friendly_name, "stopped": True})
    else:
        app.output.text(f"stopped host {stopped_host.friendly_name} ({stopped_host.id})")


async def stop_and_wait(session: Session, meant: HostPing, *, drain: float | None = None) -> HostPing:
    """Stop a host and wait until it is gone; ``drain``: seconds for its calls. Raises Problem."""
    patience = session.patience(STOP_TIMEOUT)

    def stopped(event: Event) -> HostPing | None:
        return meant if event.name == "host_stopped" and event.source == meant.id else None

    async def absent() -> HostPing | None:
        try:
            await session.client.inventory(meant.id)
        except Unreachable:
            return meant
        return None

    try:
        return await session.carry_out(
            lambda: session.client.stop_host(meant.id, timeout=patience if drain is None else drain),
            patience,
            state=absent,
            event=stopped,
        )
    except TimeoutError:
        raise timed_out(
            f"host {meant.friendly_name} still answers {patience:g} s after it was told to stop",
            "it may be finishing calls: look at its log, or allow more with --timeout",
        ) from None
