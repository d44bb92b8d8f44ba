"""Claims: ``claims sign``, ``get claims``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from lattice import claims as lattice_claims
from lattice.errors import LatticeError, Unreachable
from lattice.keys import Role
from lattice.signing import sign_actor
from wasmhost.cli.app import App, lattice_options, output_option, pass_app, state_option
from wasmhost.cli.output import Column, Row
from wasmhost.cli.signed_files import claims_document, named, read_file, replace_file
from wasmhost.cli.signing import capability_options, contract_id, lifetime, read_seed, token_options
from wasmhost.cli.watching import watch_option

if TYPE_CHECKING:
    from wasmhost.cli.session import Session


@click.command(short_help="sign an actor")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the actor (default: the file name).")
@capability_options
@token_options
@click.option("--subject", metavar="SEED", help="Actor seed or its file (default: kept per file path).")
@click.option("-d", "--destination", type=click.Path(path_type=Path), help="Signed file (default: NAME_s.wasm).")
@state_option
@output_option
@pass_app
def sign(
    app: App,
    *,
    file: Path,
    name: str | None,
    capabilities: tuple[str, ...],
    tags: tuple[str, ...],
    revision: int,
    version: str,
    call_alias: str | None,
    expires: float | None,
    not_before: float | None,
    issuer: str | None,
    subject: str | None,
    destination: Path | None,
) -> None:
    """Write a copy of the WebAssembly module FILE with signed claims; older claims are replaced."""
    data = read_file(file)
    target = destination or file.with_name(f"{file.stem}_s{file.suffix or '.wasm'}")
    account = read_seed(issuer, Role.ACCOUNT) if issuer else app.keyring.account()
    module = read_seed(subject, Role.MODULE) if subject else app.keyring.module(file)
    now = int(time.time())
    try:
        signed = sign_actor(
            data,
            account=account,
            module=module,
            name=name or file.stem,
            capabilities=tuple(contract_id(capability) for capability in capabilities),
            tags=tags,
            revision=revision,
            version=version,
            call_alias=call_alias,
            **lifetime(now, expires, not_before),
        )
    except LatticeError as error:
        raise named(error, file) from error
    replace_file(target, signed)
    claims = lattice_claims.read_actor(signed)
    if app.output.json:
        app.output.document({"file": str(target.absolute()), **claims_document(claims, now)})
        return
    app.output.text(f"signed {target}")
    app.output.facts([("actor", claims.subject), ("account", claims.issuer)])
    if not issuer:
        app.output.say(
            "Signed with your development account; a host runs it when started with --trust and that account."
        )


@click.command("claims", short_help="the claims that the lattice knows")
@lattice_options
@watch_option
@pass_app
def get_claims(app: App) -> None:
    """Show the claims of the actors and providers that the lattice knows, running or not."""

    async def work(session: Session) -> list[dict[str, str]]:
        try:
            return await session.client.claims()
        except Unreachable:
            await session.some_hosts()  # says in words that nobody is there
            raise

    entries = app.run(work)
    shown = sorted(entries, key=lambda entry: (entry.get("sub", "")[:1], entry.get("name", ""), entry.get("sub", "")))
    if app.output.json:
        app.output.document(
            {
                "claims": [
                    {
                        "id": entry.get("sub", ""),
                        "account_id": entry.get("iss", ""),
                        "name": entry.get("name", ""),
                        "version": entry.get("version") or None,
                        "revision": _integer(entry.get("rev", "")),
                        "call_alias": entry.get("call_alias") or None,
                        "capabilities": _list(entry.get("caps", "")),
                        "tags": _list(entry.get("tags", "")),
                        "contract_id": entry.get("contract_id") or None,
                    }
                    for entry in shown
                ]
            }
        )
        return
    if not shown:
        app.output.say("The lattice knows no claims.")
        return
    app.output.table(
        [
            Column("ID", 13, early=True),
            Column("NAME", 8),
            Column("VERSION", 7),
            Column("ACCOUNT", 13, early=True),
            Column("OFFERS", 12),
        ],
        [
            Row(
                [
                    entry.get("sub", ""),
                    entry.get("name", ""),
                    entry.get("version", ""),
                    entry.get("iss", ""),
                    entry.get("contract_id", ""),
                ],
                notes=[f"may use {', '.join(caps)}"] if (caps := _list(entry.get("caps", ""))) else [],
            )
            for entry in shown
        ],
    )


def _list(text: str) -> list[str]:
    return [part for part in text.split(",") if part]


def _integer(text: str) -> int | None:
    try:
        return int(text)
    except ValueError:
        return None
