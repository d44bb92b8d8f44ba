"""Checks of the lattice that commands work in: server, hosts, clocks, who may call whom."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from urllib.parse import urlsplit

from lattice.addresses import is_loopback, shown
from lattice.control import HostPing, Inventory
from lattice.errors import LatticeError, NotAuthorized
from lattice.jetstream import JetStream
from lattice.keys import Role
from lattice.verify import MAX_AGE, SKEW
from wasmhost import __version__
from wasmhost.cli.app import App
from wasmhost.cli.doctor.findings import Finding, fail, ok, warn
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session
from wasmhost.cli.signing import read_seed
from wasmhost.contexts.context import Context
from wasmhost.keys.cluster_seeds import ClusterSeeds
from wasmhost.keys.key_files import read_key_file

SMALLEST_PAYLOAD = 1024 * 1024
"""Bytes that one message must be able to carry: larger calls are cut below that."""
NOTICEABLE_SKEW = 5.0
SHOWN = 5


async def check_lattice(app: App) -> AsyncIterator[Finding]:
    """Everything that a connection shows; ends early where there is none."""
    try:
        context = app.context()
    except LatticeError as error:
        for problem in str(error).splitlines():
            yield fail("context", problem, "`wasmhost ctx list` shows what is in force; see docs/commands.md")
        return
    yield ok("context", f"lattice '{context.lattice}' at {shown(context.nats_url)} (from: {context.source})")
    try:
        async with Session.open(context, app.output) as session:
            async for finding in _connected(app, session):
                yield finding
    except NotAuthorized as error:
        message, _, fix = str(error).partition("; ")
        yield fail("nats", message, fix or "name a user whom the server permits it, with --nats-creds or in a context")
    except LatticeError as error:
        # Without any server named, `up` brings one along: then nothing is wrong yet.
        level = warn if context.source == "default" else fail
        message = str(error).partition("; start ")[0]
        yield level("nats", message, "`wasmhost up` brings a server along; or name one with --nats-url or a context")


async def _connected(app: App, session: Session) -> AsyncIterator[Finding]:
    connection, context = session.connection, session.context
    begun = time.monotonic()
    await connection.flush(context.timeout)
    yield ok("nats", f"{connection.server} answers in {(time.monotonic() - begun) * 1000:.1f} ms")
    yield _anonymous(connection.auth_required, connection.server)
    if connection.max_payload < SMALLEST_PAYLOAD:
        yield warn(
            "payloads",
            f"the server takes {connection.max_payload} bytes in one message; calls may have more",
            "set max_payload: 1MB in its configuration",
        )
    yield await _jetstream(session)
    hosts = await session.hosts()
    if not hosts:
        yield warn(
            "hosts",
            f"none answers in lattice '{context.lattice}'",
            "start one with `wasmhost up` or `wasmhost host`, or name another lattice with --lattice",
        )
        return
    yield _versions(hosts)
    for finding in [*await clocks(session), *_signatures(app, context, hosts)]:
        yield finding
    inventories = await session.inventories()
    for finding in [*_troubles(inventories), _actor_calls(inventories)]:
        yield finding


def _anonymous(auth_required: bool, server: str) -> Finding:
    if auth_required:
        return ok("nats users", "the server asks who connects")
    if is_loopback(server):
        return ok("nats users", "the server asks nobody who they are: open to every user of this machine, to no other")
    return warn(
        "nats users",
        f"{urlsplit(server).hostname} asks nobody who they are: whoever reaches it controls this lattice",
        "give the server users and its clients credentials; hosts refuse it without --allow-anonymous-nats",
    )


async def _jetstream(session: Session) -> Finding:
    try:
        await JetStream(session.connection, "JetStream", session.context.js_domain).ask("INFO")
    except LatticeError as error:
        return warn(
            "jetstream",
            f"not available: {error}",
            "start the server with -js; without it links are kept in memory and large payloads are refused",
        )
    return ok("jetstream", "enabled")


def _versions(hosts: Sequence[HostPing]) -> Finding:
    versions = sorted({host.version for host in hosts})
    names = ", ".join(host.friendly_name or host.id[:12] for host in hosts[:SHOWN])
    more = f" and {len(hosts) - SHOWN} more" if len(hosts) > SHOWN else ""
    others = [version for version in versions if version != __version__]
    if others:
        return warn(
            "hosts",
            f"{len(hosts)}: {names}{more}; some are of version {', '.join(others)}, this is {__version__}",
            "expect differences, or use one version",
        )
    return ok("hosts", f"{len(hosts)}: {names}{more}")


async def clocks(session: Session) -> list[Finding]:
    """The clocks of hosts beside the one of this machine. Classic hosts do not tell theirs."""
    asked = time.time()
    answers = await session.client.ping_hosts(session.window)
    told = {host.friendly_name or host.id[:12]: host.clock_ms / 1000 for host in answers if host.clock_ms is not None}
    # Each answer was written between the question and now; what lies outside of that is skew.
    answered = time.time()
    skews = {name: max(clock - answered, 0.0) or min(clock - asked, 0.0) for name, clock in told.items()}
    if not skews:
        return []
    findings = []
    for name, skew in skews.items():
        if abs(skew) < NOTICEABLE_SKEW:
            continue
        direction = "ahead of" if skew > 0 else "behind"
        message = f"the clock of {name} is {abs(skew):.0f} s {direction} the one here"
        fix = "set both clocks, such as with an NTP client"
        refused = skew > MAX_AGE or -skew > SKEW
        findings.append(
            fail("clocks", f"{message}; calls from here are refused", fix) if refused else warn("clocks", message, fix)
        )
    return findings or [ok("clocks", "within a second" if max(map(abs, skews.values())) < 1 else "within 5 s")]


def _signatures(app: App, context: Context, hosts: Sequence[HostPing]) -> list[Finding]:
    """Whether `wasmhost call` would be believed."""
    try:
        if context.cluster_seed:
            own = {read_seed(context.cluster_seed, Role.CLUSTER).public}
        else:  # as `call` does: one after the other
            own = {read_key_file(app.paths.shared / "cluster.nk", "cluster").public}
            own |= {key.public for key in ClusterSeeds(app.paths).all()}
    except Problem as problem:
        return [fail("calls", str(problem), problem.hint)]
    foreign = [host for host in hosts if own.isdisjoint((host.issuer, *host.cluster_issuers))]
    if not foreign:
        return [ok("calls", "hosts accept what this user signs")]
    names = ", ".join(host.friendly_name or host.id[:12] for host in foreign[:SHOWN])
    return [
        warn(
            "calls",
            f"{names}: of a cluster with another key, which refuses `wasmhost call` from here",
            "name the seed of that cluster with --cluster-seed, WASMCLOUD_CLUSTER_SEED or in a context",
        )
    ]


def _troubles(inventories: Sequence[Inventory]) -> list[Finding]:
    findings = [
        warn("hosts", f"{inventory.friendly_name}: degraded: {inventory.degraded}", "see the host's log")
        for inventory in inventories
        if inventory.degraded
    ]
    findings += [
        warn(
            "providers",
            f"{provider.name or provider.id[:12]} on {inventory.friendly_name} is {provider.state}: {provider.error}",
            "see `wasmhost get providers` and the host's log",
        )
        for inventory in inventories
        for provider in inventory.providers
        if provider.state in ("failed", "degraded")
    ]
    return findings


def _actor_calls(inventories: Sequence[Inventory]) -> Finding:
    """Any actor may call any other, as in every classic lattice; who runs several owners' actors wants to know."""
    names = sorted({actor.name or actor.id[:12] for inventory in inventories for actor in inventory.actors})
    if len(names) < 2:
        return ok("actor calls", "fewer than two actors run; any actor may call any other by key or alias")
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return ok(
        "actor calls",
        f"possible among all {len(names)}, by key or alias: {shown}",
        "actors that must not reach each other belong into lattices of their own",
    )
