"""Claims: ``claims sign``, ``get claims``; what the commands on signed files share."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path
from typing import Any

import click

from lattice import claims as lattice_claims
from lattice.claims import ActorClaims, ClaimsRefused, ProviderClaims
from lattice.errors import LatticeError
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor
from wasmhost.cli.app import App, lattice_options, output_option, pass_app, state_option
from wasmhost.cli.output import Column, Row
from wasmhost.cli.problems import Problem, invalid
from wasmhost.cli.watching import watch_option

DAY = 86_400
SHORT_CONTRACTS = {
    "keyvalue": "wasmcloud:keyvalue",
    "httpserver": "wasmcloud:httpserver",
    "httpclient": "wasmcloud:httpclient",
    "messaging": "wasmcloud:messaging",
    "blobstore": "wasmcloud:blobstore",
    "sqldb": "wasmcloud:sqldb",
    "logging": "wasmcloud:builtin:logging",
    "numbergen": "wasmcloud:builtin:numbergen",
}


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """The file, open for reading. Raises Problem."""
    try:
        with path.open("rb") as file:
            yield file
    except IsADirectoryError:
        raise invalid(f"{path} is a folder, not a WebAssembly file", "name the file in it") from None
    except FileNotFoundError:
        raise invalid(f"there is no file {path}", "check the path") from None


def read_file(path: Path) -> bytes:
    """The file's bytes. Raises Problem."""
    with opened(path) as file:
        return file.read()


def day(seconds: int | None) -> str | None:
    """A time of the claims as RFC 3339, None for none."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s after 1970"


def claims_document(claims: ActorClaims, now: float) -> dict[str, Any]:
    """Claims as ``-o json`` shows them."""
    problem = time_problem(claims, now)
    return {
        "actor_id": claims.subject,
        "account_id": claims.issuer,
        "name": claims.name,
        "version": claims.version or None,
        "revision": claims.revision,
        "token_id": claims.token_id,
        "call_alias": claims.call_alias or None,
        "capabilities": sorted(claims.capabilities),
        "tags": list(claims.tags),
        "module_hash": claims.hash,
        "issued_at": day(claims.issued_at),
        "expires": day(claims.expires),
        "not_before": day(claims.not_before),
        "valid_now": problem is None,
        "problem": problem,
    }


def time_problem(claims: ActorClaims | ProviderClaims, now: float) -> str | None:
    """``expired`` or ``not_yet_valid``; None when the claims may be used now."""
    try:
        lattice_claims.check_times(claims, now)
    except ClaimsRefused as error:
        return str(error.problem)
    return None


def named(error: LatticeError, file: Path) -> LatticeError:
    """Put the file in front of the sentence: claims do not know where they came from."""
    error.args = (f"{file}: {error}",)
    return error


def read_seed(text: str, role: Role) -> KeyPair:
    """The key pair of a seed, given as itself or as the name of a file that holds it. Raises Problem."""
    source = Path(text).expanduser()
    try:
        if source.is_file():
            text = source.read_text()
    except OSError as error:
        raise invalid(f"{source} cannot be read: {error.strerror}", "check its permissions") from error
    try:
        key = KeyPair.from_seed(text.strip())
    except LatticeError:
        key = None
    if key is None or key.role is not role:
        kind = role.name.lower()
        raise invalid(
            f"that is no {kind} seed, nor a file with one; {kind} seeds start with S{role.letter} (value hidden)",
            "make one with `wasmhost keys gen`",
        )
    return key


@click.command(short_help="sign an actor")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--name", help="Name of the actor (default: the file name).")
@click.option(
    "-c",
    "--cap",
    "capabilities",
    multiple=True,
    metavar="CONTRACT",
    help="Contract it may use, such as wasmcloud:keyvalue, or keyvalue for short. Repeatable.",
)
@click.option("-t", "--tag", "tags", multiple=True, help="Free text. Repeatable.")
@click.option("-r", "--rev", "revision", type=click.IntRange(0, 2**31 - 1), default=0, help="Counts up with releases.")
@click.option("-v", "--ver", "version", default="", help="Version for people, such as 1.2.0.")
@click.option("-a", "--call-alias", help="Name by which other actors call it: a-z, 0-9, _ and /.")
@click.option("-x", "--expires", type=click.FloatRange(min=0, min_open=True), metavar="DAYS", help="Valid that long.")
@click.option("-b", "--not-before", type=click.FloatRange(min=0), metavar="DAYS", help="Valid only that long from now.")
@click.option("--issuer", metavar="SEED", help="Account seed or its file (default: your development account).")
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
            expires=now + round(expires * DAY) if expires is not None else None,
            not_before=now + round(not_before * DAY) if not_before is not None else None,
            issued_at=now,
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


def contract_id(text: str) -> str:
    """A contract as claims spell it: the short name of a standard one is completed. Raises Problem."""
    if ":" in text:
        return text
    if text in SHORT_CONTRACTS:
        return SHORT_CONTRACTS[text]
    raise invalid(f"'{text}' is no contract", f"write vendor:name, or one of {', '.join(SHORT_CONTRACTS)}")


def replace_file(path: Path, data: bytes) -> None:
    """Write the file whole or not at all. Raises Problem."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        draft.write_bytes(data)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise Problem(
            f"{path} cannot be written: {(error.strerror or str(error)).lower()}", hint="choose another with -d"
        ) from error


@click.command("claims", short_help="the claims that the lattice knows")
@lattice_options
@watch_option
@pass_app
def get_claims(app: App) -> None:
    """Show the claims of the actors and providers that the lattice knows, running or not."""

    entries = app.run(lambda session: session.client.claims())
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
