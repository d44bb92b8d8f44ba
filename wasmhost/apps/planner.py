"""From what applications want and what a lattice has to the commands in between. Pure: nothing here does anything.

Commands are absolute (*have four instances*, never *start two more*) and in an order that works when they are carried
out one after the other: what nobody wants any more goes first, then links, actors, and providers last, so that a
port opens when the actors behind it are there. A plan for a lattice in which an earlier plan was carried out is empty.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lattice.errors import Code, LatticeError
from lattice.inventory import Inventory
from lattice.links import LinkDefinition, LinkKey, LinkTable
from wasmhost.apps import moving
from wasmhost.apps.application import ActorComponent, Application, CapabilityComponent, Mark, Scaler
from wasmhost.apps.placement import Share, eligible, place_actor, place_provider, spreads, unplaceable
from wasmhost.configuration import limits

MANAGED_BY = "wasmcloud.dev/managed-by"
APPLICATION = "wasmcloud.dev/appspec"
SCALER = "wasmcloud.dev/scaler"
SPREAD = "wasmcloud.dev/spread_name"
US = "wasmhost"
"""Value of the annotation ``MANAGED_BY`` on everything that a plan of ours started, and on nothing else."""

Annotations = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Image:
    """What a component's image turned out to be."""

    reference: str
    """What hosts are told: an absolute ``file://`` reference or ``bundled:…``."""
    public_key: str


Images = Mapping[tuple[str, str], Image]
"""By application name and component name."""


@dataclass(frozen=True, slots=True)
class Observed:
    """A lattice at one moment."""

    hosts: Sequence[Inventory]
    links: LinkTable
    our_links: frozenset[LinkKey] = frozenset()
    """Links that an earlier plan put. Links carry no annotations, so whoever carries out plans remembers them."""


@dataclass(frozen=True, slots=True)
class DeleteLink:
    link: LinkDefinition


@dataclass(frozen=True, slots=True)
class StopActor:
    """Stop all instances of an actor that carry these annotations."""

    host_id: str
    actor_id: str
    reference: str
    annotations: Annotations = field(hash=False)


@dataclass(frozen=True, slots=True)
class StopProvider:
    host_id: str
    provider_id: str
    link_name: str
    contract_id: str
    reference: str
    annotations: Annotations = field(hash=False)


@dataclass(frozen=True, slots=True)
class PutLink:
    """Put a link, or change the provider or the values of one that is there."""

    link: LinkDefinition


@dataclass(frozen=True, slots=True)
class ScaleActor:
    """Have exactly ``count`` instances with these annotations."""

    host_id: str
    reference: str
    actor_id: str
    count: int
    annotations: Annotations = field(hash=False)


@dataclass(frozen=True, slots=True)
class StartProvider:
    host_id: str
    reference: str
    provider_id: str
    contract_id: str
    link_name: str
    configuration: str | None = field(repr=False)
    annotations: Annotations = field(hash=False)


Command = DeleteLink | StopActor | StopProvider | PutLink | ScaleActor | StartProvider


class PlanError(LatticeError):
    """The applications contradict each other, or no host can run a part of them; the message lists every reason."""

    code = Code.CONFLICT

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("\n".join(reasons))
        self.reasons = list(reasons)


def plan(
    applications: Iterable[Application], images: Images, observed: Observed, *, evenly: bool = False
) -> list[Command]:
    """The commands that make the lattice run exactly these applications, besides what others put there.

    ``evenly``: divide instances over all hosts that fit, instead of putting those of a spread on one of them.
    """
    wanted = _Wanted(images, observed.hosts, evenly=evenly)
    for application in applications:
        wanted.add(application)
    if wanted.problems:
        raise PlanError(wanted.problems)
    return [
        *_stale_links(wanted, observed),
        *_stale_actors(wanted, observed.hosts),
        *_stale_providers(wanted, observed.hosts),
        *_missing_links(wanted, observed.links),
        *_missing_actors(wanted, observed.hosts),
        *_missing_providers(wanted, observed.hosts),
    ]


def wanted_links(applications: Iterable[Application], images: Images) -> list[LinkDefinition]:
    """The links that the applications ask for. Raises PlanError if two of them contradict each other."""
    wanted = _Wanted(images, ())
    for application in applications:
        wanted.add_links(application)
    if wanted.problems:
        raise PlanError(wanted.problems)
    return list(wanted.links.values())


def _frozen(annotations: Annotations) -> frozenset[tuple[str, str]]:
    return frozenset(annotations.items())


_ActorKey = tuple[str, str, frozenset[tuple[str, str]]]
"""Host, actor, annotations."""
_ProviderKey = tuple[str, str, str]
"""Host, provider, link name: at most one process per key."""


class _Wanted:
    """What all applications together want, and what is wrong with that."""

    def __init__(self, images: Images, hosts: Sequence[Inventory], *, evenly: bool = False) -> None:
        self._images = images
        self._hosts = hosts
        self._evenly = evenly
        self._link_marks: dict[LinkKey, Mark] = {}
        self.links: dict[LinkKey, LinkDefinition] = {}
        self.actors: dict[_ActorKey, ScaleActor] = {}
        self.providers: dict[_ProviderKey, StartProvider] = {}
        self.problems: list[str] = []

    def add(self, application: Application) -> None:
        self.add_links(application)
        for actor in application.actors:
            self._add_actor(application, actor)
        for capability in application.capabilities:
            self._add_provider(application, capability)

    def add_links(self, application: Application) -> None:
        for actor in application.actors:
            for trait in actor.links:
                target = application.capability(trait.target)
                link = LinkDefinition(
                    actor_id=self._images[application.name, actor.name].public_key,
                    provider_id=self._images[application.name, target.name].public_key,
                    contract_id=target.contract,
                    link_name=target.link_name,
                    values=trait.values,
                )
                other = self.links.setdefault(link.key, link)
                mark = self._link_marks.setdefault(link.key, trait.mark)
                if other != link:
                    self.problems.append(
                        f"{trait.mark}: {actor.name} is linked to {target.contract} under {target.link_name!r} twice,"
                        f" in another way at {mark}; give one of the capabilities another link_name"
                    )

    def _add_actor(self, application: Application, actor: ActorComponent) -> None:
        image = self._images[application.name, actor.name]
        hosts = self._open_for("actor", application, actor)
        self._check_fit(actor, hosts)
        scaler_name = _scaler_name("actor", application, actor)
        shares = place_actor(actor.scaler, hosts, evenly=self._evenly)
        for share in self._shift(actor, shares, hosts, scaler_name):
            annotations = _annotations(application, scaler_name, actor.scaler, share)
            annotations.update(limits.to_annotations(actor.limits))
            command = ScaleActor(share.host_id, image.reference, image.public_key, share.count, annotations)
            self.actors[share.host_id, image.public_key, _frozen(annotations)] = command

    def _add_provider(self, application: Application, capability: CapabilityComponent) -> None:
        image = self._images[application.name, capability.name]
        hosts = self._open_for("provider", application, capability)
        self._check_fit(capability, hosts)
        scaler_name = _scaler_name("provider", application, capability)
        for share in place_provider(capability.scaler, hosts, evenly=self._evenly):
            command = StartProvider(
                share.host_id,
                image.reference,
                image.public_key,
                capability.contract,
                capability.link_name,
                capability.config,
                _annotations(application, scaler_name, capability.scaler, share),
            )
            # Applications share a provider: links tell their actors apart.
            other = self.providers.setdefault((share.host_id, image.public_key, capability.link_name), command)
            if (other.configuration, other.contract_id) != (command.configuration, command.contract_id):
                self.problems.append(
                    f"{capability.mark}: {capability.image} runs already under the link name {capability.link_name!r}"
                    f" with another config or contract, for {other.annotations[APPLICATION]};"
                    " give it another link_name"
                )

    def _open_for(
        self, kind: str, application: Application, component: ActorComponent | CapabilityComponent
    ) -> list[Inventory]:
        """The hosts that may run a component: those that take on what is new, and those that run it already."""
        name = _scaler_name(kind, application, component)
        return [host for host in self._hosts if not host.cordoned or _runs(host, name)]

    def _shift(
        self, actor: ActorComponent, shares: Sequence[Share], hosts: Sequence[Inventory], scaler_name: str
    ) -> list[Share]:
        """What a cordoned host would have to run beyond what it runs goes to the first host that takes it on."""
        shifted: dict[tuple[str, str], int] = {}
        cordoned = {host.host_id: host for host in hosts if host.cordoned}
        for share in shares:
            host_id, count = share.host_id, share.count
            if (host := cordoned.get(host_id)) is not None:
                kept = min(count, _instances(host, scaler_name, share.spread))
                shifted[host_id, share.spread] = shifted.get((host_id, share.spread), 0) + kept
                spread = next(each for each in spreads(actor.scaler) if each.name == share.spread)
                takers = [each for each in eligible(spread, hosts) if not each.cordoned]
                if kept == count or actor.scaler.kind == "daemonscaler":
                    continue
                if not takers:
                    self.problems.append(
                        f"{actor.mark}: {host.friendly_name or host_id} is cordoned, and no other host fits, "
                        f"for {count - kept} more of {actor.name}"
                    )
                    continue
                host_id, count = takers[0].host_id, count - kept
            shifted[host_id, share.spread] = shifted.get((host_id, share.spread), 0) + count
        return [Share(host_id, spread_name, count) for (host_id, spread_name), count in shifted.items() if count]

    def _check_fit(self, component: ActorComponent | CapabilityComponent, hosts: Sequence[Inventory]) -> None:
        for spread in unplaceable(component.scaler, hosts):
            labels = ", ".join(f"{name}={value}" for name, value in spread.requirements.items())
            has = f"has the labels {labels} of spread {spread.name!r}" if labels else "is running"
            if any(host.cordoned for host in eligible(spread, self._hosts)):
                has += " and is not cordoned"
            self.problems.append(f"{component.mark}: no host {has}, which {component.name} needs")


def _scaler_name(kind: str, application: Application, component: ActorComponent | CapabilityComponent) -> str:
    return f"{kind}{component.scaler.kind}-{application.name}-{component.name}"


def _annotations(application: Application, scaler_name: str, scaler: Scaler, share: Share) -> dict[str, str]:
    spread = next(each for each in spreads(scaler) if each.name == share.spread)
    return {
        MANAGED_BY: US,
        APPLICATION: application.name,
        SCALER: scaler_name,
        SPREAD: share.spread,
        **moving.to_annotations(spread.requirements),
    }


def _runs(host: Inventory, scaler_name: str) -> bool:
    """Whether a host runs something that this scaler has put there."""
    instances = [instance.annotations for actor in host.actors for instance in actor.instances]
    found = [*instances, *(provider.annotations for provider in host.providers)]
    return any(each.get(SCALER) == scaler_name and _is_ours(each) for each in found)


def _instances(host: Inventory, scaler_name: str, spread: str) -> int:
    """How many instances of a spread a scaler has on a host."""
    wanted = {SCALER: scaler_name, SPREAD: spread}.items()
    return sum(
        instance.count
        for actor in host.actors
        for instance in actor.instances
        if wanted <= instance.annotations.items()
    )


def _is_ours(annotations: Annotations) -> bool:
    return annotations.get(MANAGED_BY) == US


def _actor_sets(hosts: Sequence[Inventory]) -> dict[_ActorKey, tuple[StopActor, int]]:
    """The instances that run: per host, actor and annotation set, how to stop them and how many they are."""
    found: dict[_ActorKey, tuple[StopActor, int]] = {}
    for host in hosts:
        for actor in host.actors:
            for instance in actor.instances:
                key = (host.host_id, actor.id, _frozen(instance.annotations))
                reference = instance.image_ref or actor.image_ref or ""
                stop = StopActor(host.host_id, actor.id, reference, instance.annotations)
                count = found[key][1] if key in found else 0
                found[key] = (stop, count + instance.max_concurrent)
    return found


def _stale_links(wanted: _Wanted, observed: Observed) -> list[Command]:
    return [
        DeleteLink(link) for link in observed.links if link.key in observed.our_links and link.key not in wanted.links
    ]


def _stale_actors(wanted: _Wanted, hosts: Sequence[Inventory]) -> list[Command]:
    """Ours that nobody wants, or that came from another file: a host runs one reference per actor."""
    references = {(key[0], key[1]): command.reference for key, command in wanted.actors.items()}
    return [
        stop
        for key, (stop, _) in _actor_sets(hosts).items()
        if _is_ours(stop.annotations)
        and moving.MARK not in stop.annotations  # on the way from another host: whoever moves them sees to them
        and (key not in wanted.actors or references[key[0], key[1]] != stop.reference)
    ]


def _stale_providers(wanted: _Wanted, hosts: Sequence[Inventory]) -> list[Command]:
    return [
        StopProvider(
            host.host_id,
            provider.id,
            provider.link_name,
            provider.contract_id,
            provider.image_ref or "",
            provider.annotations,
        )
        for host in hosts
        for provider in host.providers
        if _is_ours(provider.annotations) and (host.host_id, provider.id, provider.link_name) not in wanted.providers
    ]


def _missing_links(wanted: _Wanted, links: LinkTable) -> list[Command]:
    commands: list[Command] = []
    for link in wanted.links.values():
        there = links.get(link.key)
        if there is None or (there.provider_id, dict(there.values)) != (link.provider_id, dict(link.values)):
            commands.append(PutLink(link))
    return commands


def _missing_actors(wanted: _Wanted, hosts: Sequence[Inventory]) -> list[Command]:
    running = _actor_sets(hosts)
    commands: list[Command] = []
    for key, command in wanted.actors.items():
        stop, count = running.get(key, (None, 0))
        same_file = stop is None or stop.reference == command.reference
        if count != command.count or not same_file:
            commands.append(command)
    return commands


def _missing_providers(wanted: _Wanted, hosts: Sequence[Inventory]) -> list[Command]:
    running = {(host.host_id, provider.id, provider.link_name) for host in hosts for provider in host.providers}
    return [command for key, command in wanted.providers.items() if key not in running]
