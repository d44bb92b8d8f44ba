"""``--watch``: show a result again whenever it changed, over one connection, until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import io
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lattice.errors import LatticeError
from wasmhost.cli import problems
from wasmhost.cli.app import TOLD_AS_ERRORS, App
from wasmhost.cli.output import Output

if TYPE_CHECKING:
    from wasmhost.cli.session import Session

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])

INTERVAL = 2.0
"""Seconds between two looks; an event in the lattice brings the next one forward."""
_SETTLE = 0.1
"""Seconds after an event before the look, since one change tells itself in several events."""
_ALWAYS_CHANGING = {"uptime_seconds"}
_CLEAR_SCREEN = "\x1b[H\x1b[2J\x1b[3J"


def watch_option(command: F) -> F:
    """Add ``--watch`` to a command that asks the lattice once and shows the answer."""

    @functools.wraps(command)
    def wrapper(*arguments: Any, watch: bool, **options: Any) -> Any:
        if not watch:
            return command(*arguments, **options)
        app = click.get_current_context().find_object(App)
        assert app is not None
        with contextlib.suppress(KeyboardInterrupt):  # the usual end
            _watch(app, lambda: command(*arguments, **options))
        return None

    return click.option("-w", "--watch", is_flag=True, help="Show it again whenever it changed, until Ctrl-C.")(wrapper)  # type: ignore[return-value]


class Held:
    """A connection that is kept between the looks; it stands in for the one that each command makes."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._runner = asyncio.Runner()
        self._parts = AsyncExitStack()
        self._session: Session | None = None
        self._changed = asyncio.Event()
        self._follower: asyncio.Task[None] | None = None
        self._last: Any = None
        self._fresh = False

    def run(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """What ``work`` found in this look: asked once, however often it is shown."""
        if not self._fresh:
            self._last = self._runner.run(self._ask(work))
            self._fresh = True
        result: T = self._last
        return result

    def wait(self) -> None:
        """Return when something may have changed."""
        self._runner.run(self._wait())
        self._fresh = False

    def close(self) -> None:
        try:
            self._runner.run(self._close())
        finally:
            self._runner.close()

    async def _ask(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        from wasmhost.cli.session import Session

        if self._session is None:
            self._session = await self._parts.enter_async_context(Session.open(self._app.context(), self._app.output))
            events = await self._parts.enter_async_context(self._session.client.events())

            async def follow() -> None:
                async for _ in events:
                    self._changed.set()

            self._follower = asyncio.create_task(follow(), name="follow events")
        self._session.forget()
        self._changed.clear()
        return await work(self._session)

    async def _wait(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(INTERVAL):
                await self._changed.wait()
                await asyncio.sleep(_SETTLE)

    async def _close(self) -> None:
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.wait({self._follower})
        await self._parts.aclose()


def _watch(app: App, show: Callable[[], Any]) -> None:
    """Call ``show`` for each look and print what it shows when that differs from the look before."""
    from wasmhost import logs

    output = app.output
    logs.configure("warning", structured=output.json, told_otherwise=TOLD_AS_ERRORS)
    screen = sys.stdout.isatty() and not output.json
    app.held = held = Held(app)
    before: object = None
    failure = ""
    first = True
    try:
        while True:
            try:
                facts = _without_clocks(json.loads(_shown(app, "json", show) or "null"))
                # on a terminal durations go on, in a file only a change is worth another copy
                if screen or first or facts != before:
                    if screen:
                        sys.stdout.write(_CLEAR_SCREEN)
                    elif not first and not output.json:
                        output.text()
                    if output.json:
                        output.line(json.loads(_shown(app, "json", show)))
                    else:
                        output.block(_shown(app, "text", show).rstrip("\n"))
                before, failure = facts, ""
            except (LatticeError, problems.Problem) as error:
                if first:
                    raise
                if str(error) != failure:  # a server that restarts is no reason to stop looking
                    failure, before = str(error), None
                    output.say(f"Waiting: {failure}")
            first = False
            held.wait()
    finally:
        app.held, app.output = None, output
        held.close()


def _shown(app: App, form: str, show: Callable[[], Any]) -> str:
    """What ``show`` prints in one form; what it says besides the data is part of the picture."""
    text = io.StringIO()
    usual, app.output = app.output, Output(form, out=text, err=text)
    try:
        show()
    finally:
        app.output = usual
    return text.getvalue()


def _without_clocks(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_clocks(item) for name, item in value.items() if name not in _ALWAYS_CHANGING}
    if isinstance(value, list):
        return [_without_clocks(item) for item in value]
    return value
