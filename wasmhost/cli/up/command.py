"""``wasmhost up``."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from lattice.keys import holds_seed
from wasmhost.cli.app import App, context_option, nats_files, output_option, pass_app
from wasmhost.cli.problems import invalid
from wasmhost.control.labels import RESERVED


@click.command(short_help="bring up a whole lattice and its applications")
@click.argument("manifests", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "--hosts", type=click.IntRange(1, 64), default=1, metavar="N", help="So many hosts, each a process (default: 1)."
)
@click.option("--detach", is_flag=True, help="Return once all of it is ready; `wasmhost down` stops it.")
@click.option("--report-to", type=int, hidden=True)
@click.option("--fresh", is_flag=True, help="Forget what applications stored and start empty.")
@click.option(
    "--nats-url", envvar="WASMHOST_NATS_URL", metavar="URL", help="Use this NATS server instead of bringing one along."
)
@nats_files
@click.option("-x", "--lattice", metavar="NAME", help="Lattice name (default: default).")
@click.option("--name", metavar="NAME", help="Name of this host; a second one beside the first needs it.")
@click.option("--state", metavar="DIR", help="Folder with keys and data (default: that of the user).")
@click.option("--trust", multiple=True, metavar="ACCOUNT", help="Account whose actors may run here. Repeatable.")
@click.option("--label", multiple=True, metavar="KEY=VALUE", help="Label of every host. Repeatable.")
@click.option(
    "--host-label",
    "host_label_texts",
    multiple=True,
    metavar="N:KEY=VALUE",
    help="Label of the host number N, which counts from 1. Repeatable.",
)
@click.option("--no-local", is_flag=True, help="Calls between actors of this host take the way over NATS.")
@click.option("--guest-threads", is_flag=True, help="Run actors on threads, not on the event loop: a fallback.")
@click.option("--allow-anonymous-nats", is_flag=True, help="Accept a remote NATS server that asks for no credentials.")
@click.option("--provider-keys", type=click.Choice(["derived", "cluster"]), help="Keys that providers sign with.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level to show.")
@click.option("--verbose", is_flag=True, help="Show what the host does, too.")
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Wait for each step.")
@context_option
@output_option
@pass_app
def up(
    app: App,
    /,
    *,
    manifests: tuple[Path, ...],
    hosts: int,
    detach: bool,
    report_to: int | None,
    fresh: bool,
    nats_url: str | None,
    host_label_texts: tuple[str, ...],
    verbose: bool,
    timeout: float | None,
    **flags: object,
) -> int:
    """Start a NATS server, a host and the applications of the MANIFESTS; print the URLs that answer.

    \b
    wasmhost up manifests/kvcounter.yaml

    Runs until Ctrl-C, which stops everything it started. What applications stored is there again next time. Unsigned
    actors in local files are signed with your development key.
    """
    given, environ = app.for_host({**flags, "nats_url": nats_url})
    nats_url = str(given["nats_url"]) if "nats_url" in given else environ.get("WASMHOST_NATS_URL")
    if fresh and nats_url:
        raise invalid("--fresh empties the server that `up` brings along, not the one at --nats-url", "leave one out")
    host_labels = _host_labels(host_label_texts, hosts)
    if detach:
        from wasmhost.cli.up.background import arguments_of, launch
        from wasmhost.configuration import config

        paths = config.load(given, environ).paths
        arguments = arguments_of(click.get_current_context(), without="detach")
        named = ["--context", app.context_name] if app.context_name else []
        return launch([*named, *arguments], paths, app.output)
    from wasmhost.cli.up.bring_up import Plan, bring_up
    from wasmhost.keys.secret_wiping import wipe_settings

    plan = Plan(
        manifests=manifests,
        flags={**given, "nats_url": nats_url or None},
        environ=environ,
        nats_url=nats_url or None,
        fresh=fresh,
        hosts=hosts,
        verbose=verbose,
        timeout=timeout,
        host_labels=host_labels,
        report_to=report_to,
    )
    wipe_settings(plan.flags)
    return asyncio.run(bring_up(plan, app.output))


def _host_labels(texts: tuple[str, ...], hosts: int) -> dict[int, dict[str, str]]:
    """The labels of single hosts, typed as N:KEY=VALUE. Raises Problem."""
    found: dict[int, dict[str, str]] = {}
    for text in texts:
        number, colon, rest = text.partition(":")
        name, equals, value = rest.partition("=")
        if not colon or not equals or not name.strip() or not (number.isascii() and number.isdigit()):
            raise invalid(f"--host-label: '{text}' is not N:KEY=VALUE", "for example --host-label 2:zone=south")
        if not 1 <= int(number) <= hosts:
            raise invalid(f"--host-label: there is no host {number} with --hosts {hosts}", "the first one is 1")
        if name.startswith(RESERVED) or holds_seed(value):
            raise invalid(f"--host-label: {name} cannot be set", f"{RESERVED}… is detected, and a seed is no label")
        found.setdefault(int(number), {})[name.strip()] = value.strip()
    return found
