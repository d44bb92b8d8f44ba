"""``wasmhost logs``: what an actor or provider says, and what hosts say of it, from every host in one stream."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import click

from lattice import subjects
from lattice.errors import LatticeError
from lattice.keys import Role, role_of
from lattice.observation import MOST_LINES, USUAL_LEASE, LogLine, LogLines
from lattice.observer import observe
from wasmhost.cli import actors, identify, providers
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.host_option import host_option
from wasmhost.cli.output import printable, shorten
from wasmhost.cli.session import Session

_LEVELS = ["debug", "info", "warning", "error"]
_ORDERING = 0.15
"""Seconds that lines are held while following, so that those of several hosts come in the order of their time."""


@dataclass(frozen=True, slots=True)
class Written:
    """A line, and the host whose log it is from."""

    host_id: str
    host_name: str
    line: LogLine

    def document(self) -> dict[str, Any]:
        """The line as ``-o json`` shows it."""
        return {
            "time": _moment(self.line.time_us).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "host_id": self.host_id,
            "host_name": self.host_name,
            "source": self.line.source,
            "level": self.line.level,
            "text": self.line.text,
            "fields": dict(self.line.fields),
        }

    def describe(self, *, with_host: bool, of_actor: bool) -> str:
        """The line for people. What the whole output is about is not said again in each line."""
        line = self.line
        parts = [_moment(line.time_us).astimezone().strftime("%H:%M:%S.%f")[:-3]]
        if with_host:
            parts.append(self.host_name or shorten(self.host_id, 13))
        parts.append(f"{line.source:<8}")
        if line.level not in ("info", "debug"):
            parts.append(f"{line.level}:")
        parts.append(line.text)
        told = {"provider", "link_name"} if line.source == "provider" and not of_actor else {"name"}
        parts += [f"{name}={value}" for name, value in line.fields.items() if name not in told]
        return printable(" ".join(parts))


@dataclass(slots=True)
class _Answers:
    """Lines from the hosts that answer one request."""

    wanted: set[str]
    """Hosts that have not answered to the end."""
    lines: list[Written] = field(default_factory=list)
    refusal: LatticeError | None = None

    def take(self, told: LogLines | LatticeError) -> None:
        if isinstance(told, LatticeError):
            self.refusal = told
            return
        self.lines += [Written(told.host_id, told.host_name, line) for line in told.lines]
        if not told.live and not told.more:
            self.wanted.discard(told.host_id)

    def drain(self) -> list[Written]:
        lines, self.lines = self.lines, []
        return sorted(lines, key=lambda written: written.line.time_us)


@click.command(short_help="what an actor or provider says")
@click.argument("name", shell_complete=complete.actors_and_providers)
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines, until Ctrl-C.")
@click.option(
    "-n", "--lines", type=click.IntRange(0, MOST_LINES), default=100, show_default=True, help="Last lines to show."
)
@host_option("Only from this host.")
@click.option("--level", type=click.Choice(_LEVELS), default="debug", help="Only this level and above.")
@lattice_options
@pass_app
def logs(app: App, *, name: str, follow: bool, lines: int, host_text: str | None, level: str) -> None:
    """Print the log lines of the actor or provider NAME from every host, in the order of their time.

    Hosts keep the last thousand lines of each. With -o json, one JSON document per line.
    """

    async def work(session: Session) -> None:
        hosts = await session.some_hosts()
        if host_text is not None:
            hosts = [await session.find_host(host_text)]
        key = await find(session, name)
        of_actor = role_of(key) is Role.MODULE
        subject = subjects.Control(session.context.lattice, session.context.control_prefix).observe_logs()
        ours = {host.id for host in hosts}
        printed = 0

        def show(found: list[Written]) -> None:
            nonlocal printed
            for written in found:
                if host_text is not None and written.host_id not in ours:
                    continue
                if _rank(written.line.level) < _LEVELS.index(level):
                    continue
                printed += 1
                if app.output.json:
                    app.output.line(written.document())
                else:
                    app.output.text(written.describe(with_host=len(hosts) > 1, of_actor=of_actor))

        lease = USUAL_LEASE if follow else 0.0
        async with observe(session.connection, subject, key, LogLines.from_dict, lines=lines, lease=lease) as stream:
            answers = _Answers(set(ours))
            await _collect(stream, answers, session.context.timeout)
            if answers.refusal is not None and not answers.lines:
                raise answers.refusal
            _say_silent(session, answers.wanted, {host.id: host.friendly_name for host in hosts})
            show(answers.drain()[-lines:] if lines else [])
            if not follow:
                if not printed:
                    app.output.say(f"No host has log lines of {name}.")
                return
            app.output.say(f"Following {name}; Ctrl-C ends it.")
            async with session.telling_gaps():
                while True:
                    answers.take(await anext(stream))
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_ORDERING):
                            while True:
                                answers.take(await anext(stream))
                    show(answers.drain())

    with contextlib.suppress(KeyboardInterrupt):  # the usual end of following
        app.run(work)


async def _collect(stream: AsyncIterator[LogLines | LatticeError], answers: _Answers, timeout: float) -> None:
    """Take answers until every host has given its own, for so many seconds at most."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout):
            while answers.wanted and answers.refusal is None:
                answers.take(await anext(stream))


def _say_silent(session: Session, silent: set[str], names: dict[str, str]) -> None:
    if silent:
        listed = ", ".join(sorted(names.get(host) or shorten(host, 13) for host in silent))
        session.output.say(f"No answer from {listed}: a classic host, or one that is busy.")


async def find(session: Session, text: str) -> str:
    """The key of the actor or provider that ``text`` means, running or known by its claims. Raises Problem."""
    if role_of(text) in (Role.MODULE, Role.SERVICE):
        return text

    async def look() -> str:
        inventories = await session.inventories()
        known = actors.candidates(inventories, await session.client.claims()) + providers.candidates(inventories)
        return identify.resolve(text, known, what="actor or provider", look="wasmhost get inventory").key

    return await session.find(look)


def _moment(microseconds: int) -> datetime:
    return datetime.fromtimestamp(microseconds / 1_000_000, UTC)


def _rank(level: str) -> int:
    """Where a level stands; an unknown one, as a foreign provider may have, above all others."""
    return _LEVELS.index(level) if level in _LEVELS else len(_LEVELS)
