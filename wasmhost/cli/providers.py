"""Providers: ``get providers``, ``start provider``, ``stop provider``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from lattice.cloudevents import Event
from lattice.control import Inventory, ProviderDescription
from wasmhost.cli import identify
from wasmhost.cli import names as complete
from wasmhost.cli.accepted import Accepted, accepting
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.failures import start_failure
from wasmhost.cli.halted import halted_documents, show_halted
from wasmhost.cli.host_option import host_option
from wasmhost.cli.identify import Candidate
from wasmhost.cli.image_references import image_reference
from wasmhost.cli.output import Column, Output, Row, shorten
from wasmhost.cli.placing import Where, place_provider, placing_options
from wasmhost.cli.problems import Problem, invalid, not_found, timed_out
from wasmhost.cli.session import Session
from wasmhost.cli.watching import watch_option

START_TIMEOUT = 60.0
STOP_TIMEOUT = 15.0
LOOK = "wasmhost get providers"


def provider_document(provider: ProviderDescription) -> dict[str, Any]:
    """One provider on one host as ``-o json`` shows it."""
    return {
        "provider_id": provider.id,
        "name": provider.name,
        "image_ref": provider.image_ref,
        "contract_id": provider.contract_id,
        "link_name": provider.link_name,
        "state": provider.state or None,
        "error": provider.error or None,
        "restarts": provider.restarts,
        "links": {actor: dict(link) for actor, link in provider.links.items()},
        "annotations": dict(provider.annotations),
    }


_COLUMNS = [Column("PROVIDER", 13, early=True), Column("NAME", 8), Column("CONTRACT", 12), Column("LINK", 6)]


def show_on_host(output: Output, providers: Sequence[ProviderDescription]) -> None:
    """A table of the providers on one host."""
    output.table([*_COLUMNS, Column("STATE")], [_row(provider) for provider in providers])


def _row(provider: ProviderDescription, *more: str) -> Row:
    cells = [provider.id, provider.name or "", provider.contract_id, provider.link_name, provider.state or "running"]
    return Row([*cells, *more], notes=_notes(provider))


def _notes(provider: ProviderDescription) -> list[str]:
    """Why it is not ready, link by link where that is known, and how often it had to be restarted."""
    failed = [
        f"link of {actor[:12]}… {link.get('state')}: {link.get('reason')}"
        for actor, link in provider.links.items()
        if link.get("reason")
    ]
    notes = failed or ([f"{provider.state}: {provider.error}"] if provider.error else [])
    if provider.restarts:
        notes.append(f"restarted {provider.restarts} time{'s' if provider.restarts > 1 else ''}")
    return notes


def candidates(inventories: Sequence[Inventory]) -> list[Candidate]:
    """The providers that run, each once."""
    found: dict[str, Candidate] = {}
    for inventory in inventories:
        for provider in inventory.providers:
            before = found.get(provider.id)
            references = {provider.image_ref} if provider.image_ref else set[str]()
            found[provider.id] = Candidate(
                key=provider.id,
                name=provider.name or (before.name if before else ""),
                references=frozenset(references) | (before.references if before else frozenset()),
            )
    return list(found.values())


@click.command("providers", short_help="the providers of the lattice")
@lattice_options
@watch_option
@pass_app
def get_providers(app: App) -> None:
    """Show the capability providers that run in the lattice, their state, and why when it is not `ready`."""
    inventories = app.run(lambda session: session.inventories())
    found = [(inventory, provider) for inventory in inventories for provider in inventory.providers]
    if app.output.json:
        app.output.document(
            {
                "providers": [
                    {
                        **provider_document(provider),
                        "host_id": inventory.host_id,
                        "host_name": inventory.friendly_name,
                    }
                    for inventory, provider in found
                ],
                "halted": halted_documents(inventories, "V"),
            }
        )
        return
    if not found:
        app.output.say("No providers run in this lattice.")
        show_halted(app.output, inventories, letter="V")
        return
    app.output.table(
        [*_COLUMNS, Column("STATE"), Column("HOST", 10, early=True, keep_end=True)],
        [_row(provider, inventory.friendly_name) for inventory, provider in found],
    )
    show_halted(app.output, inventories, letter="V")


def find_on(inventory: Inventory, provider_id: str, link_name: str) -> ProviderDescription | None:
    """The provider of that key and link name on one host."""
    return next((p for p in inventory.providers if (p.id, p.link_name) == (provider_id, link_name)), None)


@click.command("provider", short_help="start a provider")
@click.argument("image")
@placing_options
@click.option("-l", "--link-name", default="default", show_default=True, help="Name that links refer to.")
@click.option("--config", "configuration", metavar="TEXT", help="Configuration text for the provider.")
@click.option(
    "--config-file",
    "--config-json",
    "config_file",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="File with the configuration text.",
)
@lattice_options
@pass_app
def start_provider(
    app: App,
    *,
    image: str,
    host_text: str | None,
    constraints: tuple[str, ...],
    auction_timeout_ms: int | None,
    skip_wait: bool,
    link_name: str,
    configuration: str | None,
    config_file: Path | None,
) -> None:
    """Start the provider IMAGE: `bundled:httpserver`, or an archive (.par, .par.gz).

    Waits until it is ready, or says why it is not.
    """
    if config_file is not None:
        configuration = config_file.read_text()
    reference = image_reference(image)

    where = Where.typed(host_text, constraints, auction_timeout_ms)

    async def work(session: Session) -> tuple[Inventory, ProviderDescription] | Accepted:
        host_id = await place_provider(session, where, reference, link_name)
        if skip_wait:
            async with accepting(session, host_id) as accepted:
                await session.client.start_provider(host_id, reference, link_name, configuration, where.annotations)
            return accepted
        return await start_and_wait(
            session,
            host_id,
            reference,
            link_name=link_name,
            configuration=configuration,
            annotations=where.annotations,
        )

    done = app.run(work)
    if isinstance(done, Accepted):
        done.show(app.output, "started")
        return
    inventory, provider = done
    if app.output.json:
        app.output.document({**provider_document(provider), "host_id": inventory.host_id})
        return
    app.output.text(f"started {_shown(provider)} on {inventory.friendly_name}")
    if provider.state not in ("", "ready"):
        app.output.say(f"It is {provider.state}: {provider.error or 'no reason given'}.")


def _shown(provider: ProviderDescription) -> str:
    """A provider in a sentence."""
    name = f" (link name {provider.link_name})" if provider.link_name != "default" else ""
    return f"{provider.name or provider.image_ref or 'provider'} ({shorten(provider.id, 13)}){name}"


async def start_and_wait(
    session: Session,
    host_id: str,
    reference: str,
    *,
    link_name: str,
    configuration: str | None = None,
    annotations: Mapping[str, str] | None = None,
    most_restarts: int = 0,
) -> tuple[Inventory, ProviderDescription]:
    """Start a provider and wait until it is up. Raises Problem with the reason when it is not.

    A process that ends before it worked is a failure once it was restarted ``most_restarts`` times.
    """
    patience = session.patience(START_TIMEOUT)
    key = ""
    failure: Problem | None = None

    async def look() -> tuple[Inventory, ProviderDescription] | None:
        inventory = await session.client.inventory(host_id)
        for provider in inventory.providers:
            meant = provider.id == key if key else provider.image_ref == reference
            if meant and provider.link_name == link_name:
                return inventory, provider
        return None

    def event(event: Event) -> bool | None:
        nonlocal key, failure
        data = event.data
        problem = start_failure(event, reference, host_id)
        if problem is not None and data.get("link_name", link_name) == link_name:
            failure = problem
            if not most_restarts:
                raise problem
        started = event.name == "provider_started" and event.source == host_id
        if started and (data.get("image_ref"), data.get("link_name")) == (reference, link_name):
            key = str(data.get("public_key", ""))
            return True
        return None

    async def state() -> bool | None:
        found = await look()
        if found is None:
            if failure is not None:
                raise failure  # it could not even be tried
            return None
        if found[1].state == "failed" and found[1].restarts >= most_restarts:
            hint = "the host tries again by itself"
            raise failure or Problem(f"{reference} failed to start: {found[1].error}", hint=hint)
        return None

    try:
        await session.carry_out(
            lambda: session.client.start_provider(host_id, reference, link_name, configuration, annotations),
            patience,
            state=state,
            event=event,
        )
    except TimeoutError:
        found = await look()
        last = f"; it is {found[1].state} {found[1].error or ''}".rstrip() if found and found[1].state else ""
        raise timed_out(
            f"{reference} was not ready within {patience:g} s{last}",
            f"look at `{LOOK}` and at the host's log, or allow more with --timeout",
        ) from None
    found = await look()
    if found is None:
        raise Problem(f"{reference} started and is gone again", hint="look at the host's log")
    return found


async def find_running(session: Session, text: str) -> tuple[Candidate, list[Inventory]]:
    """The running provider that ``text`` means, and every host's inventory. Raises Problem."""

    async def look() -> tuple[Candidate, list[Inventory]]:
        inventories = await session.inventories()
        return identify.resolve(text, candidates(inventories), what="provider", look=LOOK), inventories

    return await session.find(look)


@click.command("provider", short_help="stop a provider")
@click.argument("names", nargs=-1, required=True, metavar="PROVIDER", shell_complete=complete.providers_of_lattice)
@click.option("-l", "--link-name", default=None, help="Only the one of this link name (default: all of them).")
@host_option("Only on this host (default: wherever it runs).")
@click.option("--skip-wait", is_flag=True, help="Return when the hosts have accepted it.")
@lattice_options
@pass_app
def stop_provider(
    app: App, *, names: tuple[str, ...], link_name: str | None, host_text: str | None, skip_wait: bool
) -> None:
    """Stop PROVIDER. Its links stay and take effect again when it is started.

    The classic order HOST PROVIDER LINK_NAME CONTRACT is accepted too.
    """
    if len(names) == 4 and host_text is None and link_name is None:
        host_text, provider, link_name, _ = names
    elif len(names) == 3 and link_name is None and ":" in names[2]:  # as of 0.21: the host is a flag
        provider, link_name, _ = names
    elif len(names) == 1:
        (provider,) = names
    else:
        raise invalid("name one provider", "for example `wasmhost stop provider keyvalue --host HOST`")

    async def work(session: Session) -> list[tuple[Inventory, ProviderDescription]] | Accepted:
        meant, inventories = await find_running(session, provider)
        host_id = (await session.find_host(host_text)).id if host_text is not None else None
        running = [
            (inventory, p)
            for inventory in inventories
            for p in inventory.providers
            if p.id == meant.key and link_name in (None, p.link_name) and host_id in (None, inventory.host_id)
        ]
        if not running:
            raise not_found(f"{meant.describe()} does not run with that link name or on that host", f"see `{LOOK}`")
        if skip_wait:
            async with accepting(session, *(inventory.host_id for inventory, _ in running)) as accepted:
                for inventory, p in running:
                    await session.client.stop_provider(
                        inventory.host_id, p.id, link_name=p.link_name, contract_id=p.contract_id
                    )
            return accepted
        for inventory, p in running:
            await stop_and_wait(session, inventory.host_id, p.id, link_name=p.link_name, contract_id=p.contract_id)
        return running

    stopped = app.run(work)
    if isinstance(stopped, Accepted):
        stopped.show(app.output, "stopped")
        return
    if app.output.json:
        app.output.document(
            {
                "stopped": [
                    {"provider_id": p.id, "link_name": p.link_name, "host_id": inventory.host_id}
                    for inventory, p in stopped
                ]
            }
        )
        return
    for inventory, p in stopped:
        app.output.text(f"stopped {_shown(p)} on {inventory.friendly_name}")


async def stop_and_wait(session: Session, host_id: str, provider_id: str, *, link_name: str, contract_id: str) -> None:
    """Stop one provider on one host and wait until it is gone. Raises Problem."""
    patience = session.patience(STOP_TIMEOUT)

    async def state() -> bool | None:
        # The event is sent before the inventory forgets it; a command that follows asks the inventory.
        return True if find_on(await session.client.inventory(host_id), provider_id, link_name) is None else None

    try:
        await session.carry_out(
            lambda: session.client.stop_provider(host_id, provider_id, link_name=link_name, contract_id=contract_id),
            patience,
            state=state,
        )
    except TimeoutError:
        raise timed_out(
            f"{provider_id} still runs {patience:g} s after it was told to stop",
            f"look at `{LOOK}`, or allow more with --timeout",
        ) from None
