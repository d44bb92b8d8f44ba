"""What a host says about itself: to pings, in its inventory, in its heartbeat and in its start and stop events."""

from __future__ import annotations

import time
from urllib.parse import urlsplit, urlunsplit

import wasmhost
from lattice import events
from lattice.clustercontrol import ClusterView
from lattice.control import HostPing, Inventory
from lattice.events import Built
from wasmhost.actors.registry import ActorRegistry
from wasmhost.configuration.config import HostConfig
from wasmhost.control.cordon import Cordon
from wasmhost.control.labels import Labels
from wasmhost.keys.cluster import Cluster
from wasmhost.keys.identity import Identity
from wasmhost.keys.issuer_alarm import IssuerAlarm
from wasmhost.knowledge.lattice_state import LatticeState
from wasmhost.knowledge.metadata import Metadata
from wasmhost.policy.halted import HaltedBook
from wasmhost.restore.duties import Duties
from wasmhost.supervision.supervisor import ProviderSupervisor


class HostFacts:
    """One host, described in the forms that the lattice knows. Every method describes the moment of its call."""

    def __init__(
        self,
        config: HostConfig,
        identity: Identity,
        *,
        actors: ActorRegistry,
        providers: ProviderSupervisor,
        metadata: Metadata,
        lattice_state: LatticeState,
        duties: Duties,
        cordon: Cordon,
        halted: HaltedBook,
        cluster: Cluster,
        alarm: IssuerAlarm,
        guests: str = "",
    ) -> None:
        """``guests``: how actors run, ``suspendable`` or ``threads``."""
        self._guests = guests
        self._halted = halted
        self._config = config
        self._identity = identity
        self.cordon = cordon
        self.labels = Labels(config.labels)
        self._actors = actors
        self._providers = providers
        self._metadata = metadata
        self._lattice_state = lattice_state
        self._duties = duties
        self._cluster = cluster
        self._alarm = alarm
        self._started = time.monotonic()

    @property
    def host_id(self) -> str:
        return self._identity.host_id

    @property
    def uptime(self) -> int:
        """Whole seconds since the start."""
        return int(time.monotonic() - self._started)

    @property
    def degraded(self) -> str | None:
        """What is wrong with what this host shares with others; None if nothing is."""
        store = self._metadata.degraded or self._lattice_state.degraded  # one reason is enough where both lack a store
        return "; ".join(problem for problem in (store, self._duties.problem) if problem) or None

    def ping(self) -> HostPing:
        """The answer to ``ping.hosts``."""
        config, identity = self._config, self._identity
        return HostPing(
            id=identity.host_id,
            issuer=identity.cluster.public,
            labels=dict(self.labels.all),
            friendly_name=identity.friendly_name,
            uptime_seconds=self.uptime,
            uptime_human=human_duration(self.uptime),
            version=wasmhost.__version__,
            cluster_issuers=tuple(sorted(identity.issuers)),
            js_domain=config.js_domain,
            ctl_host=without_login(config.control.url),
            rpc_host=without_login(config.rpc.url),
            prov_rpc_host=without_login(config.providers.url),
            lattice=config.lattice,
            guests=self._guests,
            clock_ms=round(time.time() * 1000),
            cordoned=self.cordon.closed,
            issuer_alarms=self._alarm.count,
        )

    def cluster(self) -> ClusterView:
        """The answer to ``get.{host}.cluster``."""
        keys, generations = self._cluster.keys, self._cluster.generations
        return ClusterView(
            host_id=self._identity.host_id,
            signing=keys.signing.public,
            accepted=tuple(sorted(keys.accepted)),
            held=tuple(key.public for key in keys.held),
            removed=keys.removed,
            key_folders=keys.folders,
            files=keys.files,
            generations=generations.all if generations is not None else {},
            issuer_alarms=self._alarm.count,
        )

    def inventory(self, *, short: bool = False) -> Inventory:
        """The answer to ``get.{host}.inv``; ``short``: with one entry per annotation set in any case."""
        return Inventory(
            host_id=self._identity.host_id,
            issuer=self._identity.cluster.public,
            friendly_name=self._identity.friendly_name,
            labels=dict(self.labels.all),
            actors=tuple(self._actors.descriptions(per_set=short or self._config.manager_form == "0.82")),
            providers=tuple(self._providers.descriptions()),
            version=wasmhost.__version__,
            uptime_human=human_duration(self.uptime),
            uptime_seconds=self.uptime,
            degraded=self.degraded,
            cordoned=self.cordon.closed,
            halted=self._halted.descriptions(),
        )

    def started(self) -> Built:
        """The event ``host_started``."""
        return events.host_started(
            labels=self.labels.all,
            friendly_name=self._identity.friendly_name,
            uptime_seconds=self.uptime,
            version=wasmhost.__version__,
        )

    def heartbeat(self) -> Built:
        """The event ``host_heartbeat``, in the form that the configured managers read."""
        if self._config.manager_form == "0.82":
            return "host_heartbeat", self.inventory().to_dict()
        return events.host_heartbeat(
            actors=self._actors.counts(),
            providers=[
                {
                    "public_key": provider.image.public_key,
                    "link_name": provider.link_name,
                    "contract_id": provider.image.contract_id,
                }
                for provider in self._providers
                if provider.running
            ],
            labels=self.labels.all,
            friendly_name=self._identity.friendly_name,
            version=wasmhost.__version__,
            uptime_seconds=self.uptime,
            uptime_human=human_duration(self.uptime),
        )

    def stopped(self) -> Built:
        """The event ``host_stopped``."""
        return events.host_stopped(labels=self.labels.all)


def human_duration(seconds: int) -> str:
    """``2 days, 3 hours``: the two largest units."""
    parts = []
    for size, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count} {unit}{'s' if count > 1 else ''}")
    return ", ".join(parts[:2]) or "0 seconds"


def without_login(url: str) -> str:
    """An address without the user and password that it may hold."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
