"""Several hosts on a NATS server without JetStream: what one knows, all know, and they come to rest."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lattice import cloudevents, subjects
from lattice.claims import read_actor
from lattice.connection import Connection, ConnectOptions, connect
from lattice.links import LinkDefinition
from tests.support.nats import NatsServer
from tests.support.processes import ROOT
from tests.wasmhost.control.asking import ACCEPTED, Asker
from tests.wasmhost.control.linking import ACTOR, PROVIDER, link
from tests.wasmhost.control.waiting import EventLog, until
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.host import Host

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"


@pytest.fixture
def plain_server(tmp_path: Path) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "plain", jetstream=False).start()
    yield server
    server.stop()


@pytest.fixture
async def client(plain_server: NatsServer) -> AsyncIterator[Connection]:
    connection = await connect(ConnectOptions(url=plain_server.url))
    yield connection
    await connection.drain()


@pytest.fixture
async def start(
    config: HostConfig, another: Callable[[str], HostConfig], plain_server: NatsServer
) -> AsyncIterator[Callable[[str], Any]]:
    """``start(name)`` opens one more host; all are closed at the end."""
    endpoint = NatsEndpoint(url=plain_server.url)
    trusted = frozenset({read_actor(ECHO.read_bytes()).issuer})

    async with AsyncExitStack() as hosts:

        async def one(name: str) -> Host:
            own = replace(another(name), rpc=endpoint, control=endpoint, providers=endpoint, trusted_issuers=trusted)
            return await hosts.enter_async_context(Host(own))

        yield one


async def test_hosts_that_change_one_link_at_the_same_time_agree_and_each_change_is_told_once(
    start: Callable[[str], Any], client: Connection, lattice: str
) -> None:
    hosts = [await start(f"h{number}") for number in range(3)]
    told = await EventLog.open(client, lattice)

    async def change(host: Host, name: str) -> None:
        for turn in range(10):
            await host.metadata.put_link(link(writer=name, turn=str(turn)))
            await asyncio.sleep(0)  # let the others' changes in between
        await host.metadata.delete_link(link().key)
        await host.metadata.put_link(link(writer=name, turn="last"))

    await asyncio.gather(*(change(host, str(index)) for index, host in enumerate(hosts)))
    for turn in range(1, 3):
        for host in hosts:
            host.metadata._connection.publish(subjects.events(lattice), cloudevents.encode("quiet", host.host_id, {}))
        await told.wait("quiet", count=3 * turn)
        await until(lambda: all(list(host.metadata.links) == list(hosts[0].metadata.links) for host in hosts))
    (last,) = hosts[0].metadata.links
    assert last.values["turn"] == "last"
    told_of = [event for event in told.events if event.name.startswith("linkdef_")]
    assert len(told_of) <= 3 * 12  # a writer whose link was changed meanwhile may find nothing to delete
    newest = max(told_of, key=lambda event: (event.data["changed_us"], event.source))
    assert LinkDefinition.from_json(newest.data) == last


async def test_a_host_that_starts_later_or_comes_back_knows_what_the_others_do(
    start: Callable[[str], Any], client: Connection, lattice: str
) -> None:
    one = await start("h0")
    asker = Asker(client, lattice, "json")
    assert await asker.ask(asker.subjects.linkdefs_put(), link(a="1").to_json()) == ACCEPTED
    reference = ECHO.as_uri()
    await asker.ask(asker.subjects.command(one.host_id, "la"), {"actor_ref": reference, "host_id": one.host_id})
    claims = read_actor(ECHO.read_bytes())
    await until(lambda: one.metadata.claims_of(claims.subject))

    two = await start("h1")
    assert list(two.metadata.links) == [link(a="1")]
    assert two.metadata.claims_of(claims.subject) == one.metadata.claims_of(claims.subject)
    assert "JetStream" in two.metadata.degraded

    # from now on it listens: for what starts, too
    await asker.ask(asker.subjects.command(one.host_id, "lp"), {"provider_ref": "bundled:keyvalue"})
    await until(lambda: set(two.metadata.claims) == set(one.metadata.claims) and len(two.metadata.claims) == 2)
    for key, known in one.metadata.claims.items():
        heard = two.metadata.claims[key]
        assert {**heard, "rev": known["rev"]} == dict(known)  # the event of a provider does not say its revision


async def test_what_hosts_with_other_habits_tell_is_heard(
    start: Callable[[str], Any], client: Connection, lattice: str
) -> None:
    """Classic hosts, and those that have found JetStream already, do not say when a link was changed."""
    host = await start("h0")

    def tell(name: str, data: dict[str, Any], source: str = "N1") -> None:
        client.publish(subjects.events(lattice), cloudevents.encode(name, source, data))

    tell("linkdef_set", link(a="1").to_json(), "n/a")
    await until(lambda: list(host.metadata.links) == [link(a="1")])
    tell("linkdef_set", {**link(a="2").to_json(), "changed_us": 5})  # long ago
    tell("linkdef_set", {**link(a="2").to_json(), "changed_us": "soon"})
    tell("linkdef_set", {**link(a="2").to_json(), "actor_id": "M*"})
    tell("actors_started", {"public_key": ACTOR, "claims": [1]})
    tell("actors_started", {"public_key": PROVIDER, "claims": {}})
    tell("provider_started", {"public_key": "V*", "claims": {}})
    client.publish(subjects.events(lattice), json.dumps({"type": "com.wasmcloud.lattice.linkdef_set"}).encode())
    tell("linkdef_set", link(1).to_json())
    await until(lambda: len(host.metadata.links) == 2)
    assert list(host.metadata.links) == [link(a="1"), link(1)]
    tell("linkdef_deleted", link().to_json())
    claims = {"issuer": "A", "name": "n", "version": None, "revision": 2, "caps": ["a", "b"], "call_alias": "x/y"}
    tell("actors_started", {"public_key": ACTOR, "claims": claims})
    await until(lambda: host.metadata.alias("x/y") == ACTOR)
    assert list(host.metadata.links) == [link(1)]
    assert host.metadata.claims[ACTOR]["caps"] == "a,b" and len(host.metadata.claims) == 1
