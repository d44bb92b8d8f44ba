"""The provider of ``wasmcloud:httpserver``: links become routes, addresses become listeners."""

from __future__ import annotations

import asyncio
import resource
import socket
from contextlib import suppress
from typing import Final

import structlog

from lattice.background import Background, begin
from lattice.errors import Code
from lattice.links import LinkDefinition
from providers.handover import Predecessor
from providers.httpserver.listener import Listener, Room
from providers.httpserver.routes import Route, RouteClash, RouteTable
from providers.httpserver.settings import HttpLink, format_address, read_link
from providers.httpserver.tls import TlsFiles
from providers.provider import LinkFailed, Provider

log = structlog.get_logger()

CLOSE_TIMEOUT: Final = 10.0
"""Seconds that requests in flight get when the last link of their address is removed."""
STOP_TIMEOUT: Final = 5.0
"""The same when the provider stops."""
OWN_DESCRIPTORS: Final = 64
"""File descriptors kept for what is not a client's connection."""


class HttpServer(Provider):
    """One listener per address, shared by the links of several actors."""

    contract_id = "wasmcloud:httpserver"

    def __init__(self) -> None:
        self._listeners: dict[tuple[str, int], Listener] = {}
        self._links: dict[str, HttpLink] = {}
        """What is in effect, by actor. Settings files may have changed since it was read."""
        self._closing = Background()
        self._room = Room(_descriptors() - OWN_DESCRIPTORS)
        # Links of several actors change at the same time; an address must not be opened twice or closed in between.
        self._change = asyncio.Lock()
        self._following: asyncio.Task[None] | None = None

    async def started(self) -> None:
        if self.predecessor is not None:
            self._following = begin(self._follow(self.predecessor), "follow")

    async def link_added(self, link: LinkDefinition) -> None:
        wanted = await asyncio.to_thread(read_link, link.values)
        async with self._change:
            await self._route(link.actor_id, wanted)

    async def link_changed(self, old: LinkDefinition, new: LinkDefinition) -> None:
        wanted = await asyncio.to_thread(read_link, new.values)
        async with self._change:
            before = self._links[old.actor_id]
            await self._route(new.actor_id, wanted)
            if before.address != wanted.address:
                self._unroute(old.actor_id, before.address, CLOSE_TIMEOUT)

    async def link_removed(self, link: LinkDefinition) -> None:
        async with self._change:
            self._unroute(link.actor_id, self._links.pop(link.actor_id).address, CLOSE_TIMEOUT)

    def listening(self, name: str) -> socket.socket | None:
        if self.predecessor is not None and not self.predecessor.gone.is_set():
            return None  # it is not this process' turn yet, and three would have the socket
        return next((one.listening for at, one in self._listeners.items() if format_address(at) == name), None)

    def leave(self) -> None:
        for listener in self._listeners.values():
            listener.leave()

    async def finish(self, timeout: float) -> None:
        await asyncio.gather(*(listener.finish(timeout) for listener in self._listeners.values()))

    async def stopped(self) -> None:
        if self._following is not None:
            self._following.cancel()
        if self.predecessor is not None:
            self.predecessor.close()
        if late := await self._closing.end(patience=STOP_TIMEOUT):
            log.warning("http.requests_abandoned", addresses=late)

    async def _route(self, actor: str, link: HttpLink) -> None:
        """Lead requests to ``actor``; opens the listener if it is the first of its address."""
        if link.unknown:
            log.warning("link.values_ignored", actor=actor, names=list(link.unknown))
        route = Route(actor=actor, host=link.host, path_prefix=link.path_prefix, policy=link.policy)
        shown = format_address(link.address)
        listener = self._listeners.get(link.address)
        try:
            routes = (listener.routes if listener else RouteTable()).with_route(route)
        except RouteClash as error:
            raise LinkFailed(f"{shown}: {error}", code=error.code) from error
        if listener is None:
            listener = Listener(link.address, self.lattice, room=self._room)
            listener.routes = routes  # before it listens: the first request finds its route
            taken = await self.predecessor.take(shown) if self.predecessor is not None else None
            await listener.open(link.tls, taken, beside=self._given_up(actor, link))
            self._listeners[link.address] = listener
            if taken is not None and self.predecessor is not None and self.predecessor.gone.is_set():
                listener.accept()
        else:
            if listener.tls != link.tls:
                others = [other.actor for other in listener.routes if other.actor != actor]
                if others:
                    raise LinkFailed(_disagreement(shown, others[0], listener.tls, link.tls), code=Code.CONFLICT)
                await listener.change_tls(link.tls)
            listener.routes = routes
        self._links[actor] = link

    def _given_up(self, actor: str, link: HttpLink) -> socket.socket | None:
        """The listening socket that a change of the link of ``actor`` leaves to nobody, where it has the same port.

        ``0.0.0.0:8080`` cannot be opened beside ``127.0.0.1:8080`` without its consent, and that is not closed before:
        the change may fail.
        """
        before = self._links.get(actor)
        listener = self._listeners.get(before.address) if before is not None else None
        if listener is None or listener.address[1] != link.address[1] or len(listener.routes) != 1:
            return None
        return listener.listening

    async def _follow(self, predecessor: Predecessor) -> None:
        """Accept at the addresses that were taken over once nobody else does."""
        await predecessor.gone.wait()
        for listener in self._listeners.values():
            listener.accept()
        log.info("http.took_over", addresses=len(self._listeners))

    def _unroute(self, actor: str, address: tuple[str, int], timeout: float) -> None:
        """Stop leading requests to ``actor``; frees the port when that was its last route."""
        listener = self._listeners.get(address)
        if listener is None:
            return
        listener.routes = listener.routes.without(actor)
        if not len(listener.routes):
            del self._listeners[address]
            listener.stop_listening()
            # Requests in flight may take as long as a call; the link change does not wait for them.
            self._closing.begin(_close(listener, timeout), f"close {address}")


def _disagreement(address: str, actor: str, there: TlsFiles | None, wanted: TlsFiles | None) -> str:
    return (
        f"{address} speaks {there or 'plain HTTP'} for the link of {actor}, and this link asks for "
        f"{wanted or 'plain HTTP'}; links of one address agree on cert_file and priv_key_file, "
        "so give both the same, or this one another address (example: 127.0.0.1:8443)"
    )


def _descriptors() -> int:
    """How many files this process may have open, after asking for as many as it may ask for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return soft if soft != resource.RLIM_INFINITY else 1_000_000


async def _close(listener: Listener, timeout: float) -> None:
    try:
        await listener.close(timeout)
    except Exception:
        log.exception("http.close_failed", address=format_address(listener.address))
