"""The provider of ``wasmcloud:httpserver``: links become routes, addresses become listeners."""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from lattice.links import LinkDefinition
from providers.httpserver.listener import Listener
from providers.httpserver.routes import Route, RouteClash
from providers.httpserver.settings import HttpLink, format_address, read_link
from providers.provider import LinkFailed, Provider

log = structlog.get_logger()

CLOSE_TIMEOUT: Final = 10.0
"""Seconds that requests in flight get when the last link of their address is removed."""
STOP_TIMEOUT: Final = 5.0
"""The same when the provider stops."""


class HttpServer(Provider):
    """One listener per address, shared by the links of several actors."""

    contract_id = "wasmcloud:httpserver"

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._closing: set[asyncio.Task[None]] = set()
        # Links of several actors change at the same time; an address must not be opened twice or closed in between.
        self._change = asyncio.Lock()

    async def link_added(self, link: LinkDefinition) -> None:
        async with self._change:
            await self._route(link.actor_id, read_link(link.values))

    async def link_changed(self, old: LinkDefinition, new: LinkDefinition) -> None:
        settings, before = read_link(new.values), read_link(old.values)
        async with self._change:
            await self._route(new.actor_id, settings)
            if before.address != settings.address:
                self._unroute(old.actor_id, before.address, CLOSE_TIMEOUT)

    async def link_removed(self, link: LinkDefinition) -> None:
        async with self._change:
            self._unroute(link.actor_id, read_link(link.values).address, CLOSE_TIMEOUT)

    async def stopped(self) -> None:
        if self._closing:
            _, late = await asyncio.wait(self._closing, timeout=STOP_TIMEOUT)
            for task in late:
                task.cancel()
            if late:
                log.warning("http.requests_abandoned", addresses=len(late))
                await asyncio.wait(late)

    async def _route(self, actor: str, settings: HttpLink) -> None:
        """Lead requests to ``actor``; opens the listener if it is the first of its address."""
        if settings.unknown:
            log.warning("link.values_ignored", actor=actor, names=list(settings.unknown))
        route = Route(actor=actor, host=settings.host, path_prefix=settings.path_prefix)
        listener = self._listeners.get(settings.address)
        fresh = listener is None
        if listener is None:
            listener = Listener(settings.address, self.lattice)
        try:
            routes = listener.routes.with_route(route)
        except RouteClash as error:
            raise LinkFailed(f"{format_address(settings.address)}: {error}", code=error.code) from error
        before = listener.routes
        listener.routes = routes  # before it listens: the first request finds its route
        if settings.timeout is None:
            listener.timeouts.pop(actor, None)
        else:
            listener.timeouts[actor] = settings.timeout
        if fresh:
            try:
                await listener.open()
            except BaseException:
                listener.routes = before
                raise
            self._listeners[settings.address] = listener

    def _unroute(self, actor: str, address: tuple[str, int], timeout: float) -> None:
        """Stop leading requests to ``actor``; frees the port when that was its last route."""
        listener = self._listeners.get(address)
        if listener is None:
            return
        listener.routes = listener.routes.without(actor)
        listener.timeouts.pop(actor, None)
        if not len(listener.routes):
            del self._listeners[address]
            listener.stop_listening()
            # Requests in flight may take as long as a call; the link change does not wait for them.
            task = asyncio.get_running_loop().create_task(_close(listener, timeout), name=f"close {address}")
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


async def _close(listener: Listener, timeout: float) -> None:
    try:
        await listener.close(timeout)
    except Exception:
        log.exception("http.close_failed", address=format_address(listener.address))
