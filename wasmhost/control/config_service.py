"""Asks the lattice's configuration service, once, what this host should know and start."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import structlog

from lattice import document, subjects
from lattice.background import begin
from lattice.config_service import HostConfiguration
from lattice.errors import LatticeError, Unreachable
from lattice.transport import Transport
from wasmhost.actors.registry import ActorRegistry
from wasmhost.control.registries import Registries
from wasmhost.supervision.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

TIMEOUT: Final = 2.0
"""Seconds for the answer; without one the host goes on as it is."""


class ConfigService:
    """The service, as one host sees it."""

    def __init__(
        self,
        transport: Transport,
        lattice: str,
        *,
        labels: Callable[[], Mapping[str, str]],
        registries: Registries,
        actors: ActorRegistry,
        providers: ProviderSupervisor,
        restored: Callable[[], Awaitable[None]],
    ) -> None:
        """``restored`` returns when the host has brought back what it ran before."""
        self._transport = transport
        self._subject = subjects.config_service(lattice)
        self._labels = labels
        self._registries = registries
        self._actors = actors
        self._providers = providers
        self._restored = restored
        self._following: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Follow the service without waiting for it here."""
        self._following = begin(self.follow(), "configuration service")

    async def close(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait({self._following})

    async def follow(self) -> None:
        """Ask, and start what does not run yet; what fails shows in events and in the log."""
        try:
            question = document.encode({"labels": dict(self._labels())})
            reply = await self._transport.request(self._subject, question, timeout=TIMEOUT)
            told = HostConfiguration.parse(reply.payload)
            logins = self._registries.put(told.registry_credentials) if told.registry_credentials else 0
        except Unreachable as error:
            log.info("config_service.silent", subject=self._subject, reason=str(error))
            return
        except LatticeError as error:
            log.warning("config_service.not_understood", subject=self._subject, reason=str(error))
            return
        log.info("config_service.answered", actors=len(told.actors), providers=len(told.providers), registries=logins)
        await self._restored()  # with its own counts and configurations, which the service does not know
        await asyncio.gather(
            *(self._start_actor(reference) for reference in told.actors),
            *(self._start_provider(reference, link_name) for reference, link_name in told.providers),
        )

    async def _start_actor(self, reference: str) -> None:
        try:
            await self._actors.scale(reference, None, 1, only_if_absent=True)
        except LatticeError as error:
            log.warning("config_service.not_started", reference=reference, reason=str(error))

    async def _start_provider(self, reference: str, link_name: str) -> None:
        if any(each.image.reference == reference and each.link_name == link_name for each in self._providers):
            return  # the host has brought it back itself
        try:
            await self._providers.start(reference, link_name=link_name)
        except LatticeError as error:
            log.warning("config_service.not_started", reference=reference, link_name=link_name, reason=str(error))
