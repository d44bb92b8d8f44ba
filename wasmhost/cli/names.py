"""Completion of what runs in the lattice: names, aliases and keys, asked of the lattice while the user waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

import click
from click.shell_completion import CompletionItem

from wasmhost.cli.app import App
from wasmhost.cli.identify import KEY_LENGTH

LONGEST = 1.5
"""Seconds that a user who pressed the tabulator key may have to wait."""

Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def _complete(found: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    """The words among ``found``, pairs of a word and its explanation, that go on from what was typed.

    Keys only once one was begun: nobody chooses from a list of keys.
    """
    folded = incomplete.casefold()
    fitting = {
        word: help
        for word, help in found
        if word and " " not in word and word.casefold().startswith(folded) and (folded or len(word) != KEY_LENGTH)
    }
    return [CompletionItem(word, help=help or None) for word, help in sorted(fitting.items())]


def _completer(ask: Callable[[Any], Any]) -> Completer:
    """Completes with what ``ask(session)`` finds; with nothing where no lattice answers in time."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
        app = ctx.find_object(App) or App()

        async def limited() -> list[tuple[str, str]]:
            from wasmhost.cli.session import Session

            async with asyncio.timeout(LONGEST), Session.open(app.context(), app.output) as session:
                found: list[tuple[str, str]] = await ask(session)
                return found

        try:
            return _complete(asyncio.run(limited()), incomplete)
        except Exception:  # an error would land in the middle of the line that the user types
            return []

    return complete


async def _hosts(session: Any) -> list[tuple[str, str]]:
    hosts = await session.hosts()
    return [pair for host in hosts for pair in ((host.friendly_name, host.id), (host.id, host.friendly_name))]


async def _actors(session: Any) -> list[tuple[str, str]]:
    from wasmhost.cli import actors

    inventories = await session.inventories()
    running = {actor.id for inventory in inventories for actor in inventory.actors}
    found = [one for one in actors.candidates(inventories, await session.client.claims()) if one.key in running]
    return [pair for one in found for pair in ((one.name, one.key), (one.alias, one.key), (one.key, one.name))]


async def _providers(session: Any) -> list[tuple[str, str]]:
    from wasmhost.cli import providers

    found = providers.candidates(await session.inventories())
    short = [(reference.removeprefix("bundled:"), one.key) for one in found for reference in one.references]
    return [*short, *(pair for one in found for pair in ((one.name, one.key), (one.key, one.name)))]


async def _all(session: Any) -> list[tuple[str, str]]:
    return [*await _actors(session), *await _providers(session)]


hosts = _completer(_hosts)
actors_of_lattice = _completer(_actors)
providers_of_lattice = _completer(_providers)
actors_and_providers = _completer(_all)
