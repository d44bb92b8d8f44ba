"""``wasmhost host``: one host as a daemon."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wasmhost.cli.app import App, context_option, nats_files, output_option, pass_app
from wasmhost.cli.classic_host import classic_host_flags
from wasmhost.cli.signals import ending_signals

if TYPE_CHECKING:
    from wasmhost.configuration.config import HostConfig


@click.command(short_help="run one host for a NATS server that runs already")
@click.option("--nats-url", metavar="URL", help="NATS server (default: nats://127.0.0.1:4222).")
@nats_files
@click.option("-x", "--lattice", metavar="NAME", help="Lattice name (default: default).")
@click.option("--trust", multiple=True, metavar="ACCOUNT", help="Account whose actors may run here. Repeatable.")
@click.option("--allow-file-load", is_flag=True, help="Actors may be started from files of this machine.")
@click.option("--name", metavar="NAME", help="Name of this host; a second one beside the first needs it.")
@click.option("--state", metavar="DIR", help="Folder with keys and data (default: that of the user).")
@click.option("--host-seed", metavar="SEED", help="Key of the host, SN… (default: kept in the state folder).")
@click.option("--cluster-seed", metavar="SEED", help="Key of the cluster, SC… (default: shared by your hosts).")
@click.option("--cluster-issuers", metavar="KEYS", help="Other clusters whose calls are accepted, comma-separated.")
@click.option("-l", "--label", multiple=True, metavar="KEY=VALUE", help="Label of this host. Repeatable.")
@click.option("--ctl-topic-prefix", metavar="PREFIX", help="Root of the control subjects (default: wasmbus.ctl).")
@click.option("--js-domain", metavar="NAME", help="JetStream domain.")
@click.option("--rpc-timeout-ms", metavar="MS", help="Time for a call whose caller names none (default: 2000).")
@click.option("--drain-timeout-ms", metavar="MS", help="Time for calls in flight at the end (default: 10000).")
@click.option("--provider-keys", type=click.Choice(["derived", "cluster"]), help="Keys that providers sign with.")
@click.option("--policy-topic", metavar="SUBJECT", help="Service that has to permit what starts and is called here.")
@click.option("--policy-changes-topic", metavar="SUBJECT", help="Where that service changes its decisions.")
@click.option("--policy-timeout-ms", metavar="MS", help="Time for its answer; silence is a refusal (default: 1000).")
@click.option("--no-local", is_flag=True, help="Calls between actors of this host take the way over NATS.")
@click.option("--guest-threads", is_flag=True, help="Run actors on threads, not on the event loop: a fallback.")
@click.option("--allow-anonymous-nats", is_flag=True, help="Accept a remote NATS server that asks for no credentials.")
@click.option("--no-restore", is_flag=True, help="Neither remember what is started here nor bring it back.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least level to log.")
@click.option(
    "--structured-logging/--no-structured-logging",
    default=None,
    callback=lambda _context, _option, value: None if value is None else str(value),  # "no" is more than not "yes"
    help="Log lines as JSON, or as text (default: text to a terminal, JSON to anything else).",
)
@click.option(
    "--config",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    metavar="FILE",
    help="Settings as JSON or YAML, - for standard input; flags and variables go first.",
)
@classic_host_flags
@context_option
@output_option
@pass_app
def host(app: App, /, *, file: Path | None, **flags: object) -> None:
    """Run one host until SIGTERM or Ctrl-C. It logs to standard error.

    \b
    wasmhost host --trust ACCOUNT --allow-file-load

    Every flag has an environment variable of the classic hosts, WASMCLOUD_…, where those have it.
    """
    from wasmhost import logs
    from wasmhost.configuration import config as host_config
    from wasmhost.keys.secret_wiping import wipe_settings

    given, environ = app.for_host(flags)
    config = host_config.load(given, environ, file)
    wipe_settings(given)
    logs.configure(config.log_level, structured=True if app.output.json else config.structured_logging)
    asyncio.run(_run(config))


async def _run(config: HostConfig) -> None:
    """The host from its start to the end of its last part."""
    from wasmhost.host import Host

    stop = asyncio.Event()
    with ending_signals(stop.set):
        async with Host(config) as host:
            await host.run_until(stop)
