"""What NATS really permits, tried: nobody's connection, the inboxes of others, and a provider's user."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from lattice import subjects
from lattice.connection import DEFAULT_INBOX_PREFIX, Connection, ConnectOptions, connect
from lattice.errors import LatticeError, NotAuthorized
from lattice.security_report import SecurityReport
from lattice.server_errors import Violation
from wasmhost.cli.doctor.findings import Finding, fix, ok, warn
from wasmhost.cli.doctor.security_checks import listed
from wasmhost.configuration.config import HostConfig
from wasmhost.contexts.context import Context
from wasmhost.keys.security import files_named

CLIENT = "wasmhost doctor"
MOST_PROVIDERS = 20
"""Users of providers that are tried."""


async def check_strangers(context: Context, connection: Connection) -> Finding:
    """Whether somebody without credentials is let in, whatever the server's greeting says."""
    url = connection.server
    nobody = ConnectOptions(url=url, name=CLIENT, tls=replace(context.tls, certificate="", key=""))
    try:
        await (await connect(nobody)).close()
    except NotAuthorized as error:
        # Let in, and then not permitted the inbox: it is a user of some kind, which is nobody's.
        if "does not permit" not in str(error):
            return ok("nats", f"{url} lets in nobody without credentials")
    except LatticeError:
        return ok("nats", f"{url} lets in nobody without credentials")
    if connection.local:
        return warn(
            "nats",
            f"{url} lets everybody in: any user of this machine controls this lattice, and its hosts",
            "fine for development; else use a server with users, see docs/security.md, and --nats-url",
        )
    return fix(
        "nats",
        f"{url} lets everybody in: whoever reaches it controls this lattice, and its hosts",
        "give the server users, see docs/security.md",
    )


async def check_inboxes(connection: Connection, reports: Sequence[SecurityReport], own: str) -> AsyncIterator[Finding]:
    """Whether the user of this command may read answers that are meant for others."""
    wanted = {route.inbox.replace("{provider}", "*") for report in reports for route in report.routes.values()}
    others = {"_INBOX", *wanted} - {"", own if own != DEFAULT_INBOX_PREFIX else ""}
    readable = [prefix for prefix in sorted(others) if await _may_read(connection, prefix)]
    if not readable:
        yield ok("inboxes", "the user of this command may read no inbox but its own")
        return
    yield (fix if connection.auth_required else warn)(
        "inboxes",
        f"the user of this command may read the answers to others: {listed(f'{each}.>' for each in readable)}",
        "permit each user its own inbox only, and give contexts an inbox_prefix",
    )


async def check_providers(config: HostConfig | None, lattice: str) -> AsyncIterator[Finding]:
    """What the users may do that the host of these settings, those of this machine, gives to its providers."""
    if config is None:
        return
    endpoint = config.providers
    keys = [path.stem for path in files_named(endpoint.credentials)] if endpoint.names_provider else [""]
    told = False
    for key in keys[:MOST_PROVIDERS]:
        options = endpoint.of_provider(key).options(CLIENT, allow_anonymous=True)
        if not (options.credentials or options.seed or "@" in options.url):
            return
        try:
            connection = await connect(options)
        except LatticeError as error:
            yield warn("providers", f"the NATS user of providers cannot be tried: {error}", "see docs/security.md")
            return
        try:
            open_to = await _excess(connection, lattice, key)
        finally:
            await connection.close()
        if open_to:
            told = True
            who = f"of provider {key[:12]}…" if key else "of providers"
            yield fix(
                "providers",
                f"the NATS user {who} may {', '.join(open_to)}",
                "give it the permissions of docs/security.md and no other",
            )
    if keys and not told:
        yield ok("providers", "their NATS users can neither command hosts nor read what is meant for others")


async def _excess(connection: Connection, lattice: str, key: str) -> list[str]:
    """What a provider's user may do and should not; nothing that is tried changes anything."""
    control = subjects.Control(lattice)
    found = []
    for subject, what in (
        (">", "read everything"),
        (f"{control.root}.>", "read commands"),
        ("_INBOX.>", "read the answers to others"),
        (f"wasmbus.rpc.{lattice}.>", "read all calls"),
    ):
        if await _may_subscribe(connection, subject):
            found.append(what)
    # A verb that no host knows, without a reply: it is refused and forgotten where it does arrive.
    refused: list[Violation] = []
    connection.on_violation(refused.append)
    for subject, what in (
        (f"{control.root}.doctor", "command hosts"),
        (f"{subjects.events(lattice)}.doctor", "publish events"),
        (f"wasmbus.rpc.{lattice}.doctor.doctor.shutdown", "end other providers"),
    ):
        refused.clear()
        connection.publish(subject, b"")
        await connection.flush()
        if not refused:
            found.append(what)
    return found


async def _may_read(connection: Connection, prefix: str) -> bool:
    return await _may_subscribe(connection, f"{prefix}.>")


async def _may_subscribe(connection: Connection, subject: str) -> bool:
    try:
        subscription = await connection.subscribe(subject, lambda *_: None)
    except NotAuthorized:
        return False
    await subscription.unsubscribe()
    return True
