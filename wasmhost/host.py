"""One host, put together: opens everything in the order in which it is needed, closes it in the reverse.

Nothing else constructs these parts, and no part looks for another one by itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from types import TracebackType
from typing import Self

import structlog

from lattice import collector, subjects
from lattice.chunks import Chunks
from lattice.claims import ActorClaims, ProviderClaims
from lattice.connection import Connection
from lattice.rpc import RpcClient
from wasmhost import logs
from wasmhost.actors.registry import ActorRegistry
from wasmhost.calls.admission import Admission
from wasmhost.calls.call_events import CallEvents
from wasmhost.calls.directory import ActorDirectory
from wasmhost.calls.holding import Holding
from wasmhost.calls.linked_calls import LinkedCalls
from wasmhost.calls.outbound import Outbound
from wasmhost.calls.spies import Spies
from wasmhost.configuration.config import HostConfig
from wasmhost.connections import HostConnections
from wasmhost.control.config_service import ConfigService
from wasmhost.control.config_store import ConfigStore
from wasmhost.control.cordon import Cordon
from wasmhost.control.event_book import EventBook
from wasmhost.control.events import EventPublisher
from wasmhost.control.inventory import HostFacts
from wasmhost.control.log_book import LogBook
from wasmhost.control.observation_server import ObservationServer
from wasmhost.control.probes import Probes
from wasmhost.control.registries import Registries
from wasmhost.control.server import ControlServer
from wasmhost.guest.engine import Engine, VariantName
from wasmhost.keys import generations
from wasmhost.keys.cluster import Cluster
from wasmhost.keys.generations import Generations
from wasmhost.keys.identity import Identity
from wasmhost.keys.issuer_alarm import IssuerAlarm
from wasmhost.keys.sealing import Seal
from wasmhost.keys.security import HostSecurity
from wasmhost.knowledge.lattice_state import LatticeState
from wasmhost.knowledge.metadata import Metadata
from wasmhost.policy.room import PolicyRoom
from wasmhost.processes.leftovers import HOST_MARK, end_leftovers
from wasmhost.restore.duties import Duties
from wasmhost.state import StateFolder
from wasmhost.supervision.linking import Linking
from wasmhost.supervision.provider_image import ProviderImages
from wasmhost.supervision.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)


class Host:
    """A running host: ``async with Host(config) as host: await host.run_until(stop)``.

    Opening raises LatticeError: StateError (state folder), Unreachable (no NATS server), NotAuthorized and others; what
    had been opened by then is closed again.
    """

    def __init__(self, config: HostConfig, *, images: Callable[[HostConfig], ProviderImages] = ProviderImages) -> None:
        """``images`` makes what finds the images of providers."""
        self.config = config
        self._images = images
        self.identity: Identity
        self.metadata: Metadata
        self.lattice_state: LatticeState
        self.cluster: Cluster
        self.actors: ActorRegistry
        self.providers: ProviderSupervisor
        self.linking: Linking
        self.facts: HostFacts
        self.policy: PolicyRoom
        self.registries = Registries()
        self._stopping = asyncio.Event()
        self._drain_timeout: float | None = None
        self._parts = AsyncExitStack()
        self._unready = "starting"
        """Whether it is starting or stopping; empty when it does neither."""
        self._connections = HostConnections(config)

    @property
    def host_id(self) -> str:
        """The host's public key, ``N…``."""
        return self.identity.host_id

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as opened:
            await self._open(opened)
            self._parts = opened.pop_all()
        self._unready = ""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._unready = "stopping"
        log.info("host.stopping", host=self.host_id)
        await self._parts.aclose()
        log.info("host.stopped", host=self.host_id)

    async def run_until(self, stop: asyncio.Event) -> None:
        """Return when ``stop`` is set or a control command stopped the host."""
        collector.settle()
        waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(self._stopping.wait())]
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waiting:
                task.cancel()

    def request_stop(self, drain_timeout: float | None = None) -> None:
        """Make :meth:`run_until` return; ``drain_timeout`` replaces the configured one, in seconds."""
        self._drain_timeout = drain_timeout
        self._stopping.set()

    async def _open(self, parts: AsyncExitStack) -> None:
        config = self.config
        control_subjects = subjects.Control(config.lattice, config.ctl_prefix)
        book = LogBook()
        parts.callback(logs.add_tap(book.note))
        state = parts.enter_context(StateFolder.open(config.paths))
        self.identity = identity = Identity.open(config, state)
        await self._end_leftovers()
        await self._open_probes(parts)

        control, rpc = await self._connections.open(parts, identity.friendly_name)
        variant: VariantName | None = "threads" if config.guest_threads else None
        engine = await asyncio.to_thread(Engine.open, config.paths.cache / "compiled", variant=variant)
        parts.push_async_callback(asyncio.to_thread, engine.close)  # it waits for guests that still compute

        publisher = EventPublisher(control, config.lattice, identity.host_id)
        self._connections.publish = publisher.publish
        metadata = await self._open_knowledge(parts, control, publisher)
        alarm = IssuerAlarm(publisher.publish)
        self.cluster = cluster = await self._open_cluster(parts, alarm)
        parts.callback(lambda: publisher.publish(*self.facts.stopped()))
        self.policy = policy = await self._open_policy(parts, control, publisher)
        holding = Holding()
        self.providers = providers = self._make_providers(parts, rpc, publisher, holding)
        directory, spies = ActorDirectory(), Spies()
        self.actors = actors = self._make_actors(
            parts,
            control=control,
            rpc=rpc,
            publisher=publisher,
            engine=engine,
            directory=directory,
            alarm=alarm,
            holding=holding,
            spies=spies,
        )
        policy.enforce(actors, providers)

        self.linking = linking = Linking(
            metadata, providers, holding=holding, gate=policy.gate, grace=config.rpc_timeout
        )
        parts.push_async_callback(linking.close)
        duties = await self._open_duties(parts)
        self.facts = facts = HostFacts(
            config,
            identity,
            actors=actors,
            providers=providers,
            metadata=metadata,
            lattice_state=self.lattice_state,
            duties=duties,
            cordon=Cordon(config.paths.host),
            halted=policy.halted,
            cluster=cluster,
            alarm=alarm,
            guests=engine.variant,
        )
        await self._open_observation(parts, control, control_subjects, spies, book)
        security = HostSecurity(
            config, identity, control=control, rpc=rpc, running=partial(_running, directory, providers)
        )
        await self._open_control(
            parts, control, control_subjects, publisher=publisher, duties=duties, security=security
        )
        publisher.publish(*facts.started())
        publisher.start_heartbeat(facts.heartbeat)
        parts.push_async_callback(publisher.stop_heartbeat)
        duties.begin()
        self._begin_config_service(parts, control, duties)
        log.info(
            "host.started",
            host=identity.host_id,
            name=identity.friendly_name,
            lattice=config.lattice,
            nats=rpc.server,
            guests=engine.variant,
            degraded=metadata.degraded,
        )

    def _make_providers(
        self, parts: AsyncExitStack, rpc: Connection, publisher: EventPublisher, holding: Holding
    ) -> ProviderSupervisor:
        providers = ProviderSupervisor(
            self.config,
            self.identity,
            self.metadata,
            publisher.publish,
            rpc,
            images=self._images(self.config),
            holding=holding,
            gate=self.policy.gate,
            expiry=self.policy.expiry,
            halted=self.policy.halted,
            cluster=self.cluster,
        )
        parts.push_async_callback(providers.close)
        return providers

    def _make_actors(
        self,
        parts: AsyncExitStack,
        *,
        control: Connection,
        rpc: Connection,
        publisher: EventPublisher,
        engine: Engine,
        directory: ActorDirectory,
        alarm: IssuerAlarm,
        holding: Holding,
        spies: Spies,
    ) -> ActorRegistry:
        """The actors, with the data path that they are on."""
        config, metadata, cluster, policy = self.config, self.metadata, self.cluster, self.policy
        host_id = self.identity.host_id
        trace = config.log_level == "debug"
        admission = Admission(cluster.authority, alarm=alarm.note)
        cluster.on_authority = lambda authority: setattr(admission, "authority", authority)
        call_policy = policy.calls(directory)
        chunks = Chunks(rpc, config.lattice, domain=config.js_domain or "")
        parts.push_async_callback(chunks.close)
        call_events = CallEvents(control, config.lattice, host_id) if config.rpc_events else None
        outbound = Outbound(
            lattice=config.lattice,
            rpc=RpcClient(rpc, config.lattice, cluster.signer, chunks),
            view=metadata,
            directory=directory,
            admission=admission,
            local=config.local,
            linked=LinkedCalls(metadata, holding=holding, repeat_link=self.providers.repeat_link),
            provider_status=self.providers.failure_of,
            provider_stalled=self.providers.stalled,
            halted=policy.halted.reason,
            policy=call_policy,
            spies=spies,
            call_events=call_events,
            trace=trace,
        )
        actors = ActorRegistry(
            config=config,
            host_id=host_id,
            engine=engine,
            transport=rpc,
            chunks=chunks,
            directory=directory,
            admission=admission,
            outbound=outbound,
            publish_event=publisher.publish,
            put_claims=metadata.put_claims,
            put_reference=metadata.put_reference,
            known_claims=metadata.claims_of,
            gate=policy.gate,
            expiry=policy.expiry,
            halted=policy.halted,
            call_policy=call_policy,
            spies=spies,
            call_events=call_events,
            trace=trace,
        )
        parts.push_async_callback(self._drain_actors)
        return actors

    async def _open_control(
        self,
        parts: AsyncExitStack,
        control: Connection,
        served: subjects.Control,
        *,
        publisher: EventPublisher,
        duties: Duties,
        security: HostSecurity,
    ) -> None:
        config = self.config
        server = ControlServer(
            control,
            served,
            facts=self.facts,
            actors=self.actors,
            providers=self.providers,
            metadata=self.metadata,
            linking=self.linking,
            cluster=self.cluster,
            configuration=ConfigStore(control, config.lattice, publisher.publish, js_domain=config.js_domain),
            registries=self.registries,
            revocations=self.policy.revocations,
            security=security,
            publisher=publisher,
            duties=duties,
            stop_host=self.request_stop,
        )
        parts.push_async_callback(server.close)
        await server.start()

    async def _open_probes(self, parts: AsyncExitStack) -> None:
        if self.config.probes is not None:
            probes = Probes(self._why_not_ready)
            parts.push_async_callback(probes.close)
            await probes.open(*self.config.probes)

    def _begin_config_service(self, parts: AsyncExitStack, control: Connection, duties: Duties) -> None:
        if not self.config.config_service:
            return
        service = ConfigService(
            control,
            self.config.lattice,
            labels=lambda: self.facts.labels.all,
            registries=self.registries,
            actors=self.actors,
            providers=self.providers,
            restored=duties.wait_restored,
        )
        parts.push_async_callback(service.close)
        service.begin()

    async def _open_observation(
        self, parts: AsyncExitStack, control: Connection, served: subjects.Control, spies: Spies, book: LogBook
    ) -> None:
        past = EventBook(control, self.config.lattice)
        parts.push_async_callback(past.close)
        await past.open()
        observation = ObservationServer(
            control,
            served,
            host_id=self.identity.host_id,
            host_name=self.identity.friendly_name,
            spies=spies,
            book=book,
            events=past,
        )
        parts.push_async_callback(observation.close)
        await observation.start()

    async def _open_knowledge(self, parts: AsyncExitStack, control: Connection, publisher: EventPublisher) -> Metadata:
        """What this host knows of the lattice: links and claims, and what its hosts agree on."""
        config = self.config
        self.metadata = metadata = Metadata(
            control,
            config.lattice,
            host_id=self.identity.host_id,
            js_domain=config.js_domain,
            ctl_prefix=config.ctl_prefix,
            publish_event=publisher.publish,
        )
        parts.push_async_callback(metadata.close)
        await metadata.open()
        self.lattice_state = LatticeState(control, config.lattice, js_domain=config.js_domain)
        parts.push_async_callback(self.lattice_state.close)
        await self.lattice_state.open()
        return metadata

    async def _open_policy(self, parts: AsyncExitStack, control: Connection, publisher: EventPublisher) -> PolicyRoom:
        """What may run here; known before anything is started."""
        policy = PolicyRoom(
            self.config,
            self.identity,
            control,
            publisher.publish,
            labels=lambda: self.facts.labels.all,
            known_claims=self.metadata.claims_of,
        )
        await policy.open(parts, self.lattice_state)
        return policy

    async def _open_duties(self, parts: AsyncExitStack) -> Duties:
        """What was asked of this host before; closed before its actors and providers end, as that is no request."""
        duties = await Duties.open(
            self.config.state_dir if self.config.restore else None,
            self.config.lattice,
            seal=Seal(self.identity.host),
            actors=self.actors,
            providers=self.providers,
            patience=self.config.manager_wait,
        )
        parts.push_async_callback(duties.close)
        return duties

    async def _open_cluster(self, parts: AsyncExitStack, alarm: IssuerAlarm) -> Cluster:
        """The keys of this host and its providers, which depend on what the lattice agrees on."""
        config = self.config
        cluster = Cluster(
            self.identity.cluster_keys,
            config.lattice,
            host_id=self.host_id,
            provider_keys=config.provider_keys,
            state=self.lattice_state,
            generations=Generations(self.lattice_state, config.state_dir / generations.FILE),
        )
        cluster.on_keys_changed = alarm.keys_changed
        parts.push_async_callback(cluster.close)
        await cluster.open()
        return cluster

    async def _end_leftovers(self) -> None:
        """End what providers of an earlier run of this host, which was killed, have left running."""
        ended = await asyncio.to_thread(end_leftovers, HOST_MARK, str(self.config.state_dir))
        if ended:
            log.warning("host.leftovers_ended", pids=ended)

    def _why_not_ready(self) -> str:
        lost = ", ".join(self._connections.lost)
        return self._unready or (f"no connection to NATS ({lost})" if lost else "")

    async def _drain_actors(self) -> None:
        await self.actors.drain(self._drain_timeout)


def _running(actors: ActorDirectory, providers: ProviderSupervisor) -> list[ActorClaims | ProviderClaims]:
    """The claims of all that runs on a host."""
    return [*(actor.claims for actor in actors), *(provider.image.claims for provider in providers)]
