"""``wasmhost doctor security``: what is open, and how to close it."""

from __future__ import annotations

import asyncio
import re
import stat
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import click

from lattice.control import Inventory
from lattice.errors import LatticeError
from lattice.login import Login
from lattice.security_report import SecurityReport
from wasmhost import logs
from wasmhost.cli.app import App, lattice_options, name_option, pass_app
from wasmhost.cli.doctor import security_probes as probes
from wasmhost.cli.doctor.findings import Finding, fail, fix, ok, warn
from wasmhost.cli.doctor.reach import clocks
from wasmhost.cli.doctor.report import report
from wasmhost.cli.doctor.security_checks import (
    SOON_USER,
    check_actor_calls,
    check_links,
    check_reports,
    ending,
    own_route,
)
from wasmhost.cli.session import Session
from wasmhost.configuration import config as host_config
from wasmhost.configuration.config import HostConfig
from wasmhost.contexts.context import Context
from wasmhost.keys.security import exposed_files, secret_variables

_SEED = re.compile(rb"\bS[ACNOUMV][A-Z2-7]{56}\b")
_LONGEST = 64 * 1024


@click.command("security", short_help="say what is open, and how to close it")
@name_option
@lattice_options
@pass_app
def security(app: App) -> int:
    """Look for what is open in the lattice and on this machine: NATS users, TLS, inboxes, keys, trust, files, links.

    Each line is ok, warn or fix, with the command or setting that closes it. Exit code 1 when something is to be fixed.
    Nothing is changed. It says more where it runs as the user of a host and with that host's settings.
    """
    logs.configure("error", structured=app.output.json)
    return asyncio.run(report(app, _checks(app)))


async def _checks(app: App) -> AsyncIterator[Finding]:
    config = _host_settings(app)
    for finding in _machine(app, config):
        yield finding
    try:
        context = app.context()
    except LatticeError as error:
        yield fail("context", str(error), "`wasmhost ctx list` shows what is in force; see docs/commands.md")
        return
    try:
        async with Session.open(context, app.output) as session:
            async for finding in _lattice(session, context, config):
                yield finding
    except LatticeError as error:
        message = str(error).partition("; ")[0]
        level = warn if context.source == "default" else fail
        yield level("nats", f"not looked at: {message}", "name a server with --nats-url or a context")


def _host_settings(app: App) -> HostConfig | None:
    """Those that a host would read here; None where they cannot be used, which `wasmhost doctor` tells."""
    try:
        flags, environ = app.for_host({})
        return host_config.load(flags, environ)
    except LatticeError:
        return None


def _machine(app: App, config: HostConfig | None) -> Iterator[Finding]:
    """Files and variables of this user."""
    endpoints = (config.control, config.rpc, config.providers) if config is not None else ()
    exposed = [*exposed_files(app.paths, endpoints), *(path for path in _written(app) if _others_may_read(path))]
    for path in dict.fromkeys(exposed):
        yield fix("files", f"others of this machine may look into {path}", f"chmod go-rwx {path}")
    if not exposed:
        yield ok("files", "keys, settings and state of this user are readable by nobody else")
    given, _ = secret_variables()
    if given:
        yield warn(
            "environment",
            f"{', '.join(given)} in the environment of this shell, and of all that it starts",
            "name files instead, such as in a context: `wasmhost ctx new`",
        )


def _written(app: App) -> Iterator[Path]:
    """Files of settings and contexts, ours and those of the classic command line, that hold a seed."""
    home = Path.home()
    folder = app.contexts.folder
    for path in (
        *(Path("host_config.json"), folder.parent / "host.yaml", home / ".wash" / "host_config.json"),
        *sorted(folder.glob("*")),
        *sorted((home / ".wash" / "contexts").glob("*.json")),
    ):
        try:
            with path.open("rb") as file:
                if _SEED.search(file.read(_LONGEST)):
                    yield path
        except OSError:
            continue


def _others_may_read(path: Path) -> bool:
    return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)


async def _lattice(session: Session, context: Context, config: HostConfig | None) -> AsyncIterator[Finding]:
    connection = session.connection
    yield await probes.check_strangers(context, connection)
    yield own_route(connection.server, encrypted=connection.encrypted, local=connection.local)
    expires = Login(jwt=context.user_jwt, seed=context.user_seed).expires
    if expires is not None:
        told = {"the NATS user of this command": expires}
        for finding in ending("nats users", "here", told, SOON_USER, "write a new credentials file over the old one"):
            yield finding
    reports, silent = await _reports(session)
    for finding in check_reports(reports, silent):
        yield finding
    async for finding in probes.check_inboxes(connection, reports, context.inbox_prefix):
        yield finding
    async for finding in probes.check_providers(config, context.lattice):
        yield finding
    if not reports and not silent:
        yield warn("hosts", f"none answers in lattice '{context.lattice}'", "name another lattice with --lattice")
        return
    for finding in check_links(await session.client.links()):
        yield finding
    yield check_actor_calls(await _accounts(session, await session.inventories()), reports)
    for finding in await clocks(session):
        yield finding


async def _reports(session: Session) -> tuple[list[SecurityReport], list[str]]:
    """What the hosts say of themselves, and the names of those that say nothing."""
    hosts = await session.hosts()
    answers = await asyncio.gather(*(session.client.security(host.id) for host in hosts), return_exceptions=True)
    reports, silent = [], []
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, SecurityReport):
            reports.append(answer)
        elif isinstance(answer, LatticeError):
            silent.append(host.friendly_name or host.id[:12])
        else:
            raise answer
    return reports, silent


async def _accounts(session: Session, inventories: list[Inventory]) -> dict[str, str]:
    """The account that signed each running actor, by the actor's name."""
    issuers = {claims.get("sub", ""): claims.get("iss", "") for claims in await session.client.claims()}
    return {
        actor.name or actor.id[:12]: issuers.get(actor.id, "")
        for inventory in inventories
        for actor in inventory.actors
    }
