"""``claims revoke``, ``claims unrevoke``, ``claims revoked``: what must not run in the lattice, whoever signed it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import click

from lattice.control import HostPing
from lattice.errors import Code, LatticeError, MalformedMessage, RemoteError
from lattice.revocation import Revocation
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.claims import day
from wasmhost.cli.output import Column, Row
from wasmhost.cli.problems import Problem, invalid, not_found
from wasmhost.cli.session import Session, refused

_ID = click.argument("id_", metavar="KEY|ACCOUNT|TOKEN-ID")
_REVISION = click.option("--revision", type=int, help="Only this revision of the actor or provider KEY.")


@click.command(short_help="let an actor, provider, account or token run nowhere any more")
@_ID
@_REVISION
@click.option("--reason", default="", metavar="TEXT", help="Why; shown to whoever is refused because of it.")
@lattice_options
@pass_app
def revoke(app: App, id_: str, revision: int | None, reason: str) -> None:
    """Refuse in the whole lattice what is named, and stop it at once wherever it runs.

    \b
    M… or V…   an actor or a provider: every token of it, or one --revision
    A…         an account: everything that it has signed
    TOKEN-ID   one token, by the id that `wasmhost inspect` shows

    Hosts that are down refuse it when they are back. Hosts of other makers do not know revocations.
    """
    entry = _entry(id_, revision, reason)
    told = _tell(app, entry)
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
    """Let what was revoked run again. Nothing is started by that."""
    entry = _entry(id_, revision, "", lifted=True)
    known = app.run(_all)
    if entry.key not in known:
        raise not_found(f"{_name(entry)} is not revoked", "`wasmhost claims revoked` lists what is")
    told = _tell(app, entry)
    if app.output.json:
        app.output.document({"unrevoked": _document(known[entry.key]), "hosts": [host.id for host in told]})
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


def _entry(text: str, revision: int | None, reason: str, *, lifted: bool = False) -> Revocation:
    if Path(text).suffix and Path(text).exists():
        raise invalid(f"{text} is a file", "name what it holds by its key, account or token id: see `wasmhost inspect`")
    try:
        return Revocation(id=text, revision=revision, reason=reason, at=int(time.time()), lifted=lifted).check()
    except MalformedMessage as error:
        raise invalid(str(error), "see `wasmhost inspect FILE` or `wasmhost get claims`") from error


def _document(entry: Revocation) -> dict[str, object]:
    document = entry.to_dict()
    del document["lifted"]
    return {**document, "at": day(entry.at) if entry.at else None}


def _name(entry: Revocation) -> str:
    return entry.id if entry.revision is None else f"{entry.id} revision {entry.revision}"


def _tell(app: App, entry: Revocation) -> list[HostPing]:
    """Tell every host, as without JetStream they do not tell each other; those that took it."""

    async def work(session: Session) -> list[HostPing]:
        hosts = await session.some_hosts()
        answers = await asyncio.gather(
            *(session.client.revoke(host.id, entry) for host in hosts), return_exceptions=True
        )
        told, failures = [], []
        for host, answer in zip(hosts, answers, strict=True):
            if isinstance(answer, RemoteError) and answer.code is Code.UNSUPPORTED:
                session.output.say(
                    f"Host {host.friendly_name} does not know revocations; what it runs, it goes on with."
                )
            elif isinstance(answer, LatticeError):
                failures.append((host, answer))
            elif isinstance(answer, BaseException):
                raise answer
            else:
                told.append(host)
        for host, error in failures:
            if told:
                session.output.say(f"Host {host.friendly_name} was not told: {error}")
        if not told:
            raise refused(failures[0][1]) if failures else Problem("no host of this lattice knows revocations")
        return told

    return app.run(work)


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
