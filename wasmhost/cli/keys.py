"""``wasmhost keys``."""

from __future__ import annotations

import os
from pathlib import Path

import click

from lattice.keys import KeyPair, Role
from wasmhost.cli.app import App, output_option, pass_app

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


def _write_new(path: Path, seed: str) -> None:
    """Write the seed, 0600. Raises FileExistsError rather than replace a key."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(seed + "\n")
