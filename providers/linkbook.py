"""The links of one provider process: what is wanted, what is in effect, and why they differ.

One worker per actor carries out changes in order; a link that fails is tried again. Calls see only links in effect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import structlog

from lattice.errors import LatticeError
from lattice.health import Condition, LinkStatus
from lattice.links import LinkDefinition
from providers.provider import Provider

log = structlog.get_logger()

FIRST_RETRY: Final = 0.5
LAST_RETRY: Final = 30.0
HOOK_TIMEOUT: Final = 15.0
"""Seconds that a hook of a provider may take."""

_STARTING: Final = LinkStatus(Condition.STARTING)
_REMOVED: Final = LinkStatus(Condition.REMOVED)


@dataclass(slots=True, eq=False)
class _Slot:
    """One actor's link. ``wanted`` is changed by messages, the rest by the worker alone."""

    wanted: LinkDefinition | None
    applied: LinkDefinition | None = None
    status: LinkStatus = _STARTING
    tried: LinkDefinition | None = None
    """What the last attempt was about; with ``wanted`` it tells whether ``status`` is the answer to a put."""
    trying: bool = False
    """A hook of the provider is at work on it."""
    news: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when ``wanted`` changed."""
    settled: list[asyncio.Future[LinkStatus]] = field(default_factory=list)
    """Those who asked for the outcome of the next attempt."""


class LinkBook:
    """Links by actor. ``put`` and ``delete`` never wait."""

    def __init__(self, provider: Provider, *, retry: tuple[float, float] = (FIRST_RETRY, LAST_RETRY)) -> None:
        self._provider = provider
        self._in_place = provider.changes_in_place()
        self._retry = retry
        self._slots: dict[str, _Slot] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._closing = False
        self.in_effect: dict[str, LinkDefinition] = {}
        """By actor; what a call is checked against."""

    def put(self, link: LinkDefinition) -> None:
        """Want this link. Putting the same again changes nothing, but tries a failed link at once."""
        if self._closing:
            return
        slot = self._slots.get(link.actor_id)
        if slot is None:
            slot = self._slots[link.actor_id] = _Slot(link)
        elif slot.wanted == link and slot.status.state in (Condition.READY, Condition.STARTING):
            return
        slot.wanted = link
        self._wake(link.actor_id, slot)

    def delete(self, actor: str) -> None:
        """Want no link of ``actor``."""
        slot = self._slots.get(actor)
        if slot is None or slot.wanted is None or self._closing:
            return
        slot.wanted = None
        self._wake(actor, slot)

    async def outcome(self, actor: str, timeout: float) -> LinkStatus:
        """The state that the last put or delete of ``actor`` leads to; the present one if that takes longer."""
        slot = self._slots.get(actor)
        if slot is None:
            return _REMOVED
        if slot.tried == slot.wanted and slot.status.state is not Condition.STARTING and not slot.news.is_set():
            return slot.status
        waiter: asyncio.Future[LinkStatus] = asyncio.get_running_loop().create_future()
        slot.settled.append(waiter)
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                return await waiter
        return slot.status

    def is_changing(self, actor: str) -> bool:
        """Whether a link of ``actor`` is being put into effect: :meth:`outcome` is worth waiting for then."""
        slot = self._slots.get(actor)
        return slot is not None and slot.wanted is not None and (slot.trying or slot.news.is_set())

    async def outcomes(self, timeout: float) -> None:
        """Return when every link was tried once, or after ``timeout`` seconds."""
        if self._slots:
            await asyncio.gather(*(self.outcome(actor, timeout) for actor in list(self._slots)))

    def statuses(self) -> Mapping[str, LinkStatus]:
        return {actor: slot.status for actor, slot in self._slots.items() if slot.wanted is not None}

    async def close(self, timeout: float) -> None:
        """Undo every link, within ``timeout`` seconds."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                for actor, slot in list(self._slots.items()):
                    slot.wanted = None
                    self._wake(actor, slot)
                if self._workers:
                    await asyncio.wait(list(self._workers.values()))
        for worker in list(self._workers.values()):
            worker.cancel()
        if self._workers:
            await asyncio.wait(list(self._workers.values()))

    def _wake(self, actor: str, slot: _Slot) -> None:
        slot.news.set()
        if actor not in self._workers:
            self._workers[actor] = asyncio.get_running_loop().create_task(self._work(actor, slot), name=f"link {actor}")

    async def _work(self, actor: str, slot: _Slot) -> None:
        """Bring ``applied`` to ``wanted``, until they agree."""
        delay, last = self._retry
        try:
            while True:
                slot.news.clear()
                wanted = slot.wanted
                slot.trying = True
                status = await self._attempt(actor, slot, wanted)
                slot.tried, slot.trying = wanted, False
                if wanted is slot.wanted:
                    self._settle(actor, slot, status)
                if slot.news.is_set():
                    delay = self._retry[0]
                    continue
                if status.state in (Condition.READY, Condition.REMOVED):
                    return
                with suppress(TimeoutError):
                    async with asyncio.timeout(delay):
                        await slot.news.wait()
                delay = self._retry[0] if slot.news.is_set() else min(2 * delay, last)
        finally:
            del self._workers[actor]
            if slot.applied is None and slot.wanted is None:
                del self._slots[actor]
            for waiter in slot.settled:
                if not waiter.done():
                    waiter.set_result(slot.status)

    def _settle(self, actor: str, slot: _Slot, status: LinkStatus) -> None:
        if status != slot.status:
            event = log.warning if status.reason else log.info
            event("link." + status.state, actor=actor, **({"reason": status.reason} if status.reason else {}))
        slot.status = status
        for waiter in slot.settled:
            if not waiter.done():
                waiter.set_result(status)
        slot.settled.clear()

    async def _attempt(self, actor: str, slot: _Slot, wanted: LinkDefinition | None) -> LinkStatus:
        old = slot.applied
        if wanted == old:
            return LinkStatus(Condition.READY) if wanted is not None else _REMOVED
        if wanted is not None and old is not None and self._in_place:
            reason = await self._hook(self._provider.link_changed, old, wanted)
            if reason:
                return LinkStatus(Condition.DEGRADED, f"{reason}; the link's earlier values stay in effect")
        else:
            if old is not None:
                self.in_effect.pop(actor, None)
                slot.applied = None
                await self._hook(self._provider.link_removed, old)  # a failure is logged; the link is gone anyway
            if wanted is None:
                return _REMOVED
            if reason := await self._hook(self._provider.link_added, wanted):
                return LinkStatus(Condition.FAILED, reason)
        slot.applied = self.in_effect[actor] = wanted
        return LinkStatus(Condition.READY)

    async def _hook(self, hook: Callable[..., Awaitable[None]], *links: LinkDefinition) -> str:
        """Run one hook of the provider; the reason why it failed, or nothing."""
        name = getattr(hook, "__name__", "hook")
        fields: dict[str, Any] = {"actor": links[0].actor_id, "hook": name}
        try:
            async with asyncio.timeout(HOOK_TIMEOUT):
                await hook(*links)
        except LatticeError as error:
            return str(error)
        except TimeoutError:
            log.warning("link.hook_timed_out", **fields, seconds=HOOK_TIMEOUT)
            return f"not done within {HOOK_TIMEOUT:g} s"
        except Exception as error:
            log.exception("link.hook_failed", **fields)
            return f"internal error in {name}: {type(error).__name__}"
        return ""
