"""``wasmhost events``: what happens in the lattice, as it happens."""

from __future__ import annotations

import contextlib
import textwrap
from datetime import datetime
from typing import Any

import click

from lattice.events import Event
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.identify import KEY_LENGTH
from wasmhost.cli.output import printable, shorten
from wasmhost.cli.session import Session

_SAID_ELSEWHERE = {"annotations", "claims", "labels", "instance_id", "id", "host_id", "api_version", "values"}


def event_document(event: Event) -> dict[str, Any]:
    """One event as ``-o json`` shows it."""
    return {
        "name": event.name,
        "source": event.source,
        "id": event.id,
        "time": event.time,
        "data": dict(event.data),
    }


def describe(event: Event, width: int) -> str:
    """One event in short: when, what, where, and what its data say; below its beginning where that is long."""
    parts = [_clock(event.time), event.name.ljust(22), shorten(event.source, 9) or "-"]
    for name, value in event.data.items():
        if name in _SAID_ELSEWHERE or value in (None, "", {}, []) or isinstance(value, dict | list):
            continue
        text = str(value)
        parts.append(f"{name}={shorten(text, 13) if len(text) == KEY_LENGTH else text}")
    line = printable(" ".join(parts))
    return textwrap.fill(line, width, subsequent_indent=" " * 9, break_long_words=False, break_on_hyphens=False)


def _clock(time: str) -> str:
    """The local time of day of an RFC 3339 time; the text itself when it is none."""
    try:
        return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S")
    except ValueError:
        return time[:20]


@click.command(short_help="follow what happens in the lattice")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only these, such as actors_started. Repeatable.")
@click.option("--count", type=click.IntRange(1), help="End after that many.")
@lattice_options
@pass_app
def events(app: App, names: tuple[str, ...], count: int | None) -> None:
    """Print events as they happen, until Ctrl-C. With -o json, one JSON document per line."""

    async def work(session: Session) -> None:
        left = count
        async with session.client.events() as stream:
            app.output.say(f"Following lattice '{session.context.lattice}'; Ctrl-C ends it.")
            async for event in stream:
                if names and event.name not in names:
                    continue
                if app.output.json:
                    app.output.line(event_document(event))
                else:
                    app.output.text(describe(event, app.output.width))
                if left is not None and (left := left - 1) == 0:
                    return

    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        app.run(work)
