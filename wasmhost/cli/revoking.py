"""``claims revoke``, ``claims unrevoke``, ``claims revoked``: what must not run in the lattice, whoever signed it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from lattice.control import HostPing
from lattice.errors import Code, LatticeError, MalformedMessage, RemoteError
from lattice.keys import role_of
from lattice.revocation import Revocation, is_token_id
from wasmhost.cli import actors, identify, providers
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Column, Row
from wasmhost.cli.problems import Problem, invalid, not_found
from wasmhost.cli.session import Session, refused
from wasmhost.cli.signed_files import day

LOOK = "wasmhost claims revoked"

_ID = click.argument("id_", metavar="ID")
_REVISION = click.option("--revision", type=int, help="Only this revision of the actor or provider KEY.")


@click.command(short_help="let an actor, provider, account or token run nowhere any more")
@_ID
@_REVISION
@click.option("--reason", default="", metavar="TEXT", help="Why; shown to whoever is refused because of it.")
@lattice_options
@pass_app
def revoke(app: App, id_: str, revision: int | None, reason: str) -> None:
    """Refuse in the whole lattice what ID names, and stop it at once wherever it runs.

    \b
    M… or V…   an actor or a provider: every token of it, or one --revision
    A…         an account: everything that it has signed
    TOKEN-ID   one token, by the id that `wasmhost inspect` shows

    What the lattice knows may be named in any way: the beginning of a key, a name, an image. Hosts that are down refuse
    it when they are back. Hosts of other makers do not know revocations.
    """

    _check(id_)

    async def work(session: Session) -> tuple[Revocation, list[HostPing]]:
        entry = _entry(await _meant(session, id_, await _known(session)), revision, reason)
        return entry, await _tell(session, entry)

    entry, told = app.run(work)
    if app.output.json:
        app.output.document({"revoked": _document(entry), "hosts": [host.id for host in told]})
        return
    app.output.text(f"revoked {entry.kind} {_name(entry)}")
    app.output.say(f"Known to {len(told)} host{'' if len(told) == 1 else 's'}; take it back with `claims unrevoke`.")


@click.command(short_help="take a revocation back")
@_ID
@_REVISION
@lattice_options
@pass_app
def unrevoke(app: App, id_: str, revision: int | None) -> None:
    """Let what was revoked run again: ID as `claims revoked` shows it, or its beginning. Nothing is started by that."""

    _check(id_)

    async def work(session: Session) -> tuple[Revocation, list[HostPing]]:
        entries = await _all(session)
        known = [*await _known(session), *(Candidate(key=each.id) for each in entries.values())]
        lift = _entry(await _meant(session, id_, known, look=LOOK), revision, "", lifted=True)
        if lift.key not in entries:
            raise not_found(f"{_name(lift)} is not revoked", f"`{LOOK}` lists what is")
        return entries[lift.key], await _tell(session, lift)

    entry, told = app.run(work)
    if app.output.json:
        app.output.document({"unrevoked": _document(entry), "hosts": [host.id for host in told]})
        return
    app.output.text(f"unrevoked {entry.kind} {_name(entry)}")


@click.command(short_help="list what is revoked")
@lattice_options
@pass_app
def revoked(app: App) -> None:
    """Show what is revoked in the lattice, and by the settings of single hosts."""
    entries = list(app.run(_all).values())
    if app.output.json:
        app.output.document({"revoked": [_document(entry) for entry in entries]})
        return
    if not entries:
        app.output.say("Nothing is revoked.")
        return
    app.output.table(
        [Column("KIND"), Column("ID", 13, early=True), Column("REVISION"), Column("SINCE"), Column("REASON", 12)],
        [
            Row(
                [
                    entry.kind,
                    entry.id,
                    "all" if entry.revision is None else str(entry.revision),
                    day(entry.at) or "" if entry.at else "",
                    entry.reason,
                ]
            )
            for entry in entries
        ],
    )


def _check(text: str) -> None:
    """Refuse what names nothing before it is looked for, and maybe shown. Raises Problem."""
    if role_of(text) is None and len(text) in (56, 58):
        raise invalid(
            "that has the length of a key or a seed, and is no public key (value hidden)",
            "public keys begin with M, V or A and have 56 characters",
        )
    if Path(text).suffix and Path(text).exists():
        raise invalid(f"{text} is a file", "name what it holds by its key, account or token id: see `wasmhost inspect`")


async def _known(session: Session) -> list[Candidate]:
    """The actors, providers and accounts that the lattice knows, running or not."""
    inventories, claims = await session.inventories(), await session.client.claims()
    providers_known = [
        Candidate(key=entry.get("sub", ""), name=entry.get("name", ""))
        for entry in claims
        if entry.get("sub", "").startswith("V")
    ]
    accounts = [Candidate(key=entry["iss"]) for entry in claims if entry.get("iss")]
    return [*actors.candidates(inventories, claims), *providers.candidates(inventories), *providers_known, *accounts]


async def _meant(session: Session, text: str, known: list[Candidate], *, look: str = "wasmhost get claims") -> str:
    """The key or token id that ``text`` stands for; what is one already is taken as it is. Raises Problem."""
    if role_of(text) is not None:
        return text
    try:
        return identify.resolve(text, known, what="actor, provider or account", look=look).key
    except Problem as problem:
        if problem.exit_code is ExitCode.NOT_FOUND and is_token_id(text):
            return text
        raise


def _entry(text: str, revision: int | None, reason: str, *, lifted: bool = False) -> Revocation:
    try:
        return Revocation(id=text, revision=revision, reason=reason, at=int(time.time()), lifted=lifted).check()
    except MalformedMessage as error:
        raise invalid(str(error), "see `wasmhost claims revoke --help`") from error


def _document(entry: Revocation) -> dict[str, object]:
    document = entry.to_dict()
    del document["lifted"]
    return {**document, "at": day(entry.at) if entry.at else None}


def _name(entry: Revocation) -> str:
    return entry.id if entry.revision is None else f"{entry.id} revision {entry.revision}"


async def _tell(session: Session, entry: Revocation) -> list[HostPing]:
    """Tell every host, as without JetStream they do not tell each other; those that took it."""
    hosts = await session.some_hosts()
    answers = await asyncio.gather(*(session.client.revoke(host.id, entry) for host in hosts), return_exceptions=True)
    told, failures = [], []
    for host, answer in zip(hosts, answers, strict=True):
        if isinstance(answer, RemoteError) and answer.code is Code.UNSUPPORTED:
            session.output.say(f"Host {host.friendly_name} does not know revocations; what it runs, it goes on with.")
        elif isinstance(answer, LatticeError):
            failures.append((host, answer))
        elif isinstance(answer, BaseException):
            raise answer
        else:
            told.append(host)
    if not told:
        raise refused(failures[0][1]) if failures else Problem("no host of this lattice knows revocations")
    for host, error in failures:
        session.output.say(f"Host {host.friendly_name}: {error}")
    return told


async def _all(session: Session) -> dict[str, Revocation]:
    """What any host refuses, each once."""
    hosts = await session.some_hosts()
    answers = await asyncio.gather(*(session.client.revoked(host.id) for host in hosts), return_exceptions=True)
    entries: dict[str, Revocation] = {}
    for answer in answers:
        if isinstance(answer, list):
            entries |= {entry.key: entry for entry in answer}
        elif not isinstance(answer, LatticeError):
            raise answer
    return entries
