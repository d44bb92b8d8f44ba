"""The planner: what has to happen for a lattice to run what the manifests say, and nothing more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.inventory import ActorDescription, InstanceDescription, Inventory, ProviderDescription
from lattice.links import LinkDefinition, LinkTable
from wasmhost.apps import moving
from wasmhost.apps.application import (
    ActorComponent,
    Application,
    CapabilityComponent,
    LinkTrait,
    Mark,
    Scaler,
    Spread,
)
from wasmhost.apps.placement import divide, place_actor, place_provider
from wasmhost.apps.planner import (
    MANAGED_BY,
    Command,
    DeleteLink,
    Image,
    Images,
    Observed,
    PlanError,
    PutLink,
    ScaleActor,
    StartProvider,
    StopActor,
    StopProvider,
    plan,
)

MARK = Mark("app.yaml", 1, 1)
ONE = Scaler("spreadscaler", 1)
HOST = Inventory(host_id="N1")


def actor(name: str, *targets: str, scaler: Scaler = ONE, values: Mapping[str, str] | None = None) -> ActorComponent:
    return ActorComponent(
        name, f"{name}.wasm", scaler, tuple(LinkTrait(target, values or {}, MARK) for target in targets), MARK
    )


def test_limits_travel_as_annotations_of_the_commands() -> None:
    limited = replace(actor("a"), limits={"memory_mib": 128})
    app = application("app", limited)
    (command,) = plan([app], images(app), Observed([HOST], LinkTable()))
    assert isinstance(command, ScaleActor)
    assert command.annotations["wasmhost/limits.memory_mib"] == "128"
    # changed limits: the old instances go first, since instances of one actor share theirs
    running = Inventory(
        host_id="N1",
        actors=(
            ActorDescription(
                id=command.actor_id,
                image_ref=command.reference,
                instances=[InstanceDescription(instance_id="1", annotations=command.annotations)],
            ),
        ),
    )
    assert plan([app], images(app), Observed([running], LinkTable())) == []
    other = application("app", replace(limited, limits={"memory_mib": 256}))
    stop, start = plan([other], images(other), Observed([running], LinkTable()))
    assert isinstance(stop, StopActor)
    assert isinstance(start, ScaleActor)


def capability(
    name: str, *, link_name: str = "default", config: str | None = None, scaler: Scaler = ONE
) -> CapabilityComponent:
    return CapabilityComponent(name, f"bundled:{name}", f"wasmcloud:{name}", link_name, config, scaler, MARK)


def application(name: str, *components: ActorComponent | CapabilityComponent) -> Application:
    return Application(name, "v1", "", Path(f"/{name}.yaml"), components)


def images(*applications: Application) -> Images:
    """Every image text stands for one file or provider, whichever application names it."""
    return {
        (app.name, part.name): Image(
            f"ref:{part.image}", ("M" if isinstance(part, ActorComponent) else "V") + part.image
        )
        for app in applications
        for part in app.components
    }


COUNTER = application(
    "counter",
    actor("counter", "http", "store", scaler=Scaler("spreadscaler", 4), values={"address": "127.0.0.1:8080"}),
    capability("http"),
    capability("store", config="{}"),
)
ECHO = application("echo", actor("echo", "http"), capability("http"))
EMPTY = Observed([HOST], LinkTable())


def carry_out(commands: Sequence[Command], observed: Observed) -> Observed:
    """A lattice after the commands, each of which must make sense at its turn."""
    links, ours = observed.links, set(observed.our_links)
    hosts = {host.host_id: host for host in observed.hosts}
    for command in commands:
        match command:
            case PutLink(link):
                assert links.get(link.key) != link
                links = links.with_link(link)
                ours.add(link.key)
                continue
            case DeleteLink(link):
                assert link.key in links
                links = links.without(link.key)
                ours.discard(link.key)
                continue
        host = hosts[command.host_id]
        actors = {entry.id: entry for entry in host.actors}
        providers = {(entry.id, entry.link_name): entry for entry in host.providers}
        match command:
            case StopActor() | ScaleActor():
                entry = actors.get(command.actor_id, ActorDescription(id=command.actor_id, image_ref=command.reference))
                kept = [each for each in entry.instances if dict(each.annotations) != dict(command.annotations)]
                if isinstance(command, StopActor):
                    assert len(kept) < len(entry.instances)
                else:
                    assert entry.image_ref == command.reference, "a host runs one reference per actor"
                    instance = InstanceDescription(
                        instance_id="i", image_ref=command.reference, annotations=command.annotations
                    )
                    kept += [instance] * command.count
                actors[entry.id] = replace(entry, instances=kept)
                if not kept:
                    del actors[entry.id]
            case StartProvider():
                key = (command.provider_id, command.link_name)
                assert key not in providers
                providers[key] = ProviderDescription(
                    id=command.provider_id,
                    image_ref=command.reference,
                    contract_id=command.contract_id,
                    link_name=command.link_name,
                    annotations=command.annotations,
                )
            case StopProvider():
                del providers[command.provider_id, command.link_name]
        hosts[host.host_id] = replace(host, actors=tuple(actors.values()), providers=tuple(providers.values()))
    return Observed(list(hosts.values()), links, frozenset(ours))


def test_an_empty_lattice_gets_links_then_actors_then_providers() -> None:
    commands = plan([COUNTER], images(COUNTER), EMPTY)
    assert [type(command) for command in commands] == [PutLink, PutLink, ScaleActor, StartProvider, StartProvider]
    link, _, scale, http, store = commands
    assert isinstance(link, PutLink)
    assert link.link == LinkDefinition(
        actor_id="Mcounter.wasm",
        provider_id="Vbundled:http",
        contract_id="wasmcloud:http",
        link_name="default",
        values={"address": "127.0.0.1:8080"},
    )
    assert isinstance(scale, ScaleActor)
    assert (scale.host_id, scale.reference, scale.actor_id, scale.count) == (
        "N1",
        "ref:counter.wasm",
        "Mcounter.wasm",
        4,
    )
    assert scale.annotations == {
        "wasmcloud.dev/managed-by": "wasmhost",
        "wasmcloud.dev/appspec": "counter",
        "wasmcloud.dev/scaler": "actorspreadscaler-counter-counter",
        "wasmcloud.dev/spread_name": "default",
    }
    assert isinstance(http, StartProvider)
    assert isinstance(store, StartProvider)
    assert (http.reference, http.configuration, store.configuration) == ("ref:bundled:http", None, "{}")


def test_carried_out_once_there_is_nothing_left_to_do() -> None:
    known = images(COUNTER, ECHO)
    after = carry_out(plan([COUNTER, ECHO], known, EMPTY), EMPTY)
    assert plan([COUNTER, ECHO], known, after) == []


def test_another_manifest_replaces_what_an_earlier_one_put() -> None:
    known = images(COUNTER, ECHO)
    after = carry_out(plan([COUNTER], known, EMPTY), EMPTY)
    commands = plan([ECHO], known, after)
    kinds = [type(command) for command in commands]
    assert kinds == [DeleteLink, DeleteLink, StopActor, StopProvider, PutLink, ScaleActor]
    final = carry_out(commands, after)
    assert [link.actor_id for link in final.links] == ["Mecho.wasm"]
    assert [provider.id for provider in final.hosts[0].providers] == ["Vbundled:http"]


def test_what_others_started_stays() -> None:
    foreign = Inventory(
        host_id="N1",
        actors=(
            ActorDescription(
                id="Mx",
                image_ref="x",
                instances=[InstanceDescription(instance_id="i", annotations={MANAGED_BY: "wadm"})],
            ),
        ),
        providers=(ProviderDescription(id="Vx", contract_id="a:b"),),
    )
    link = LinkDefinition(actor_id="Mx", provider_id="Vx", contract_id="a:b")
    assert plan([], {}, Observed([foreign], LinkTable([link]))) == []


def test_a_provider_that_runs_already_is_used_whoever_started_it() -> None:
    host = Inventory(host_id="N1", providers=(ProviderDescription(id="Vbundled:http", contract_id="wasmcloud:http"),))
    commands = plan([ECHO], images(ECHO), Observed([host], LinkTable()))
    assert [type(command) for command in commands] == [PutLink, ScaleActor]


def test_changed_link_values_are_put_again_and_nothing_else() -> None:
    after = carry_out(plan([ECHO], images(ECHO), EMPTY), EMPTY)
    changed = application("echo", actor("echo", "http", values={"address": "127.0.0.1:9090"}), capability("http"))
    (command,) = plan([changed], images(changed), after)
    assert isinstance(command, PutLink)
    assert command.link.values == {"address": "127.0.0.1:9090"}


def test_another_count_scales_and_another_file_restarts() -> None:
    known = images(ECHO)
    after = carry_out(plan([ECHO], known, EMPTY), EMPTY)
    scaled = application("echo", actor("echo", "http", scaler=Scaler("spreadscaler", 3)), capability("http"))
    (command,) = plan([scaled], known, after)
    assert isinstance(command, ScaleActor)
    assert command.count == 3
    moved = {**known, ("echo", "echo"): Image("ref:elsewhere.wasm", "Mecho.wasm")}
    assert [type(command) for command in plan([ECHO], moved, after)] == [StopActor, ScaleActor]


def test_applications_share_a_provider_of_one_link_name() -> None:
    commands = plan([COUNTER, ECHO], images(COUNTER, ECHO), EMPTY)
    assert len([command for command in commands if isinstance(command, StartProvider)]) == 2


def test_contradictions_are_all_reported() -> None:
    other = application(
        "other", actor("counter", "http", values={"address": "127.0.0.1:1"}), capability("http"), capability("store")
    )
    with pytest.raises(PlanError) as caught:
        plan([COUNTER, other], images(COUNTER, other), EMPTY)
    assert len(caught.value.reasons) == 2
    assert "app.yaml:1:1" in caught.value.reasons[0]
    assert "another config" in caught.value.reasons[1]


def test_a_spread_that_no_host_fits_is_reported() -> None:
    east = Scaler("spreadscaler", 2, (Spread("east", {"zone": "east"}),))
    picky = application("picky", actor("echo", scaler=east))
    with pytest.raises(PlanError, match="no host has the labels zone=east of spread 'east', which echo needs"):
        plan([picky], images(picky), EMPTY)
    with pytest.raises(PlanError, match="no host is running"):
        plan([ECHO], images(ECHO), Observed([], LinkTable()))


def test_weights_divide_instances_and_what_is_left_goes_to_the_heaviest() -> None:
    def counts(instances: int, *weights: int) -> list[int]:
        spread = tuple(Spread(f"s{number}", {"n": str(number)}, weight) for number, weight in enumerate(weights))
        return [count for _, count in divide(Scaler("spreadscaler", instances, spread))]

    assert counts(4, 80, 20) == [4, 0]
    assert counts(10, 20, 80) == [8, 2]
    assert counts(5, 100, 100, 100) == [2, 2, 1]
    assert counts(3, 0, 0) == [2, 1]


def test_a_daemonscaler_runs_on_every_host_that_fits() -> None:
    hosts = [Inventory(host_id=f"N{number}", labels={"os": "linux" if number else "plan9"}) for number in range(3)]
    daemon = Scaler("daemonscaler", 2, (Spread("linux", {"os": "linux"}),))
    assert [(share.host_id, share.count) for share in place_actor(daemon, hosts)] == [("N1", 2), ("N2", 2)]
    assert [(share.host_id, share.count) for share in place_provider(daemon, hosts)] == [("N1", 1), ("N2", 1)]
    assert [share.host_id for share in place_provider(Scaler("spreadscaler", 2), hosts)] == ["N0", "N1"]


HOSTS = [Inventory(host_id=f"N{number}", labels={"zone": zone}) for number, zone in enumerate(["east", "west", "west"])]
SPREADS = st.sampled_from(
    [(), (Spread("east", {"zone": "east"}),), (Spread("w", {"zone": "west"}, 30), Spread("e", {"zone": "east"}, 70))]
)
SCALERS = st.builds(Scaler, st.sampled_from(["spreadscaler", "daemonscaler"]), st.integers(0, 5), SPREADS)
CAPABILITIES = ("http", "store", "mail")


@st.composite
def application_sets(draw: st.DrawFn) -> list[Application]:
    sets = []
    for name in draw(st.lists(st.sampled_from("abc"), unique=True)):
        parts: list[ActorComponent | CapabilityComponent] = [
            capability(each, scaler=draw(SCALERS)) for each in CAPABILITIES
        ]
        for part in draw(st.lists(st.sampled_from("xyz"), unique=True)):
            targets = draw(st.lists(st.sampled_from(CAPABILITIES), unique=True))
            # Actors differ between applications, so that their links cannot contradict each other.
            values = draw(st.dictionaries(st.sampled_from("pq"), st.sampled_from("12")))
            parts.append(actor(f"{name}{part}", *targets, scaler=draw(SCALERS), values=values))
        sets.append(application(name, *parts))
    return sets


@given(application_sets(), application_sets())
def test_any_plan_can_be_carried_out_and_leaves_nothing_to_do(
    first: list[Application], second: list[Application]
) -> None:
    observed = Observed(HOSTS, LinkTable())
    for wanted in (first, second, []):
        observed = carry_out(plan(wanted, images(*wanted), observed), observed)
        assert plan(wanted, images(*wanted), observed) == []
    assert not any(host.actors or host.providers for host in observed.hosts)
    assert len(observed.links) == 0


@given(st.integers(0, 40), st.integers(1, 6))
def test_evenly_placed_instances_differ_by_one_at_most(count: int, hosts: int) -> None:
    shares = place_actor(
        Scaler("spreadscaler", count), [Inventory(host_id=f"N{number}") for number in range(hosts)], evenly=True
    )
    counts = [share.count for share in shares] + [0] * (hosts - len(shares))
    assert sum(counts) == count
    assert max(counts) - min(counts) <= 1


def test_evenly_placed_the_first_host_given_is_preferred() -> None:
    hosts = [Inventory(host_id="N2"), Inventory(host_id="N1")]
    assert [(share.host_id, share.count) for share in place_actor(Scaler("spreadscaler", 3), hosts, evenly=True)] == [
        ("N2", 2),
        ("N1", 1),
    ]
    assert [share.host_id for share in place_provider(ONE, hosts, evenly=True)] == ["N2"]
    assert [share.host_id for share in place_provider(ONE, hosts)] == ["N1"]


def test_instances_that_are_placed_evenly_stop_where_they_are_too_many() -> None:
    two = [Inventory(host_id="N1"), Inventory(host_id="N2")]
    commands = plan([COUNTER], images(COUNTER), Observed(two, LinkTable()), evenly=True)
    assert {c.host_id: c.count for c in commands if isinstance(c, ScaleActor)} == {"N1": 2, "N2": 2}
    fewer = application("counter", replace(COUNTER.actors[0], scaler=ONE), *COUNTER.capabilities)
    running = [
        replace(
            host,
            actors=(
                ActorDescription(
                    id="Mcounter.wasm",
                    image_ref="ref:counter.wasm",
                    instances=[
                        InstanceDescription(instance_id=str(n), annotations=c.annotations)
                        for c in commands
                        if isinstance(c, ScaleActor) and c.host_id == host.host_id
                        for n in range(c.count)
                    ],
                ),
            ),
        )
        for host in two
    ]
    again = plan([fewer], images(fewer), Observed(running, LinkTable()), evenly=True)
    assert [(c.host_id, c.count) for c in again if isinstance(c, ScaleActor)] == [("N1", 1)]
    assert [c.host_id for c in again if isinstance(c, StopActor)] == ["N2"]


TWO = Observed([Inventory(host_id="N1"), Inventory(host_id="N2")], LinkTable())


def cordoned(observed: Observed, host_id: str) -> Observed:
    hosts = [replace(host, cordoned=host.cordoned or host.host_id == host_id) for host in observed.hosts]
    return replace(observed, hosts=hosts)


def instances_by_host(observed: Observed) -> dict[str, int]:
    return {host.host_id: sum(len(entry.instances) for entry in host.actors) for host in observed.hosts}


def test_nothing_new_is_placed_on_a_cordoned_host() -> None:
    closed = cordoned(TWO, "N1")
    commands = plan([COUNTER], images(COUNTER), closed)
    assert {command.host_id for command in commands if isinstance(command, ScaleActor | StartProvider)} == {"N2"}
    with pytest.raises(PlanError, match="no host is running and is not cordoned"):
        plan([COUNTER], images(COUNTER), cordoned(closed, "N2"))


def test_what_runs_on_a_cordoned_host_goes_on_and_more_of_it_runs_elsewhere() -> None:
    known = images(COUNTER)
    running = carry_out(plan([COUNTER], known, TWO), TWO)
    assert instances_by_host(running) == {"N1": 4, "N2": 0}
    closed = cordoned(running, "N1")
    assert plan([COUNTER], known, closed) == []
    counter = next(part for part in COUNTER.components if isinstance(part, ActorComponent))
    others = [part for part in COUNTER.components if part is not counter]
    more = application("counter", replace(counter, scaler=Scaler("spreadscaler", 6)), *others)
    grown = carry_out(plan([more], known, closed), closed)
    assert instances_by_host(grown) == {"N1": 4, "N2": 2}
    assert plan([more], known, grown) == []
    with pytest.raises(PlanError, match="is cordoned, and no other host fits, for 2 more of counter"):
        plan([more], known, cordoned(closed, "N2"))


def test_the_labels_of_a_spread_stay_with_what_it_places() -> None:
    spread = Scaler("spreadscaler", 1, (Spread("west", {"zone": "west"}),))
    app = application("app", actor("a", scaler=spread))
    (command,) = plan([app], images(app), Observed(HOSTS, LinkTable()))
    assert isinstance(command, ScaleActor)
    assert command.annotations["wasmhost/constraint.zone"] == "west"


def test_instances_that_are_arriving_from_another_host_are_left_alone() -> None:
    known = images(ECHO)
    running = carry_out(plan([ECHO], known, TWO), TWO)
    (entry,) = running.hosts[0].actors
    marked = {**entry.instances[0].annotations, moving.MARK: "N1:1"}
    arriving = replace(entry, instances=[replace(entry.instances[0], annotations=marked)])
    there = replace(running.hosts[1], actors=(arriving,))
    assert plan([ECHO], known, replace(running, hosts=[running.hosts[0], there])) == []
