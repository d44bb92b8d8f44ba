"""The control plane of a host without its actors, for tests of providers and links."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from lattice.connection import Connection
from lattice.inventory import ProviderDescription
from tests.wasmhost.control.waiting import EventLog
from wasmhost.configuration.config import HostConfig
from wasmhost.control.events import EventPublisher
from wasmhost.keys.identity import Identity
from wasmhost.knowledge.metadata import Metadata
from wasmhost.state import StateFolder
from wasmhost.supervision.linking import Linking
from wasmhost.supervision.provider_image import ProviderImages
from wasmhost.supervision.supervisor import ProviderSupervisor
from wasmhost.supervision.surroundings import Timing

TIMING = Timing(trouble_interval=0.2, health_interval=1.0, backoff=(0.1, 1.0), start_timeout=2.0, hung_after=3.0)


class Room:
    """The control plane of a host without its actors."""

    def __init__(self, supervisor: ProviderSupervisor, metadata: Metadata, linking: Linking, events: EventLog) -> None:
        self.supervisor = supervisor
        self.metadata = metadata
        self.linking = linking
        self.events = events

    def described(self, provider_id: str) -> ProviderDescription:
        (found,) = [provider for provider in self.supervisor.descriptions() if provider.id == provider_id]
        return found

    async def started(self, reference: str, **options: str) -> ProviderDescription:
        provider = await self.supervisor.start(reference, **options)
        await self.events.wait("provider_started", public_key=provider.image.public_key)
        return self.described(provider.image.public_key)


@asynccontextmanager
async def opened(
    config: HostConfig,
    client: Connection,
    *,
    images: ProviderImages | None = None,
    timing: Timing = TIMING,
) -> AsyncIterator[Room]:
    """A room of its own in the lattice of ``config``."""
    with StateFolder.open(config.paths) as state:
        identity = Identity.open(config, state)
        events = await EventLog.open(client, config.lattice)
        publisher = EventPublisher(client, config.lattice, identity.host_id)
        metadata = Metadata(client, config.lattice, host_id=identity.host_id, publish_event=publisher.publish)
        await metadata.open()
        supervisor = ProviderSupervisor(
            config, identity, metadata, publisher.publish, client, images=images, timing=timing
        )
        linking = Linking(metadata, supervisor, grace=1.0)
        try:
            yield Room(supervisor, metadata, linking, events)
        finally:
            await linking.close()
            await supervisor.close()
            await metadata.close()
