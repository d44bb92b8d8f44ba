"""Links: ``get links``, ``link put``, ``link del``, ``link query``."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

from lattice import bundled
from lattice.control import Inventory
from lattice.errors import Code, LatticeError
from lattice.keys import Role, is_key
from lattice.links import LinkDefinition
from lattice.subjects import DEFAULT_LINK_NAME
from wasmhost.cli import actors, identify, providers
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Column, Row, shorten
from wasmhost.cli.problems import Problem, invalid, not_found, timed_out
from wasmhost.cli.session import Session, refused
from wasmhost.cli.watching import watch_option

READY_TIMEOUT = 10.0
LOOK = "wasmhost get links"


@dataclass(frozen=True, slots=True)
class LinkState:
    """How a link is doing, as its provider says. ``state`` is empty when nobody says."""

    state: str = ""
    reason: str = ""
    code: str = ""


def link_state(link: LinkDefinition, inventories: Sequence[Inventory]) -> LinkState | None:
    """What the running providers of ``link`` say about it, the worst first; None when none of them runs."""
    said = []
    for inventory in inventories:
        provider = providers.find_on(inventory, link.provider_id, link.link_name)
        if provider is not None:
            entry = provider.links.get(link.actor_id, {})
            said.append(LinkState(entry.get("state", ""), entry.get("reason", ""), entry.get("code", "")))
    order = ["failed", "degraded", "starting", "", "ready"]
    return min(said, key=lambda s: order.index(s.state) if s.state in order else 0) if said else None


def link_document(link: LinkDefinition, state: LinkState | None) -> dict[str, Any]:
    """One link as ``-o json`` shows it."""
    return {
        "actor_id": link.actor_id,
        "provider_id": link.provider_id,
        "contract_id": link.contract_id,
        "link_name": link.link_name,
        "values": dict(link.values),
        "state": (state.state or None) if state else "no provider",
        "reason": (state.reason or None) if state else None,
    }


@click.command("links", short_help="the links of the lattice")
@lattice_options
@watch_option
@pass_app
def get_links(app: App) -> None:
    """Show which actor may call which provider, with the values the provider was given."""

    async def work(session: Session) -> tuple[list[LinkDefinition], list[Inventory], list[dict[str, str]]]:
        inventories = await session.inventories()  # asked first: it says in words that nobody is there
        return list(await session.client.links()), inventories, list(await session.client.claims())

    links, inventories, claims = app.run(work)
    states = [link_state(link, inventories) for link in links]
    if app.output.json:
        app.output.document({"links": [link_document(link, state) for link, state in zip(links, states, strict=True)]})
        return
    if not links:
        app.output.say("There are no links in this lattice.")
        return
    names = names_of(inventories, claims)
    app.output.table(
        [Column("ACTOR", 10), Column("PROVIDER", 10), Column("CONTRACT", 12), Column("LINK", 6), Column("STATE")],
        [
            Row(
                [
                    names.get(link.actor_id, link.actor_id),
                    names.get(link.provider_id, link.provider_id),
                    link.contract_id,
                    link.link_name,
                    (state.state or "put") if state else "no provider",
                ],
                notes=[
                    *([state.reason] if state and state.reason else []),
                    *([" ".join(map(shown_value, sorted(link.values.items())))] if link.values else []),
                ],
            )
            for link, state in zip(links, states, strict=True)
        ],
    )


_SECRET_NAME = re.compile("password|secret|token|seed|credential", re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"(://[^/@:]*:).*@")
"""Up to the last ``@``, as a password that is written wrongly may hold others, and slashes."""


def shown_value(value: tuple[str, str]) -> str:
    """One link value for a terminal; what looks like a secret is left out. JSON has all of it."""
    name, text = value
    shown = "…" if _SECRET_NAME.search(name) else _PASSWORD_IN_URL.sub(r"\1…@", text)
    return f"{name}={shown}"


def names_of(inventories: Sequence[Inventory], claims: Sequence[dict[str, str]]) -> dict[str, str]:
    """The names of actors and providers, by key, as far as they have one."""
    known = {entry.get("sub", ""): entry.get("name", "") for entry in claims}
    found = [*actors.candidates(inventories, claims), *providers.candidates(inventories)]
    return {key: name for key, name in (known | {c.key: c.name for c in found}).items() if name}


def short_name(key: str, names: Mapping[str, str]) -> str:
    """The name of something, else the beginning of its key."""
    return names.get(key) or shorten(key, 13)


def read_values(words: Sequence[str]) -> dict[str, str]:
    """``KEY=VALUE`` words as a mapping. Raises Problem."""
    values = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise invalid(f"'{word}' is no link value", "write it as KEY=VALUE, such as address=127.0.0.1:8080")
        values[name] = value
    return values


def _find_actor(text: str, inventories: Sequence[Inventory], claims: Sequence[dict[str, str]]) -> str:
    """The key of the actor that ``text`` means; a whole key need not be known yet."""
    if is_key(text, Role.MODULE):
        return text
    return identify.resolve(text, actors.candidates(inventories, claims), what="actor", look=actors.LOOK).key


def _find_provider(text: str, inventories: Sequence[Inventory]) -> str:
    """The key of the provider that ``text`` means; a whole key or a bundled one need not run yet."""
    if is_key(text, Role.SERVICE) or is_key(text, Role.MODULE):
        return text
    if bundled.is_bundled(text):
        return bundled.find(text).public_key
    return identify.resolve(text, providers.candidates(inventories), what="provider", look=providers.LOOK).key


def _contract_of(provider_id: str, inventories: Sequence[Inventory]) -> str:
    """The contract that a provider offers, if anybody knows."""
    for inventory in inventories:
        for provider in inventory.providers:
            if provider.id == provider_id and provider.contract_id:
                return provider.contract_id
    known = bundled.by_key(provider_id)
    return known.contract_id if known else ""


@click.command(short_help="let an actor call a provider")
@click.argument("actor", shell_complete=complete.actors_of_lattice)
@click.argument("provider", shell_complete=complete.providers_of_lattice)
@click.argument("rest", nargs=-1, metavar="[CONTRACT] [KEY=VALUE]...")
@click.option("-l", "--link-name", default="default", show_default=True, help="Name that the actor uses for it.")
@lattice_options
@pass_app
def put(app: App, actor: str, provider: str, rest: tuple[str, ...], link_name: str) -> None:
    """Let ACTOR call PROVIDER. Repeating it with other values updates the link.

    CONTRACT may be left out when the provider runs or is bundled. The KEY=VALUE pairs are settings for the provider,
    such as address=127.0.0.1:8080. Waits until the provider took the link, or says why it did not.
    """
    contract = rest[0] if rest and "=" not in rest[0] else ""
    values = read_values(rest[1:] if contract else rest)

    async def work(session: Session) -> tuple[LinkDefinition, LinkState | None, dict[str, str]]:
        inventories = await session.inventories()
        claims = await session.client.claims()
        provider_id = _find_provider(provider, inventories)
        offered = _contract_of(provider_id, inventories)
        if contract and offered and contract != offered:
            raise invalid(
                f"'{contract}' is not what {short_name(provider_id, names_of(inventories, claims))} offers: {offered}",
                "leave the contract out; a setting is written KEY=VALUE, such as address=127.0.0.1:8080",
            )
        link = LinkDefinition(
            actor_id=_find_actor(actor, inventories, claims),
            provider_id=provider_id,
            contract_id=contract or offered,
            link_name=link_name,
            values=values,
        )
        if not link.contract_id:
            raise invalid("the contract of a provider that does not run is not known", "name it after the provider")
        return link, await put_and_wait(session, link), names_of(inventories, claims)

    link, state, names = app.run(work)
    if app.output.json:
        app.output.document(link_document(link, state))
        return
    who, target = short_name(link.actor_id, names), short_name(link.provider_id, names)
    name = "" if link.link_name == DEFAULT_LINK_NAME else f", link name {link.link_name}"
    app.output.text(f"linked {who} to {target}: {link.contract_id}{name}")
    if state is None:
        app.output.say("No such provider runs now; the link takes effect when it is started.")


async def put_and_wait(session: Session, link: LinkDefinition, *, grace: float = 0.0) -> LinkState | None:
    """Put a link, then :func:`wait_ready`."""
    try:
        await session.client.put_link(link)
    except LatticeError as error:
        raise refused(error) from error
    return await wait_ready(session, link, grace=grace)


async def wait_ready(session: Session, link: LinkDefinition, *, grace: float = 0.0) -> LinkState | None:
    """Wait until the provider of a link took it; None when no such provider runs. Raises Problem.

    A link that is reported as failed is a failure after ``grace`` seconds of it; a port that is taken is one at once.
    """
    patience = session.patience(READY_TIMEOUT)
    clock = asyncio.get_running_loop().time
    last: LinkState | None = None
    failing_since: float | None = None

    async def state() -> tuple[LinkState | None] | None:
        nonlocal last, failing_since
        if link not in await session.client.links():
            return None
        inventories = await session.inventories(complete=True)
        last = link_state(link, inventories)
        if last is not None and last.state in ("failed", "degraded"):
            failure = link_failure(link, last.reason, last.code)
            failing_since = clock() if failing_since is None else failing_since
            if failure.exit_code is not ExitCode.FAILED or clock() - failing_since >= grace:
                raise failure
            return None
        failing_since = None
        if last is None or last.state == "ready":
            return (last,)
        running = [providers.find_on(inventory, link.provider_id, link.link_name) for inventory in inventories]
        says_nothing = all(provider is None or not provider.state for provider in running)
        return (last,) if says_nothing else None

    async with session.watch() as watch:
        try:
            return (await watch.until(patience, event=lambda event: None, state=state))[0]
        except TimeoutError:
            known = f"it is {last.state}" if last and last.state else "nobody says how it is"
            raise timed_out(
                f"the link was put, and {patience:g} s later {known}",
                f"look at `{LOOK}` and `{providers.LOOK}`, or allow more with --timeout",
            ) from None


def link_failure(link: LinkDefinition, reason: str, code: str = "") -> Problem:
    """What is told when a provider could not take a link."""
    if code == Code.CONFLICT or " in use" in reason:
        exit_code = ExitCode.CONFLICT
    elif code == Code.INVALID or reason.startswith("invalid parameter: "):  # as all providers of the era say it
        exit_code = ExitCode.USAGE
    else:
        exit_code = ExitCode.FAILED
    return Problem(
        f"the provider could not take the link: {reason}",
        reason=reason,
        exit_code=exit_code,
        hint="the link stays and is tried again; change its values with `wasmhost link put`, or remove it with "
        f"`wasmhost link del {link.actor_id[:8]} {link.contract_id}`",
    )


@click.command("del", short_help="take a link away")
@click.argument("actor", shell_complete=complete.actors_of_lattice)
@click.argument("contract")
@click.option("-l", "--link-name", default="default", show_default=True)
@lattice_options
@pass_app
def delete(app: App, actor: str, contract: str, link_name: str) -> None:
    """Take away the link of ACTOR for CONTRACT; calls in flight finish."""

    async def work(session: Session) -> tuple[LinkDefinition, dict[str, str]]:
        inventories = await session.inventories()
        links = list(await session.client.links())
        claims = await session.client.claims()
        known = actors.candidates(inventories, claims)
        linked = [Candidate(key=link.actor_id) for link in links]
        actor_id = identify.resolve(actor, [*known, *linked], what="actor", look=LOOK).key
        wanted = (actor_id, contract, link_name)
        link = next((link for link in links if link.key == wanted), None)
        if link is None:
            raise not_found(
                f"there is no link of {actor_id[:12]}… for {contract} with link name {link_name}", f"see `{LOOK}`"
            )
        await delete_and_wait(session, link)
        return link, names_of(inventories, claims)

    link, names = app.run(work)
    if app.output.json:
        app.output.document(
            {"deleted": {"actor_id": link.actor_id, "contract_id": link.contract_id, "link_name": link.link_name}}
        )
    else:
        who = short_name(link.actor_id, names)
        app.output.text(f"deleted the link of {who} for {link.contract_id}, link name {link.link_name}")


async def delete_and_wait(session: Session, link: LinkDefinition) -> None:
    """Delete a link and wait until the lattice forgot it. Raises Problem."""
    patience = session.patience(READY_TIMEOUT)

    async def state() -> bool | None:
        return None if any(found.key == link.key for found in await session.client.links()) else True

    try:
        await session.carry_out(lambda: session.client.del_link(link), patience, state=state)
    except TimeoutError:
        raise timed_out(f"the link is still there {patience:g} s after it was deleted", f"see `{LOOK}`") from None
