"""Calls along a link whose provider may be learning of that link just now."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from lattice.errors import RemoteError
from lattice.links import LinkDefinition, LinkTable
from lattice.verify import is_unlinked_refusal
from wasmhost.calls.holding import Holding, Path

_PAUSES: Final = (0.05, 0.1, 0.2, 0.4)
"""Seconds for a provider to take up a link of which it said that it does not know it; before the last of them it is
told once more. Not earlier: its own host may be telling it newer values than this host knows."""
_GIVEN_UP_FOR: Final = 5.0
"""Seconds in which a link that its provider will not take up costs its calls no time."""
_MOST_PATHS: Final = 4096


class LinksView(Protocol):
    """The links of the lattice."""

    @property
    def links(self) -> LinkTable:
        """The current snapshot; a change replaces the object."""


class LinkedCalls:
    """Sends calls along links, so that a change of a link fails none of them."""

    def __init__(
        self,
        view: LinksView,
        *,
        holding: Holding | None = None,
        repeat_link: Callable[[LinkDefinition], None] = lambda link: None,
    ) -> None:
        """``holding`` says which calls have to wait; ``repeat_link`` tells a provider of a link once more."""
        self._view = view
        self._holding = holding or Holding()
        self._repeat_link = repeat_link
        self._given_up: dict[Path, float] = {}
        self._loop = asyncio.get_running_loop()

    async def call(self, link: LinkDefinition, allowed: float, send: Callable[[float], Awaitable[bytes]]) -> bytes:
        """What ``send(seconds)`` returns or raises, within ``allowed`` seconds; Unreachable while the call is held.

        It may be sent several times: a provider that says that it does not know the link has done nothing. A classic
        one does not know it while its host tells it other values; and when messages of two hosts crossed, until it is
        told again.
        """
        path = link.actor_id, link.provider_id, link.link_name
        holding, deadline = self._holding, self._loop.time() + allowed
        for pause in (*_PAUSES, None):
            if holding.is_held(path):
                await holding.wait(path, allowed)
                allowed = deadline - self._loop.time()
            holding.enter(path)
            try:
                return await send(allowed)
            except RemoteError as refusal:
                current = self._view.links.get(link.key)
                if current is None or not self._may_repeat(refusal, current, path, pause, deadline):
                    raise
            finally:
                holding.leave(path)
            if pause == _PAUSES[-1]:
                self._repeat_link(current)
            await asyncio.sleep(pause or 0)
            allowed = deadline - self._loop.time()
        raise AssertionError("the last refusal is raised")

    def _may_repeat(
        self, refusal: RemoteError, current: LinkDefinition, path: Path, pause: float | None, deadline: float
    ) -> bool:
        actor, provider, _ = path
        if current.provider_id != provider or not is_unlinked_refusal(refusal, actor):
            return False
        now = self._loop.time()
        if pause is not None:
            return now + pause < deadline and now >= self._given_up.get(path, 0.0)
        if len(self._given_up) >= _MOST_PATHS:
            self._given_up.clear()
        self._given_up[path] = now + _GIVEN_UP_FOR
        return False
