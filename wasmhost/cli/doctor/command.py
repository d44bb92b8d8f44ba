"""``wasmhost doctor``."""

from __future__ import annotations

import asyncio
import textwrap
from collections.abc import AsyncIterator

import click

from wasmhost import logs
from wasmhost.cli.app import App, lattice_options, name_option, pass_app
from wasmhost.cli.doctor.findings import Finding, Level
from wasmhost.cli.doctor.machine import check_machine
from wasmhost.cli.doctor.reach import check_lattice
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Output, printable

_INDENT = " " * 19


@click.command(short_help="look for what may keep things from working")
@name_option
@lattice_options
@pass_app
def doctor(app: App) -> int:
    """Check this machine and the lattice: versions, engine, ports, keys, NATS, clocks, and who may call whom.

    Each line is ok, warn or fail, with what to do about it. Exit code 1 when something fails. Nothing is changed.
    """
    logs.configure("error", structured=app.output.json)
    findings = asyncio.run(_examine(app))
    failed = [finding for finding in findings if finding.level is Level.FAIL]
    if app.output.json:
        app.output.document({"ok": not failed, "checks": [finding.document() for finding in findings]})
    return ExitCode.FAILED if failed else ExitCode.DONE


async def _examine(app: App) -> list[Finding]:
    """All findings; as text, each is shown when it is there."""
    found = []
    async for finding in _checks(app):
        found.append(finding)
        if not app.output.json:
            show(app.output, finding)
    return found


async def _checks(app: App) -> AsyncIterator[Finding]:
    for finding in check_machine(app):
        yield finding
    async for finding in check_lattice(app):
        yield finding


def show(output: Output, finding: Finding) -> None:
    """``warn  clocks      the clock of …``, and the fix below."""
    head = f"{finding.level:<6}{finding.check:<13}"
    for number, text in enumerate(filter(None, (finding.message, finding.fix and f"-> {finding.fix}"))):
        output.text(
            textwrap.fill(
                printable(text),
                output.width,
                initial_indent=_INDENT if number else head,
                subsequent_indent=_INDENT,
                break_on_hyphens=False,
            )
        )
