"""``wasmhost claims token``: signed tokens without the file that they are for."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

import click

from lattice import claims as lattice_claims
from lattice import wasmfile
from lattice.archive import check_target
from lattice.errors import LatticeError
from lattice.keys import KeyPair, Role
from lattice.signing import actor_token, sign_provider
from wasmhost.cli.app import App, output_option, pass_app, state_option
from wasmhost.cli.inspection import provider_document
from wasmhost.cli.problems import invalid
from wasmhost.cli.signed_files import claims_document, named, opened, read_file
from wasmhost.cli.signing import capability_options, contract_id, lifetime, read_seed, token_options


@click.command("actor", short_help="the token of an actor")
@click.option("-s", "--subject", metavar="SEED", help="Actor seed or its file (default: kept per path of --file).")
@click.option("--file", type=click.Path(path_type=Path), metavar="WASM", help="The module that the token is for.")
@capability_options
@click.option("--name", required=True, help="Name for people.")
@token_options
@state_option
@output_option
@pass_app
def actor(
    app: App,
    /,
    *,
    subject: str | None,
    file: Path | None,
    capabilities: tuple[str, ...],
    call_alias: str | None,
    tags: tuple[str, ...],
    **common: Any,
) -> None:
    """Print the signed token of an actor.

    Hosts take it only inside the module whose hash it names: `wasmhost claims sign` does both. Without --file it names
    no hash, as those of the classic command line.
    """
    module_hash = _module_hash(file) if file else ""
    if subject:
        module = read_seed(subject, Role.MODULE)
    elif file:
        module = app.keyring.module(file)
    else:
        raise invalid("a token needs an actor", "name the actor's seed with --subject, or its module with --file")
    now = int(time.time())
    token = actor_token(
        account=_account(app, common.pop("issuer")),
        module=module,
        module_hash=module_hash,
        capabilities=tuple(contract_id(capability) for capability in capabilities),
        tags=tags,
        call_alias=call_alias,
        **lifetime(now, common.pop("expires"), common.pop("not_before")),
        **common,
    )
    known = claims_document(lattice_claims.read_actor_token(token), now) if module_hash else {}
    _print(app, token, known)
    if not module_hash:
        app.output.say("It names no code; hosts of ours want the hash that --file gives.")


@click.command("provider", short_help="the token of a provider")
@click.option("-s", "--subject", required=True, metavar="SEED", help="Provider seed or its file.")
@click.option("--capid", "contract", required=True, metavar="CONTRACT", help="Contract that it offers.")
@click.option("--vendor", default="", help="Who made it.")
@click.option(
    "--binary", "binaries", multiple=True, metavar="TARGET=FILE", help="Program, such as x86_64-linux=FILE. Repeatable."
)
@click.option("--name", required=True, help="Name for people.")
@token_options
@state_option
@output_option
@pass_app
def provider(
    app: App, /, *, subject: str, contract: str, vendor: str, binaries: tuple[str, ...], **common: Any
) -> None:
    """Print the signed token of a provider, with the hashes of its programs."""
    now = int(time.time())
    token = sign_provider(
        account=_account(app, common.pop("issuer")),
        service=read_seed(subject, Role.SERVICE),
        contract_id=contract_id(contract),
        vendor=vendor,
        target_hashes=dict(map(_target_hash, binaries)),
        **lifetime(now, common.pop("expires"), common.pop("not_before")),
        **common,
    )
    _print(app, token, provider_document(lattice_claims.read_provider_token(token), now))


def _module_hash(file: Path) -> str:
    try:
        return wasmfile.module_hashes(wasmfile.reencode(read_file(file)))[0]
    except LatticeError as error:
        raise named(error, file) from error


def _account(app: App, issuer: str | None) -> KeyPair:
    return read_seed(issuer, Role.ACCOUNT) if issuer else app.keyring.account()


def _target_hash(text: str) -> tuple[str, str]:
    target, equals, file = text.partition("=")
    if not equals or not file:
        raise invalid(f"'{text}' is no program", "write TARGET=FILE, such as x86_64-linux=./provider")
    with opened(Path(file).expanduser()) as stream:
        return check_target(target), hashlib.file_digest(stream, "sha256").hexdigest().upper()


def _print(app: App, token: str, known: dict[str, Any]) -> None:
    if app.output.json:
        app.output.document({"token": token, **known})
    else:
        app.output.text(token)
