"""The key-value provider on Redis: where it connects to, what it leaves there, and servers that fail."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattice import bundled
from lattice.contracts import keyvalue as kv
from lattice.errors import LatticeError, RemoteError
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from providers.keyvalue.redis.address import Address
from providers.keyvalue.redis.server import Server
from tests.support.keyvalue import Store
from tests.support.nats import free_port
from tests.support.providers import HostSide, ProviderProcess
from tests.support.redis import RedisServer

REDIS = bundled.find("bundled:redis")
PASSWORD = "hunter2-hunter2"


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that the test may stop; not started."""
    server = RedisServer(tmp_path / "redis")
    yield server
    server.stop()


def link(host: HostSide, actor: str, **values: str) -> LinkDefinition:
    return host.link(actor, REDIS.public_key, REDIS.contract_id, **values)


async def start(host: HostSide, *links: LinkDefinition, config: str | None = None) -> ProviderProcess:
    return await host.start(REDIS.module, host.host_data(REDIS.public_key, *links, config_json=config))


async def until_it_works(store: Store, timeout: float = 8) -> int:
    async with asyncio.timeout(timeout):
        while True:
            try:
                return await store.increment("back", 0)
            except LatticeError:
                await asyncio.sleep(0.05)


# --- where it connects to, and what is there ---


async def test_keys_and_values_are_plain_redis_ones(host: HostSide, actor: str, redis_server: RedisServer) -> None:
    url = redis_server.database()
    store = Store(await start(host, link(host, actor, Url=url)), actor)
    assert await store.increment("counter:/x", 3) == 3
    await store.set("text", "wörd", expires=100)
    await store.list_add("list", "a")
    await store.set_add("set", "b")

    def raw(*words: str) -> bytes:
        return redis_server.command(*words, database=url)

    assert raw("GET", "counter:/x") == b"$1\r\n3\r\n"
    assert raw("GET", "text") == b"$5\r\nw\xc3\xb6rd\r\n"
    assert raw("TTL", "text") in (b":100\r\n", b":99\r\n")
    assert raw("LRANGE", "list", "0", "-1") == b"*1\r\n$1\r\na\r\n"
    assert raw("SMEMBERS", "set") == b"*1\r\n$1\r\nb\r\n"
    assert raw("DBSIZE") == b":4\r\n"


async def test_a_link_names_its_server_else_the_start_configuration_does(
    host: HostSide, redis_server: RedisServer
) -> None:
    actors = [KeyPair.generate(Role.MODULE).public for _ in range(3)]
    one, two = redis_server.database(), redis_server.database()
    links = [link(host, actors[0]), link(host, actors[1], uRL=one), link(host, actors[2], URL=two)]
    process = await start(host, *links, config=json.dumps({"URL": two}))
    first, second, third = (Store(process, actor) for actor in actors)
    await first.set("k", "v")
    assert await second.get("k") is None
    assert await third.get("k") == "v"
    assert (await process.put(link(host, actors[0], url=one)))["state"] == "ready"
    assert await first.get("k") is None, "the link took its other values at once"


async def test_what_makes_no_sense_fails_the_link_with_the_reason(host: HostSide, actor: str) -> None:
    process = await start(host, link(host, actor), config=f'redis://:{PASSWORD}@db"')
    health = await process.health()
    assert health["links"][actor]["state"] == "failed"
    assert 'not a JSON document such as {"url"' in health["links"][actor]["reason"]
    put = await process.put(link(host, actor, URL=f"redis://:{PASSWORD}/@db/"))
    assert put["state"] == "failed"
    assert "special characters of a password are written as %XX" in put["reason"]
    with pytest.raises(RemoteError, match="is failed: invalid parameter"):
        await Store(process, actor).get("k")
    assert PASSWORD not in process.output + str(put) + str(await process.health())


async def test_foreign_data_are_an_error_and_no_crash(host: HostSide, actor: str, redis_server: RedisServer) -> None:
    url = redis_server.database()
    store = Store(await start(host, link(host, actor, URL=url)), actor)
    redis_server.command("SETBIT", "bytes", "0", "1", database=url)
    redis_server.command("HSET", "hash", "field", "value", database=url)
    with pytest.raises(RemoteError, match="redis error: what key 'bytes' holds is not UTF-8"):
        await store.get("bytes")
    with pytest.raises(RemoteError, match=r"^redis error: WRONGTYPE"):
        await store.get("hash")
    await store.set("hash", "1")
    assert await store.get("hash") == "1"


async def test_scripts_that_the_server_forgot_are_sent_again(
    host: HostSide, actor: str, redis_server: RedisServer
) -> None:
    store = Store(await start(host, link(host, actor, URL=redis_server.database())), actor)
    for n in range(3):
        redis_server.command("SCRIPT", "FLUSH")
        seen = await asyncio.gather(*(store.increment("k") for _ in range(20)))
        assert sorted(seen) == list(range(20 * n + 1, 20 * n + 21))


async def test_commands_of_one_turn_of_the_loop_leave_in_one_write(redis_server: RedisServer) -> None:
    server = Server(Address.parse(redis_server.database()))
    await server.settled()

    def reads() -> int:
        stats = redis_server.command("INFO", "stats").decode()
        return int(stats.partition("total_reads_processed:")[2].split()[0])

    before = reads()
    assert await asyncio.gather(*(server.ask("INCRBY", "k", 1) for _ in range(200))) == list(range(1, 201))
    assert reads() - before <= 5, "one or two for the 200 commands, the others for the question itself"
    await server.close()


async def test_links_with_one_url_share_a_connection_that_ends_with_the_last(
    host: HostSide, redis_server: RedisServer
) -> None:
    url = redis_server.database()
    number = url.rpartition("/")[2]
    links = [link(host, KeyPair.generate(Role.MODULE).public, URL=url) for _ in range(3)]
    process = await start(host, *links)

    def connections() -> int:
        return redis_server.command("CLIENT", "LIST").decode().count(f" db={number} ")

    assert connections() == 1
    for one in links[:2]:
        await process.delete(one)
    assert connections() == 1
    await process.delete(links[2])
    assert connections() == 0


# --- logins ---


async def test_a_password_is_used_and_never_shown(host: HostSide, tmp_path: Path) -> None:
    server = RedisServer(tmp_path / "redis", password=PASSWORD).start()
    actors = [KeyPair.generate(Role.MODULE).public for _ in range(3)]
    urls = [f"redis://{login}{server.address}/" for login in (f":{PASSWORD}@", f":not-{PASSWORD}@", "")]
    try:
        process = await start(host, *(link(host, actor, URL=url) for actor, url in zip(actors, urls, strict=True)))
        right, wrong, none = (Store(process, actor) for actor in actors)
        assert await right.increment("k") == 1
        with pytest.raises(RemoteError, match=f"No Redis connection found for {actors[1]}.*{server.address}.*password"):
            await wrong.increment("k")
        with pytest.raises(RemoteError, match=f"{server.address}: Authentication required"):
            await none.increment("k")
        told = str(await process.health()) + process.output
        assert server.address in told
        assert PASSWORD not in told
    finally:
        server.stop()


def make_certificate(key: Path, certificate: Path) -> None:
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)


async def test_a_certificate_is_checked_unless_the_url_says_otherwise(host: HostSide, tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make_certificate(key, certificate)
    files = ["--tls-cert-file", str(certificate), "--tls-key-file", str(key), "--tls-ca-cert-file", str(certificate)]
    port = free_port()
    server = RedisServer(tmp_path / "redis", *files, "--tls-auth-clients", "no", "--tls-port", str(port)).start()
    actors = [KeyPair.generate(Role.MODULE).public for _ in range(2)]
    try:
        url = f"rediss://127.0.0.1:{port}/"
        process = await start(host, link(host, actors[0], URL=url), link(host, actors[1], URL=url + "#insecure"))
        with pytest.raises(RemoteError, match=rf"127\.0\.0\.1:{port}: its certificate is not trusted"):
            await Store(process, actors[0]).increment("k")
        assert await Store(process, actors[1]).increment("k") == 1
    finally:
        server.stop()


async def test_a_unix_socket_is_an_address(host: HostSide, actor: str, tmp_path: Path) -> None:
    path = tmp_path / "redis.sock"
    server = RedisServer(tmp_path / "redis", "--unixsocket", str(path)).start()
    try:
        store = Store(await start(host, link(host, actor, URL=f"unix://{path}?db=1")), actor)
        assert await store.increment("k") == 1
        server.stop()
        with pytest.raises(RemoteError, match=f"{path}"):
            await store.increment("k")
    finally:
        server.stop()


# --- servers that fail ---


async def test_a_link_without_a_server_is_accepted_says_why_and_works_once_there_is_one(
    host: HostSide, actor: str, own_server: RedisServer
) -> None:
    address = own_server.address
    process = await start(host, link(host, actor, URL=f"redis://{address}/"))
    store = Store(process, actor)
    for _ in range(3):
        began = time.monotonic()
        with pytest.raises(RemoteError) as caught:
            await store.increment("k")
        assert time.monotonic() - began < 1
        text = str(caught.value)
        assert text.startswith(f"invalid parameter: No Redis connection found for {actor}. ")
        assert f"Redis at {address}: connection refused; start a server there" in text
    health = await process.health()
    assert health["state"] == "degraded"
    assert health["links"][actor]["state"] == "degraded"
    assert f"{address}: connection refused" in health["links"][actor]["reason"]
    again = await process.put(link(host, actor, URL=f"redis://{address}/2"))
    assert again["state"] == "degraded"
    assert "connection refused" in again["reason"]
    own_server.start()
    assert await store.increment("k") == 1, "at the first try"
    assert (await process.health())["healthy"] is True


async def test_a_host_name_that_nobody_knows_is_named(host: HostSide, actor: str) -> None:
    store = Store(await start(host, link(host, actor, URL="redis://redis.invalid/")), actor, timeout=5)
    with pytest.raises(RemoteError, match=r"redis\.invalid:6379: the name of the host is not known"):
        await store.get("k")


async def test_trouble_ends_by_itself_where_nobody_calls(host: HostSide, actor: str, own_server: RedisServer) -> None:
    process = await start(host, link(host, actor, URL=f"redis://{own_server.address}/"))
    assert (await process.health())["links"][actor]["state"] == "degraded"
    own_server.start()
    await process.until_link(actor, "ready")
    own_server.stop()
    await process.until_link(actor, "degraded")


async def test_a_hung_server_is_told_within_the_deadline_and_used_again(
    host: HostSide, actor: str, own_server: RedisServer
) -> None:
    own_server.start()
    store = Store(await start(host, link(host, actor, URL=f"redis://{own_server.address}/")), actor, timeout=1)
    assert await store.increment("k") == 1
    own_server.hang()
    began = time.monotonic()
    # a RemoteError: the provider answered before its caller would have given up
    with pytest.raises(RemoteError, match=rf"timeout: Redis at {own_server.address}: no answer within 0\.9 s"):
        await store.increment("k")
    while time.monotonic() - began < 7:  # longer than a silent connection is kept
        with pytest.raises(RemoteError, match=own_server.address):
            await store.get("k")
    own_server.go_on()
    assert await until_it_works(store) == 0
    assert await store.increment("k", 0) == 2, "the one that timed out took effect in the end, and once"


async def test_a_killed_server_loses_nothing_that_was_answered_and_nothing_counts_twice(
    host: HostSide, actor: str, own_server: RedisServer
) -> None:
    own_server.start()
    process = await start(host, link(host, actor, URL=f"redis://{own_server.address}/"))
    store = Store(process, actor)
    answered = uncertain = refused = 0
    stop = False

    async def count() -> None:
        nonlocal answered, uncertain, refused
        while not stop:
            try:
                await store.increment("load")
            except RemoteError as error:
                assert own_server.address in str(error)
                if "whether the command took effect is not known" in str(error):
                    uncertain += 1
                else:
                    assert "No Redis connection found" in str(error)
                    refused += 1
                await asyncio.sleep(0.01)
            else:
                answered += 1

    clients = [asyncio.create_task(count()) for _ in range(8)]
    for _ in range(3):
        await asyncio.sleep(0.4)
        await asyncio.to_thread(own_server.restart, signal.SIGKILL)
        before = answered
        async with asyncio.timeout(5):
            while answered < before + 20:  # noqa: ASYNC110 answers of other tasks
                await asyncio.sleep(0.02)
    stop = True
    await asyncio.gather(*clients)
    assert answered <= await store.increment("load", 0) <= answered + uncertain
    assert uncertain + refused > 0


async def test_a_connection_that_the_server_ends_is_replaced_before_the_next_call(
    host: HostSide, actor: str, redis_server: RedisServer
) -> None:
    store = Store(await start(host, link(host, actor, URL=redis_server.database())), actor)
    for n in range(1, 4):
        assert await store.increment("k") == n
        redis_server.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        await asyncio.sleep(0.05)


async def test_a_shutdown_does_not_wait_for_a_hung_server(host: HostSide, actor: str, own_server: RedisServer) -> None:
    own_server.start()
    process = await start(host, link(host, actor, URL=f"redis://{own_server.address}/"))
    store = Store(process, actor)
    await store.increment("k")
    own_server.hang()
    waiting = asyncio.create_task(store.increment("k"))
    await asyncio.sleep(0.1)
    assert await process.shut_down() == b"shutting down"
    assert await process.ended(timeout=8) == 0
    with pytest.raises(LatticeError):
        await waiting
    assert kv.INCREMENT in process.output
