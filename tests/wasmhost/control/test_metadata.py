"""Links and claims as several hosts see them: through the bucket, and without JetStream through events."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from lattice import subjects
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Code, Unreachable
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.store import open_bucket
from tests.support.nats import NatsServer, with_limited_user
from tests.wasmhost.control.linking import ACTOR, PROVIDER, link
from tests.wasmhost.control.waiting import until
from wasmhost.control.events import EventPublisher
from wasmhost.knowledge.entries import as_texts
from wasmhost.knowledge.metadata import Metadata


def claims(subject: str = ACTOR, alias: str = "x/y") -> dict[str, str]:
    return {"sub": subject, "iss": "A", "name": "n", "rev": "1", "caps": "a,b", "call_alias": alias}


Open = Callable[[str], Awaitable[Metadata]]


@pytest.fixture
async def opened(lattice: str, nats_server: NatsServer) -> AsyncIterator[SimpleNamespace]:
    """``opened.at(url, host)`` opens the metadata of one more host; all are closed at the end."""
    closing: list[Callable[[], Awaitable[None]]] = []

    async def at(host: str, url: str = nats_server.url, js_domain: str | None = None) -> Metadata:
        connection = await connect(ConnectOptions(url=url))
        publish = EventPublisher(connection, lattice, host).publish
        metadata = Metadata(connection, lattice, host_id=host, js_domain=js_domain, publish_event=publish)
        await metadata.open()
        closing.extend([connection.drain, metadata.close])
        return metadata

    yield SimpleNamespace(at=at)
    for close in reversed(closing):
        await close()


async def test_what_one_host_puts_every_host_knows_and_a_new_one_finds(opened: SimpleNamespace) -> None:
    one, two = await opened.at("N1"), await opened.at("N2")
    told: list[tuple[LinkDefinition, LinkDefinition | None]] = []
    gone: list[LinkDefinition] = []
    two.on_link_set = lambda new, previous: told.append((new, previous))
    two.on_link_deleted = gone.append
    await one.put_link(link(a="1"))
    await one.put_claims(claims())
    assert list(one.links) == [link(a="1")]  # the snapshot has it when put returns
    await until(lambda: list(two.links) == [link(a="1")] and ACTOR in two.claims)
    await one.put_link(link(a="2"))
    await until(lambda: told == [(link(a="1"), None), (link(a="2"), link(a="1"))])

    three = await opened.at("N3")
    assert list(three.links) == [link(a="2")]
    assert three.alias("X/Y") == ACTOR
    assert three.claims[ACTOR]["caps"] == "a,b"

    assert await three.delete_link(link().key) == link(a="2")
    assert await three.delete_link(link().key) is None
    await until(lambda: gone == [link(a="2")])
    assert len(two.links) == 0


async def test_what_was_there_before_a_host_is_no_news_to_it(opened: SimpleNamespace) -> None:
    one = await opened.at("N1")
    await one.put_link(link())
    two = await opened.at("N2")
    told: list[object] = []
    two.on_link_set = lambda *change: told.append(change)
    await one.put_link(link(1))
    await until(lambda: bool(told))
    assert told == [(link(1), None)]


async def test_many_hosts_writing_one_link_end_with_the_same_values(opened: SimpleNamespace) -> None:
    hosts = [await opened.at(f"N{number}") for number in range(3)]

    async def write(metadata: Metadata, name: str) -> None:
        for number in range(20):
            await metadata.put_link(link(writer=name, turn=str(number)))

    await asyncio.gather(*(write(metadata, str(index)) for index, metadata in enumerate(hosts)))
    bucket = await open_bucket(hosts[0]._connection, subjects.metadata_bucket(hosts[0]._lattice))
    stored = await bucket.get(f"LINKDEF_{link().id}")
    assert stored is not None
    last = LinkDefinition.from_json(json.loads(stored.value))
    await until(lambda: all(list(metadata.links) == [last] for metadata in hosts))


async def test_a_host_that_has_not_heard_of_a_change_yet_neither_forgets_a_link_nor_leaves_one(
    opened: SimpleNamespace, tmp_path: Path
) -> None:
    """The next command may reach another host than the one before, sooner than the bucket's watch tells that host."""
    never_told = with_limited_user("$JS.API.CONSUMER.>")
    server = NatsServer(tmp_path / "nats", config=never_told).start()
    try:
        one = await opened.at("N1", server.login_url("full"))
        two = await opened.at("N2", server.login_url("limited"))
        assert two.degraded is not None and "CONSUMER" in two.degraded.upper()
        gone: list[LinkDefinition] = []
        two.on_link_deleted = gone.append
        await one.put_link(link(a="1"))
        assert await two.stored_link(link().key) == link(a="1") and len(two.links) == 0
        assert await two.delete_link(link().key) == link(a="1") and gone == [link(a="1")]
        await until(lambda: len(one.links) == 0)

        await two.put_link(link(a="2"))
        await until(lambda: list(one.links) == [link(a="2")])
        await one.delete_link(link().key)
        assert list(two.links) == [link(a="2")] and await two.stored_link(link().key) is None
        await two.put_link(link(a="2"))  # what linking does then
        await until(lambda: list(one.links) == [link(a="2")])

        server.stop()
        assert await two.stored_link(link().key) == link(a="2")
    finally:
        server.stop()


async def test_a_bucket_that_may_not_be_watched_for_a_while_is_watched_again(
    opened: SimpleNamespace, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats", config=with_limited_user()).start()
    try:
        one = await opened.at("N1", server.login_url("full"))
        two = await opened.at("N2", server.login_url("limited"))
        await one.put_link(link(1))
        await one.put_link(link(2))
        await until(lambda: len(two.links) == 2)
        server.stop()
        server.start(config=with_limited_user("$JS.API.CONSUMER.>"))
        await until(lambda: two.degraded is not None and "cannot be watched" in two.degraded, 20)
        assert await reconnected(one)
        await one.delete_link(link(1).key)
        await one.put_link(link(3))
        assert list(two.links) == [link(1), link(2)]  # what was known before is used
        await asyncio.to_thread(server.reload, with_limited_user())
        await until(lambda: two.degraded is None, 20)
        await until(lambda: list(two.links) == [link(2), link(3)])
    finally:
        server.stop()


async def test_corrupt_entries_are_named_and_left_out_and_the_others_used(
    opened: SimpleNamespace, client: Connection, lattice: str
) -> None:
    metadata = await opened.at("N1")
    await metadata.put_link(link(1, kept="yes"))
    bucket = await open_bucket(client, subjects.metadata_bucket(lattice))
    good = json.dumps(link().to_json()).encode()
    bad = {
        f"LINKDEF_{'A' * 64}": good,  # the key is not the hash of its content
        f"LINKDEF_{link(2).id}": b"{",
        f"LINKDEF_{link(3).id}": b"[]",
        f"LINKDEF_{link(4).id}": json.dumps({**link(4).to_json(), "values": {"a": 1}}).encode(),
        f"LINKDEF_{link(1).id}": b"\xff\xfe",  # of a link that was all right: it stays what it was
        f"CLAIMS_{ACTOR}": b"5",
        f"CLAIMS_{PROVIDER}": b'{"sub": {"a": 1}}',
        "CLAIMS_Mother": json.dumps(claims()).encode(),  # of somebody else than the key says
        "REFMAP_x": b"?",
    }
    dotted = LinkDefinition(actor_id=ACTOR, provider_id=PROVIDER, contract_id="a:b", link_name="a.b")
    bad[f"LINKDEF_{dotted.id}"] = json.dumps(dotted.to_json()).encode()
    with capture_logs() as lines:
        for key, value in bad.items():
            await bucket.put(key, value)
        await bucket.put("other", b"?")  # none of ours: no business of ours either
        await bucket.put(f"LINKDEF_{link(7).id}", json.dumps(link(7).to_json()).encode())
        await until(lambda: list(metadata.links) == [link(1, kept="yes"), link(7)])
    assert [line["key"] for line in lines if line["event"] == "metadata.entry_malformed"] == list(bad)
    assert dict(metadata.claims) == {}
    assert metadata.degraded is not None and f"LINKDEF_{'A' * 64} and 9 more" in metadata.degraded
    late = await opened.at("N2")  # reads all of it at its start
    assert list(late.links) == [link(7)] and late.degraded is not None

    for key in bad:
        await bucket.delete(key)
    await bucket.purge(f"LINKDEF_{link(7).id}")  # as Elixir hosts delete
    await until(lambda: len(metadata.links) == 0 and metadata.degraded is None)


async def test_entries_of_every_kind_of_writer_are_read(
    opened: SimpleNamespace, client: Connection, lattice: str
) -> None:
    """Control clients write links themselves up to 0.30, hosts of two generations claims in two forms."""
    metadata = await opened.at("N1")
    bucket = await open_bucket(client, subjects.metadata_bucket(lattice))
    without_id = {name: value for name, value in link(1, a="b").to_json().items() if name != "id"}
    await bucket.put(f"LINKDEF_{link(1).id}", json.dumps(without_id, indent=2).encode())
    await bucket.put(f"LINKDEF_{link(2).id}", json.dumps({**link(2).to_json(), "values": None, "new": [1]}).encode())
    await bucket.put(f"CLAIMS_{ACTOR}", json.dumps({**claims(), "version": None}).encode())
    typed = {"subject": PROVIDER, "issuer": "A", "name": "kv", "revision": 2, "contract_id": "a:b", "version": "1"}
    await bucket.put(f"CLAIMS_{PROVIDER}", json.dumps(typed).encode())
    await bucket.put("REFMAP_eC95OjE", b'{"oci_url": "x/y:1", "public_key": "M1"}')
    await until(lambda: len(metadata.links) == 2 and len(metadata.claims) == 2 and len(metadata.references) == 1)
    assert list(metadata.links) == [link(1, a="b"), link(2)]
    assert metadata.claims[ACTOR]["version"] == "" and metadata.claims[PROVIDER]["iss"] == "A"
    assert dict(metadata.references) == {"x/y:1": "M1"} and metadata.degraded is None


async def test_entries_are_written_as_classic_hosts_do(
    opened: SimpleNamespace, client: Connection, lattice: str
) -> None:
    metadata = await opened.at("N1")
    defined = LinkDefinition(actor_id=ACTOR, provider_id=PROVIDER, contract_id="wasmcloud:keyvalue", values={"é": "x"})
    await metadata.put_link(defined)
    await metadata.put_claims(claims())
    await metadata.put_reference("ghcr.io/x/echo:0.3.4", ACTOR)
    await metadata.put_reference("x" * 5000, ACTOR)  # as a key it would not fit into a subject
    bucket = await open_bucket(client, subjects.metadata_bucket(lattice))
    link_key = "LINKDEF_314538C0C78AD02F3D9E6BE06A6540B8197C7A85DA0B03ACCCDDFCEF7658AE25"
    stored = {key: (await bucket.get(key)).value for key in await bucket.keys()}  # type: ignore[union-attr]
    assert stored == {
        link_key: (
            f'{{"id":"{link_key.removeprefix("LINKDEF_")}","actor_id":"{ACTOR}","provider_id":"{PROVIDER}",'
            '"link_name":"default","contract_id":"wasmcloud:keyvalue","values":{"é":"x"}}'
        ).encode(),
        f"CLAIMS_{ACTOR}": (
            f'{{"sub":"{ACTOR}","iss":"A","name":"n","rev":"1","caps":"a,b","call_alias":"x/y"}}'
        ).encode(),
        "REFMAP_Z2hjci5pby94L2VjaG86MC4zLjQ": f'{{"oci_url":"ghcr.io/x/echo:0.3.4","public_key":"{ACTOR}"}}'.encode(),
    }
    info = json.loads((await client.request(f"$JS.API.STREAM.INFO.KV_LATTICEDATA_{lattice}", b"", timeout=5.0)).payload)
    config = info["config"]
    assert (config["subjects"], config["max_msgs_per_subject"]) == ([f"$KV.LATTICEDATA_{lattice}.>"], 1)
    assert config["allow_direct"] and config["allow_rollup_hdrs"] and config["storage"] == "file"
    await metadata.delete_link(defined.key)
    raw = await client.request(
        f"$JS.API.STREAM.MSG.GET.KV_LATTICEDATA_{lattice}",
        json.dumps({"last_by_subj": f"$KV.LATTICEDATA_{lattice}.{link_key}"}).encode(),
        timeout=5.0,
    )
    headers = base64.b64decode(json.loads(raw.payload)["message"]["hdrs"])
    assert b"KV-Operation: DEL" in headers  # later Rust hosts do not read PURGE


async def test_an_alias_stays_with_the_first_actor_until_that_is_forgotten(
    opened: SimpleNamespace, client: Connection, lattice: str
) -> None:
    metadata = await opened.at("N1")
    other = KeyPair.from_raw(Role.MODULE, bytes([5]) * 32).public
    await metadata.put_claims(claims())
    await metadata.put_claims(claims(other))
    await metadata.put_claims(claims())  # as a restarted host does
    assert metadata.alias("x/y") == ACTOR
    assert metadata.alias("nobody") is None
    assert (await opened.at("N2")).alias("x/y") == ACTOR  # which reads them in the order in which they were stored
    bucket = await open_bucket(client, subjects.metadata_bucket(lattice))
    await bucket.delete(f"CLAIMS_{ACTOR}")
    await until(lambda: metadata.alias("x/y") == other)


def test_the_typed_claims_of_later_classic_hosts_are_read_as_texts() -> None:
    typed = {
        "call_alias": None,
        "capabilities": ["a", "b"],
        "issuer": "A",
        "name": "n",
        "revision": 3,
        "subject": "M",
        "tags": [],
        "version": "1",
    }
    assert as_texts(typed) == {
        "call_alias": "",
        "caps": "a,b",
        "iss": "A",
        "name": "n",
        "rev": "3",
        "sub": "M",
        "tags": "",
        "version": "1",
    }


async def test_without_jetstream_links_travel_by_events_and_move_into_the_bucket_when_it_comes(
    opened: SimpleNamespace, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "plain", jetstream=False).start()
    try:
        one, two = await opened.at("N1", server.url), await opened.at("N2", server.url)
        assert one.degraded is not None and "JetStream" in one.degraded
        await one.put_link(link(a="1"))
        await one.put_link(link(1))
        await one.put_claims(claims())
        await until(lambda: list(two.links) == [link(a="1"), link(1)])
        await two.delete_link(link(1).key)
        await until(lambda: list(one.links) == [link(a="1")])

        server.stop()
        server = NatsServer(tmp_path / "full", port=server.port).start()
        await until(lambda: one.degraded is None and two.degraded is None, timeout=20)
        await until(lambda: list(two.links) == [link(a="1")] and ACTOR in two.claims)
    finally:
        server.stop()


async def test_jetstream_that_is_switched_on_later_with_a_domain_is_found(
    opened: SimpleNamespace, lattice: str, tmp_path: Path
) -> None:
    folder = tmp_path / "nats"
    off = "# nothing yet\n"
    on = f'jetstream {{ domain: core, store_dir: "{folder / "later"}" }}\n'
    server = NatsServer(folder, jetstream=False, config=on).start()
    try:
        # what was stored in former times, before a start of the server without JetStream
        before = await opened.at("N0", server.url, "core")
        assert before.degraded is None
        await before.put_link(link(1))
        server.stop()
        server = NatsServer(folder, jetstream=False, config=off, port=server.port).start()
        one = await opened.at("N1", server.url, "core")
        assert one.degraded is not None and len(one.links) == 0
        told: list[LinkDefinition] = []
        one.on_link_set = lambda new, previous: told.append(new)
        await one.put_link(link(2))
        server.stop()
        server = NatsServer(folder, jetstream=False, config=on, port=server.port).start()
        await until(lambda: one.degraded is None and len(one.links) == 2, timeout=20)
        assert sorted(told, key=lambda each: each.link_name) == [link(1), link(2)]
        await until(lambda: len(before.links) == 2, timeout=20)
    finally:
        server.stop()


async def test_what_was_changed_without_jetstream_counts_when_it_comes_back_with_what_it_held(
    opened: SimpleNamespace, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats").start()
    plain = NatsServer(tmp_path / "plain", jetstream=False, port=server.port)
    try:
        before = await opened.at("N0", server.url)
        for number in range(3):
            await before.put_link(link(number, age="old"))
        server.stop()
        plain.start()
        one = await opened.at("N1", server.url)
        await one.put_link(link(0, age="new"))
        two = await opened.at("N2", server.url)
        await one.put_link(link(1, age="new"))
        await until(lambda: link(1).key in two.links)
        await two.delete_link(link(1).key)
        await until(lambda: list(one.links) == [link(0, age="new")])
        plain.stop()
        server.start()
        known = {link.id: link for link in (link(0, age="new"), link(2, age="old"))}
        hosts = one, two, before
        await until(lambda: all(each.degraded is None for each in hosts), 20)
        await until(lambda: all({link.id: link for link in each.links} == known for each in hosts), 20)
        for each in (link(0), link(1), link(2)):
            assert await before.stored_link(each.key) == known.get(each.id)
    finally:
        plain.stop()
        server.stop()


async def test_links_outlive_a_restart_of_the_server(opened: SimpleNamespace, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    try:
        one, two = await opened.at("N1", server.url), await opened.at("N2", server.url)
        await one.put_link(link(1))
        await until(lambda: len(two.links) == 1)
        server.restart()
        assert await reconnected(one)
        await one.put_link(link(2))
        await until(lambda: list(two.links) == [link(1), link(2)], timeout=20)
        assert list(one.links) == [link(1), link(2)]
    finally:
        server.stop()


async def test_what_was_made_known_while_jetstream_was_away_is_stored_once_it_is_back(
    opened: SimpleNamespace, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats").start()
    try:
        one, two = await opened.at("N1", server.url), await opened.at("N2", server.url)
        server.stop()
        await one.put_claims(claims(alias="old"))  # no server at all
        plain = NatsServer(tmp_path / "plain", jetstream=False, port=server.port).start()
        try:
            assert await reconnected(one)
            await one.put_claims(claims())
            await one.put_reference("x/y:1", ACTOR)
            await one.put_claims(claims(PROVIDER, ""))
        finally:
            plain.stop()
        server.start()
        await until(lambda: set(two.claims) == {ACTOR, PROVIDER} and dict(two.references) == {"x/y:1": ACTOR}, 20)
        assert two.alias("x/y") == ACTOR
        await one.put_claims(claims(alias="new"))
        await until(lambda: two.alias("new") == ACTOR)
    finally:
        server.stop()


async def reconnected(metadata: Metadata) -> bool:
    """Whether a request passes again; one fails at once while the connection is lost."""
    async with asyncio.timeout(20):
        while True:
            try:
                await metadata._connection.request("$JS.API.INFO", b"", timeout=1.0)
                return True
            except Unreachable as error:
                if error.code is Code.NO_RESPONDERS:
                    return True  # a server without JetStream says so
                await asyncio.sleep(0.05)
