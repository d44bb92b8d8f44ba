"""``wasmhost ctx``: named lattices."""

from __future__ import annotations

from pathlib import Path

import click

from lattice.addresses import shown
from lattice.errors import LatticeError
from lattice.keys import Role
from lattice.login import TlsFiles, read_credentials
from wasmhost.cli.app import App, context_names, output_option, pass_app
from wasmhost.cli.output import Column, Row
from wasmhost.cli.problems import invalid
from wasmhost.cli.signing import read_seed
from wasmhost.contexts import context as resolving
from wasmhost.contexts.context_files import ContextFile, ContextStore, context_document, describe


@click.command("list", short_help="the contexts of this user")
@output_option
@pass_app
def list_contexts(app: App) -> None:
    """Show the contexts, the default one marked, and where commands work now."""
    store = app.contexts
    default = store.default_name()
    found: list[ContextFile] = []
    broken: dict[str, str] = {}
    for name in store.names():
        try:
            found.append(describe(store, name))
        except LatticeError as error:
            broken[name] = str(error)
    if app.output.json:
        app.output.document(
            {
                "contexts": [{**context_document(one), "default": one.name == default} for one in found],
                "default": default or None,
                "unusable": broken,
            }
        )
        return
    rows = [_row(one, one.name == default) for one in found]
    rows += [Row([name + "*" * (name == default), "", ""], notes=[reason]) for name, reason in broken.items()]
    if rows:
        app.output.table([Column("CONTEXT", 12), Column("NATS", 20), Column("LATTICE", 8)], rows)
    else:
        app.output.say("There are no contexts; make one with `wasmhost ctx new NAME --nats-url URL`.")
    _say_current(app)


def _row(one: ContextFile, is_default: bool) -> Row:
    notes = [
        f"{what} {value}"
        for what, value in (
            ("credentials", one.credentials),
            ("TLS authority", one.tls_ca),
            ("client certificate", one.tls_cert),
            ("cluster seed", one.cluster_seed_file),
            ("control subjects below", one.ctl_prefix),
        )
        if value
    ]
    return Row([one.name + "*" * is_default, shown(one.nats_url) or "-", one.lattice or "-"], notes=notes)


def _say_current(app: App) -> None:
    try:
        context = app.context()
    except LatticeError as error:
        for line in f"Commands cannot work now: {error}".splitlines():
            app.output.say(line)
        return
    source = "" if context.source == "default" else f", after {context.source}"
    app.output.say(f"Commands work in lattice '{context.lattice}' at {shown(context.nats_url)}{source}.")


@click.command(short_help="make a context")
@click.argument("name")
@click.option("--nats-url", default="", metavar="URL", help="NATS server.")
@click.option("-x", "--lattice", default="", metavar="NAME", help="Lattice name.")
@click.option("--creds", "credentials", default="", metavar="FILE", help="NATS credentials file.")
@click.option("--tls-ca", default="", metavar="FILE", help="Authority that the server's certificate is from.")
@click.option("--tls-cert", default="", metavar="FILE", help="Client certificate for the server.")
@click.option("--tls-key", default="", metavar="FILE", help="Its private key.")
@click.option("--tls-name", default="", metavar="NAME", help="Name in the server's certificate, if another.")
@click.option("--inbox-prefix", default="", metavar="PREFIX", help="Where replies arrive (default: _INBOX).")
@click.option("--cluster-seed", default="", metavar="FILE", help="File with the seed that signs calls.")
@click.option("--ctl-topic-prefix", "ctl_prefix", default="", metavar="PREFIX", help="Root of the control subjects.")
@click.option("--default", "make_default", is_flag=True, help="Make it the default.")
@click.option("--force", is_flag=True, help="Replace one of that name.")
@output_option
@pass_app
def new(
    app: App,
    *,
    name: str,
    nats_url: str,
    lattice: str,
    credentials: str,
    tls_ca: str,
    tls_cert: str,
    tls_key: str,
    tls_name: str,
    inbox_prefix: str,
    cluster_seed: str,
    ctl_prefix: str,
    make_default: bool,
    force: bool,
) -> None:
    """Make the context NAME: a name for a lattice, for --context, WASMHOST_CONTEXT or as the default.

    \b
    wasmhost ctx new prod --nats-url tls://nats.example:4222 \\
        --creds ~/prod.creds --cluster-seed ~/prod-cluster.nk

    Files are named, not copied.
    """
    _check(nats_url, lattice, ctl_prefix)
    members = {
        "lattice": lattice,
        "nats_url": nats_url,
        "credentials": _credentials(credentials),
        "cluster_seed_file": _cluster_seed(cluster_seed),
        "ctl_prefix": ctl_prefix,
        "inbox_prefix": inbox_prefix,
        **_tls(TlsFiles(ca=tls_ca, certificate=tls_cert, key=tls_key, name=tls_name)),
    }
    if not any(members.values()):
        raise invalid("a context without any setting says nothing", "give it --nats-url, --lattice or another setting")
    store = app.contexts
    path = store.write(name, members, replacing=force)
    if make_default:
        store.set_default(name)
    if app.output.json:
        app.output.document(_document(store, name))
        return
    app.output.text(f"made context {name}{', the default' if make_default else ''}: {path}")


def _document(store: ContextStore, name: str) -> dict[str, object]:
    return {**context_document(describe(store, name)), "default": store.default_name() == name}


def _check(nats_url: str, lattice: str, ctl_prefix: str) -> None:
    """Raises ContextError with every one that cannot be used."""
    resolving.resolve(
        environ={"WASMCLOUD_CTL_TOPIC_PREFIX": ctl_prefix}, nats_url=nats_url or None, lattice=lattice or None
    )


def _credentials(text: str) -> str:
    if not text:
        return ""
    path = Path(text).expanduser().absolute()
    try:
        read_credentials(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise invalid(f"{path} is no NATS credentials file: {reason}", "name the .creds file of a NATS user") from None
    return str(path)


def _tls(files: TlsFiles) -> dict[str, str]:
    """As members of a context. Raises LatticeError for files that cannot be used."""
    paths = {"tls_ca": files.ca, "tls_cert": files.certificate, "tls_key": files.key}
    found = {name: str(Path(text).expanduser().absolute()) if text else "" for name, text in paths.items()}
    TlsFiles(ca=found["tls_ca"], certificate=found["tls_cert"], key=found["tls_key"], name=files.name).context()
    return {**found, "tls_name": files.name}


def _cluster_seed(text: str) -> str:
    if not text:
        return ""
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        raise invalid("--cluster-seed names no file", "write the seed into a file of yours with mode 600 and name that")
    read_seed(str(path), Role.CLUSTER)
    return str(path)


@click.command("del", short_help="remove a context")
@click.argument("name", shell_complete=context_names)
@output_option
@pass_app
def delete(app: App, name: str) -> None:
    """Remove the context NAME. The files that it names stay."""
    was_default = app.contexts.delete(name)
    if app.output.json:
        app.output.document({"deleted": name, "was_default": was_default})
        return
    app.output.text(f"removed context {name}")
    if was_default:
        app.output.say("It was the default; there is none now.")


@click.command(short_help="choose the context of commands that name none")
@click.argument("name", required=False, shell_complete=context_names)
@click.option("--none", "clear", is_flag=True, help="Have no default.")
@output_option
@pass_app
def default(app: App, name: str | None, clear: bool) -> None:
    """Make the context NAME the default; without NAME, show which one is."""
    store = app.contexts
    if name and clear:
        raise invalid("either a name or --none", "leave one out")
    if name or clear:
        store.set_default(name or "")
    chosen = store.default_name()
    if app.output.json:
        app.output.document({"default": chosen or None})
    elif chosen:
        app.output.text(f"the default context is {chosen}" if name else chosen)
    else:
        app.output.say("There is no default context.")
