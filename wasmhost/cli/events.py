"""``wasmhost events``: what happens in the lattice, as it happens."""

from __future__ import annotations

import contextlib
import re
import textwrap
from datetime import UTC, datetime
from typing import Any

import click

from lattice import subjects
from lattice.cloudevents import Event
from lattice.document import Document
from lattice.errors import MalformedMessage
from lattice.observation import EventsRequest
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
    except (ValueError, OverflowError):  # the first and the last day there are have no local time
        return time[:20]


_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Age(click.ParamType[float]):
    """How long ago something was: ``90s``, ``10m``, ``2h``, ``1d``, or the time at which it was, in RFC 3339."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text = str(value).strip()
        if match := re.fullmatch(r"(\d{1,9})([smhd])", text):
            return float(match[1]) * _UNITS[match[2]]
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self.fail(f"'{text}' is neither an age such as 10m nor a time such as 2026-01-31T12:00:00", param, ctx)
        return max(0.0, (datetime.now(UTC) - moment.astimezone(UTC)).total_seconds())


async def remembered(session: Session, age: float) -> list[Event]:
    """The events of the last ``age`` seconds that the hosts of the lattice remember, each once, oldest first."""
    subject = subjects.Control(session.context.lattice, session.context.control_prefix).observe_events()
    found: dict[str, Event] = {}
    for reply in await session.gather(subject, EventsRequest(age=age).to_dict()):
        for value in Document("events", reply).items("events"):
            with contextlib.suppress(MalformedMessage):
                event = Event.of(value)
                found.setdefault(event.id, event)
    return sorted(found.values(), key=lambda event: event.time)


@click.command(short_help="follow what happens in the lattice")
@click.option("--name", "names", multiple=True, metavar="NAME", help="Only these, such as actors_started. Repeatable.")
@click.option("--count", type=click.IntRange(1), help="End after that many.")
@click.option("--since", type=Age(), metavar="AGE", help="Show what happened since then: 10m, 2h, or a time.")
@click.option("-f", "--follow", is_flag=True, help="Go on with new ones; the usual without --since.")
@lattice_options
@pass_app
def events(app: App, *, names: tuple[str, ...], count: int | None, since: float | None, follow: bool) -> None:
    """Print events as they happen, until Ctrl-C. With -o json, one JSON document per line.

    With --since, those that the hosts of the lattice remember, and then the end, unless --follow is given too.
    """

    async def work(session: Session) -> None:
        left = count

        def show(event: Event) -> bool:
            """Print one event if it is wanted; True when it was the last."""
            nonlocal left
            if names and event.name not in names:
                return False
            if app.output.json:
                app.output.line(event_document(event))
            else:
                app.output.block(describe(event, app.output.width))
            left = None if left is None else left - 1
            return left == 0

        if since is not None and not follow:
            await session.some_hosts()
            found = await remembered(session, since)
            if not found:
                app.output.say("No host remembers an event since then.")
            any(show(event) for event in found)
            return
        async with session.client.events() as stream:
            past = await remembered(session, since) if since is not None else []
            app.output.say(f"Following lattice '{session.context.lattice}'; Ctrl-C ends it.")
            if any(show(event) for event in past):
                return
            known = {event.id for event in past}
            async with session.telling_gaps():
                async for event in stream:
                    if event.id not in known and show(event):
                        return

    with contextlib.suppress(KeyboardInterrupt):  # the usual end
        app.run(work)
