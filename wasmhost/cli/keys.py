"""``wasmhost keys``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from lattice.keys import KeyPair, Role
from wasmhost.cli import identify
from wasmhost.cli.app import App, name_option, output_option, pass_app, state_option
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Column, Row
from wasmhost.cli.problems import Problem
from wasmhost.keys.key_files import KeyFile, in_folder, key_files

ROLES = {
    "account": Role.ACCOUNT,
    "actor": Role.MODULE,
    "module": Role.MODULE,
    "provider": Role.SERVICE,
    "service": Role.SERVICE,
    "host": Role.HOST,
    "server": Role.HOST,
    "cluster": Role.CLUSTER,
    "operator": Role.OPERATOR,
    "user": Role.USER,
}


@click.command(short_help="make a key pair")
@click.argument("kind", type=click.Choice(list(ROLES), case_sensitive=False), default="account", metavar="[KIND]")
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Write the seed to a new file only you can read.",
)
@output_option
@pass_app
def gen(app: App, kind: str, out: Path | None) -> None:
    """Make a new key pair of KIND (default: account) and print it.

    KIND is account, actor, provider, host, cluster, operator or user.

    The public key names its owner and may be shown to anyone. The seed is the secret half: whoever has it can sign in
    its owner's name. With --out it is not printed.
    """
    key = KeyPair.generate(ROLES[kind.lower()])
    if out is not None:
        _write_new(out, key.seed)
    if app.output.json:
        secret = {"seed": key.seed} if out is None else {"seed_file": str(out.absolute())}
        app.output.document({"kind": key.role.name.lower(), "public_key": key.public, **secret})
        return
    app.output.facts(
        [("public key", key.public), ("seed", key.seed) if out is None else ("seed file", str(out.absolute()))]
    )
    if out is None:
        app.output.say("Keep the seed secret; it cannot be recovered from the public key.")


def _found(app: App, directory: Path | None) -> list[KeyFile]:
    return in_folder(directory) if directory is not None else key_files(app.paths)


def key_document(file: KeyFile) -> dict[str, Any]:
    """One key file as ``-o json`` shows it; without the seed."""
    return {
        "name": file.name,
        "kind": file.role.name.lower() if file.role else None,
        "public_key": file.public or None,
        "file": str(file.path),
        "mode": f"{file.mode:04o}",
        "problem": _problem(file) or None,
    }


def _problem(file: KeyFile) -> str:
    if file.unreadable:
        return f"{file.path}: {file.unreadable}"
    return f"others may read it (mode {file.mode:04o}): chmod 600 {file.path}" if file.exposed else ""


_directory_option = click.option(
    "--directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    help="Look for *.nk files there (default: your state folder).",
)


@click.command("list", short_help="your keys")
@_directory_option
@name_option
@state_option
@output_option
@pass_app
def list_keys(app: App, directory: Path | None) -> None:
    """Show your keys: whose they are, never the seeds."""
    found = _found(app, directory)
    if app.output.json:
        app.output.document({"keys": [key_document(file) for file in found]})
        return
    if not found:
        app.output.say(f"There are no keys in {directory or app.paths.shared}; they are made when they are needed.")
        return
    app.output.table(
        [Column("NAME", 12), Column("KIND"), Column("PUBLIC KEY", 13, early=True)],
        [
            Row(
                [file.name, file.role.name.lower() if file.role else "?", file.public],
                notes=[problem] if (problem := _problem(file)) else [],
            )
            for file in found
        ],
    )


@click.command(short_help="print one of your keys")
@click.argument("key")
@click.option("--seed", is_flag=True, help="Print the seed, the secret half, instead of the public key.")
@_directory_option
@name_option
@state_option
@output_option
@pass_app
def get(app: App, key: str, seed: bool, directory: Path | None) -> None:
    """Print the public key of KEY: a name from `wasmhost keys list` or the beginning of a public key.

    \b
    wasmhost host --trust "$(wasmhost keys get account)"
    """
    found = _found(app, directory)
    usable = {file.public: file for file in found if file.public}
    broken = [file for file in found if file.unreadable and file.name == key]
    if broken:
        raise Problem(_problem(broken[0]), hint="restore it from a copy, or delete it to have a new one made")
    candidates = [
        Candidate(key=file.public, name=file.name, references=frozenset({str(file.path)})) for file in usable.values()
    ]
    meant = usable[identify.resolve(key, candidates, what="key", look="wasmhost keys list", where="among yours").key]
    secret = {"seed": KeyPair.from_seed(meant.path.read_text().strip()).seed} if seed else {}
    if app.output.json:
        app.output.document(key_document(meant) | secret)
    else:
        app.output.text(secret["seed"] if seed else meant.public)


def _write_new(path: Path, seed: str) -> None:
    """Write the seed, 0600. Raises FileExistsError rather than replace a key."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(seed + "\n")
    except OSError as error:
        path.unlink()  # half a seed is no key, and would be in the way of one
        raise OSError(error.errno, error.strerror, str(path)) from error
