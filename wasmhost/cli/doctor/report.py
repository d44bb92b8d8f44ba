"""Findings shown, as text one by one or as one document."""

from __future__ import annotations

import textwrap
from collections.abc import AsyncIterator

from wasmhost.cli.app import App
from wasmhost.cli.doctor.findings import Finding, Level
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Output, printable

_INDENT = " " * 19


async def report(app: App, checks: AsyncIterator[Finding]) -> ExitCode:
    """Show the findings, as text each when it is there; what they come to."""
    findings = []
    async for finding in checks:
        findings.append(finding)
        if not app.output.json:
            show(app.output, finding)
    bad = any(finding.level in (Level.FAIL, Level.FIX) for finding in findings)
    if app.output.json:
        app.output.document({"ok": not bad, "checks": [finding.document() for finding in findings]})
    return ExitCode.FAILED if bad else ExitCode.DONE


def show(output: Output, finding: Finding) -> None:
    """``warn  clocks      the clock of …``, and the fix below."""
    head = f"{finding.level:<6}{finding.check:<13}"
    for number, text in enumerate(filter(None, (finding.message, finding.fix and f"-> {finding.fix}"))):
        output.block(
            textwrap.fill(
                printable(text),
                output.width,
                initial_indent=_INDENT if number else head,
                subsequent_indent=_INDENT,
                break_on_hyphens=False,
            )
        )
