"""``wasmhost doctor``."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import click

from wasmhost import logs
from wasmhost.cli.app import App, lattice_options, name_option
from wasmhost.cli.doctor.findings import Finding
from wasmhost.cli.doctor.machine import check_machine
from wasmhost.cli.doctor.reach import check_lattice
from wasmhost.cli.doctor.report import report
from wasmhost.cli.doctor.security import security


@click.group(
    "doctor",
    invoke_without_command=True,
    short_help="look for what may keep things from working",
)
@name_option
@lattice_options
@click.pass_context
def doctor(context: click.Context) -> int | None:
    """Check this machine and the lattice: versions, engine, ports, keys, NATS, clocks, and who may call whom.

    Each line is ok, warn or fail, with what to do about it. Exit code 1 when something fails. Nothing is changed.
    """
    if context.invoked_subcommand is not None:
        return None
    app = context.ensure_object(App)
    logs.configure("error", structured=app.output.json)
    return asyncio.run(report(app, _checks(app)))


async def _checks(app: App) -> AsyncIterator[Finding]:
    for finding in check_machine(app):
        yield finding
    async for finding in check_lattice(app):
        yield finding


doctor.add_command(security)
