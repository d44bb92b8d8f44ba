"""Cluster keys: ``cluster list``, ``cluster rotate``, ``cluster revoke-provider``."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import click

from lattice.clustercontrol import ClusterView
from lattice.control import HostPing
from lattice.errors import Code, LatticeError, RemoteError, Unreachable
from lattice.keys import Role, is_key
from lattice.subjects import DEFAULT_LINK_NAME
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Column, Row
from wasmhost.cli.problems import Problem, invalid, timed_out
from wasmhost.cli.providers import find_running
from wasmhost.cli.rotation import SHOWN, Member, objections_to_remove, objections_to_use, short, todo
from wasmhost.cli.session import POLL_INTERVAL, Session, refused
from wasmhost.cli.signing import read_seed

CHANGE_TIMEOUT = 30.0
REACHED_TIMEOUT = 10.0
"""Seconds for a revocation to reach every host."""
SEE_LIST = "wasmhost cluster list"


async def _member(session: Session, host: HostPing) -> Member | None:
    """A host with its keys; None when it has just left."""
    if not host.guests:  # of another make: what it says in its answer to a ping is all there is
        accepted = tuple(dict.fromkeys((host.issuer, *host.cluster_issuers)))
        return Member(host.friendly_name, ClusterView(host_id=host.id, signing=host.issuer, accepted=accepted))
    try:
        return Member(host.friendly_name, await session.client.cluster_view(host.id))
    except Unreachable:
        return None


async def _members(session: Session) -> list[Member]:
    found = await asyncio.gather(*(_member(session, host) for host in await session.some_hosts()))
    return [member for member in found if member is not None]


def _document(member: Member) -> dict[str, Any]:
    shown = member.view.to_dict()
    return {**shown, "friendly_name": member.name, "held": None if member.view.held is None else list(member.view.held)}


@click.command("list", short_help="which host signs with and accepts which cluster key")
@lattice_options
@pass_app
def list_keys(app: App) -> None:
    """Show, per host, the cluster keys that it accepts, which one it signs with, and what is left to do.

    A key in (brackets) is accepted without its seed: a key of another cluster, or one whose file is missing there.
    """
    members = app.run(_members)
    left = todo(members)
    if app.output.json:
        app.output.document({"hosts": [_document(member) for member in members], "todo": left})
        return
    app.output.table(
        [
            Column("HOST", 13, early=True),
            Column("NAME", 10),
            Column("SIGNS WITH", SHOWN, early=True),
            Column("ACCEPTS", SHOWN),
        ],
        [_row(member) for member in members],
    )
    if left:
        app.output.text()
        app.output.facts([(f"{number}.", step) for number, step in enumerate(left, 1)])


def _row(member: Member) -> Row:
    view = member.view
    accepted = " ".join(short(key) if member.holds(key) else f"({short(key)})" for key in sorted(view.accepted))
    notes = [
        f"key of provider {short(provider)} on {link_name} was revoked {number} time{'s' if number > 1 else ''}"
        for (provider, link_name), number in sorted(view.generations.items())
    ]
    if view.issuer_alarms:
        notes.append(
            f"{view.issuer_alarms} calls refused whose issuer and origin disagree: see `wasmhost events --since 1d`"
        )
    return Row([view.host_id, member.name, short(view.signing), accepted], notes=notes)


@click.command(short_help="change the cluster keys of one host, while it runs")
@click.argument("host", shell_complete=complete.hosts)
@click.option("--add", metavar="KEY", help="Accept calls signed with KEY.")
@click.option("--use", metavar="KEY", help="Sign with KEY, whose seed the host holds.")
@click.option("--remove", metavar="KEY", help="Accept KEY no longer, from now on.")
@click.option("--force", is_flag=True, help="Also where calls between hosts would be refused afterwards.")
@lattice_options
@pass_app
def rotate(app: App, /, *, host: str, add: str | None, use: str | None, remove: str | None, force: bool) -> None:
    """Change which cluster keys HOST accepts and signs with. Nothing is restarted, no request is lost.

    KEY is a cluster's public key (C…), a seed file of this machine, of which only the public key is sent, or the name
    of a file that you put into the key folder on the machine of HOST. First --add the new key on every host, then --use
    it on every host, then --remove the old one from every host.

    \b
    wasmhost cluster rotate HOST --add new.nk
    """
    given = [(action, key) for action, key in (("add", add), ("use", use), ("remove", remove)) if key]
    if len(given) != 1:
        raise invalid(
            "say one of --add, --use and --remove", "one step on one host at a time; see `wasmhost cluster list`"
        )
    ((action, typed),) = given
    wanted = _wanted(typed)

    async def work(session: Session) -> Member:
        meant = await session.find_host(host)
        present = await _member(session, meant)
        key = present.view.files.get(wanted.removesuffix(".nk"), wanted) if present is not None else wanted
        if not force and action != "add":
            await _check(session, action, key, meant)
        try:
            await session.client.change_cluster_keys(meant.id, action, key, timeout=session.patience(CHANGE_TIMEOUT))
        except LatticeError as error:
            raise _explained(error) from error
        return Member(meant.friendly_name, await session.client.cluster_view(meant.id))

    changed = app.run(work)
    if app.output.json:
        app.output.document({"action": action, **_document(changed)})
        return
    accepted = ", ".join(short(each) for each in sorted(changed.view.accepted))
    app.output.text(f"{changed.name} accepts {accepted} and signs with {short(changed.view.signing)}")
    public = wanted if is_key(wanted, Role.CLUSTER) else ""
    if action == "add" and public and not changed.holds(public):
        folder = next(iter(changed.view.key_folders), "its key folder")
        app.output.say(
            f"It does not hold the seed of {short(public)}: right for a key of another cluster. For one of your own, "
            f"carry the seed file into {folder} on its machine and add it again."
        )


def _wanted(key: str) -> str:
    """What a host is told: never a seed, never a path."""
    if is_key(key, Role.CLUSTER):
        return key
    if key.startswith("S") and len(key) == 58:
        raise invalid("a seed does not belong on a command line", "name the file that holds it, or its public key")
    path = Path(key).expanduser()
    if path.is_file():
        return read_seed(str(path), Role.CLUSTER).public
    if "/" in key:
        raise Problem(f"there is no file {key}", exit_code=ExitCode.NOT_FOUND, hint="name a seed file or a public key")
    return key


async def _check(session: Session, action: str, wanted: str, meant: HostPing) -> None:
    """Raise Problem where the step would have calls between hosts refused."""
    members = await _members(session)
    host = next((member for member in members if member.view.host_id == meant.id), None)
    others = [member for member in members if member.view.host_id != meant.id]
    if host is None or not is_key(wanted, Role.CLUSTER):
        return
    if action == "use":
        found, step = objections_to_use(wanted, host, others), "--add it there first"
    else:
        found, step = objections_to_remove(wanted, others), "have them --use another first"
    if found:
        raise Problem(
            f"calls would be refused: {'; '.join(found)}",
            exit_code=ExitCode.CONFLICT,
            hint=f"{step} (`{SEE_LIST}`), or do it all the same with --force",
        )


def _explained(error: LatticeError) -> LatticeError | Problem:
    if isinstance(error, RemoteError) and error.code is Code.UNSUPPORTED:
        return Problem(str(error), hint="hosts of other makes take their cluster keys at their start only")
    return refused(error)


@click.command("revoke-provider", short_help="revoke the key that a provider signs with")
@click.argument("provider", shell_complete=complete.providers_of_lattice)
@click.option("--link-name", metavar="NAME", default=DEFAULT_LINK_NAME, help="Link name (default: default).")
@lattice_options
@pass_app
def revoke_provider(app: App, provider: str, link_name: str) -> None:
    """Have every host refuse the key that PROVIDER has signed with so far, and give its processes a new one.

    For a key that may have been stolen. Providers of ours go on without a lost request; others are started anew.
    """

    async def work(session: Session) -> tuple[str, int, list[str]]:
        hosts = [host for host in await session.some_hosts() if host.guests]
        if not hosts:
            raise Problem("no host of this lattice can revoke keys", hint="hosts of other makes know no revocation")
        key = provider
        if not is_key(key, Role.SERVICE):
            found, _ = await find_running(session, provider)
            key = found.key
        first, *others = hosts
        try:
            await session.client.revoke_provider_key(first.id, key, link_name, timeout=session.patience(CHANGE_TIMEOUT))
        except LatticeError as error:
            raise refused(error) from error
        number = (await session.client.cluster_view(first.id)).generations.get((key, link_name), 0)
        late = await asyncio.gather(*(_lags(session, host, (key, link_name), number) for host in others))
        return key, number, [host.friendly_name for host, lags in zip(others, late, strict=True) if lags]

    key, number, late = app.run(work)
    if late:
        raise timed_out(
            f"{', '.join(late)} did not say within {REACHED_TIMEOUT:g} s that the key is revoked there",
            f"see `{SEE_LIST}`; a host refuses the key as soon as it reaches JetStream",
        )
    if app.output.json:
        app.output.document({"provider_id": key, "link_name": link_name, "generation": number})
    else:
        app.output.text(
            f"revoked the key of provider {key} on {link_name}; it has another one now (generation {number})"
        )


async def _lags(session: Session, host: HostPing, which: tuple[str, str], number: int) -> bool:
    """Whether a host has not heard of a revocation in time; one that left has nothing to hear."""
    end = asyncio.get_running_loop().time() + session.patience(REACHED_TIMEOUT)
    while asyncio.get_running_loop().time() < end:
        try:
            if (await session.client.cluster_view(host.id)).generations.get(which, 0) >= number:
                return False
        except Unreachable:
            return False
        await asyncio.sleep(POLL_INTERVAL)
    return True
