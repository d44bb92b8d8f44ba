"""The HTTP server provider as a process, with stand-in actors on a real lattice."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from lattice import bundled, subjects
from lattice.chunks import MAX_MSG
from lattice.contracts.httpserver import HttpRequest, HttpResponse
from lattice.errors import Code
from lattice.invocation import Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.transport import Headers
from tests.support.nats import NatsServer, free_port
from tests.support.providers import HostSide, ProviderProcess
from tests.support.waiting import eventually

HTTP = bundled.find("bundled:httpserver")
LIMIT = 2_000_000


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def web() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        yield session


def link(host: HostSide, actor: str, port: int, /, **values: str) -> LinkDefinition:
    return host.link(actor, HTTP.public_key, HTTP.contract_id, **{"address": f"127.0.0.1:{port}", **values})


async def serve(host: HostSide, *links: LinkDefinition, **more: object) -> ProviderProcess:
    return await host.start(HTTP.module, host.host_data(HTTP.public_key, *links, **more))


def describe(invocation: Invocation) -> bytes:
    """Answers with what it was asked, as JSON."""
    request = HttpRequest.decode(invocation.msg)
    document = {
        "operation": invocation.operation,
        "method": request.method,
        "path": request.path,
        "query": request.query_string,
        "header": {name: list(values) for name, values in request.header.items()},
        "size": len(request.body),
        "text": request.body[:100].decode("latin-1"),
    }
    return HttpResponse(
        status_code=200, header={"content-type": ["application/json"]}, body=json.dumps(document).encode()
    ).encode()


def say(text: str) -> bytes:
    return HttpResponse(body=text.encode()).encode()


async def test_a_request_reaches_the_actor_as_it_was_sent(host: HostSide, port: int) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /a%20b/./c?q=%31&q=2 HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nx-a: 2\r\nX-Bin: caf\xe9\r\n"
        b"Content-Length: 4\r\n\r\nbody"
    )
    seen = json.loads(await one_answer(reader))
    writer.close()
    assert (seen["operation"], seen["method"]) == ("HttpServer.HandleRequest", "POST")
    assert (seen["path"], seen["query"]) == ("/a%20b/./c", "q=%31&q=2")
    assert seen["header"] == {"host": ["x"], "x-a": ["1", "2"], "content-length": ["4"]}
    assert seen["text"] == "body"


async def test_one_connection_serves_many_requests(host: HostSide, port: int) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for n in range(3):
        writer.write(f"GET /{n} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert json.loads(await one_answer(reader))["path"] == f"/{n}"
    writer.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\nGET /b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert [json.loads(await one_answer(reader))["path"] for _ in range(2)] == ["/a", "/b"]
    assert await reader.read() == b""
    writer.close()


async def one_answer(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(10):
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        return await reader.readexactly(int(length.split(b":")[1]))


async def test_old_clients_are_told_whether_the_connection_stays(host: HostSide, port: int) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Connection: keep-alive\r\n" in head
    writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    assert b"Connection: close\r\n" in await reader.read()
    writer.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_above_the_limit_is_refused_and_one_below_arrives(
    host: HostSide, web: aiohttp.ClientSession, port: int, chunked: bool
) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port, max_content_len=str(LIMIT)))

    async def pieces(size: int) -> AsyncIterator[bytes]:
        for at in range(0, size, 65536):
            yield b"x" * min(65536, size - at)

    url = f"http://127.0.0.1:{port}/"
    for size in (LIMIT + 1, 3 * LIMIT):
        async with web.post(url, data=pieces(size) if chunked else b"x" * size) as response:
            assert response.status == 413
            assert str(LIMIT) in (await response.json())["error"]
    async with web.post(url, data=pieces(LIMIT) if chunked else b"x" * LIMIT) as response:
        assert response.status == 200
        assert (await response.json())["size"] == LIMIT


def echo(invocation: Invocation) -> bytes:
    """The body of the request, as it came."""
    return HttpResponse(body=HttpRequest.decode(invocation.msg).body).encode()


@pytest.mark.parametrize("size", [MAX_MSG - 1000, MAX_MSG, MAX_MSG + 1, 8 * 1024 * 1024])
async def test_large_bodies_go_and_come_back_by_default(
    host: HostSide, web: aiohttp.ClientSession, port: int, size: int
) -> None:
    actor = await host.actor(echo)
    await serve(host, link(host, actor, port))
    body = os.urandom(size)
    async with web.post(f"http://127.0.0.1:{port}/", data=body) as response:
        assert response.status == 200
        assert await response.read() == body
    await host.chunks.close()
    for _ in range(200):  # the provider deletes what it has read behind the answer
        if not await host.in_store():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("something stayed in the object store")


async def test_without_jetstream_a_large_body_is_a_413_that_says_what_to_do(
    web: aiohttp.ClientSession, port: int, lattice: str, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path, jetstream=False).start()
    side = await HostSide.open(server.url, lattice)
    try:
        actor = await side.actor(echo)
        await serve(side, link(side, actor, port))
        url = f"http://127.0.0.1:{port}/"
        async with web.post(url, data=b"x" * 1000) as response:
            assert response.status == 200
        async with web.post(url, data=b"x" * MAX_MSG) as response:
            assert response.status == 413
            error = (await response.json())["error"]
        for part in ("921", "more than 921600", "JetStream is off", "start the server with -js"):
            assert part in error
    finally:
        await side.close()
        server.stop()


async def test_a_client_that_asks_first_is_told_to_continue_or_not(host: HostSide, port: int) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port, max_content_len=str(LIMIT)))
    for size, expected in ((5, b"HTTP/1.1 100 Continue\r\n\r\n"), (LIMIT + 1, b"HTTP/1.1 413")):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\nExpect: 100-continue\r\n\r\n".encode())
        assert (await reader.readexactly(len(expected))) == expected
        if size == 5:
            writer.write(b"hello")
            assert json.loads(await one_answer(reader))["text"] == "hello"
        writer.close()


async def test_compressed_bodies_are_passed_on_as_received(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port))
    headers = {"Content-Encoding": "gzip"}
    async with web.post(f"http://127.0.0.1:{port}/", data=b"not gzip", headers=headers) as response:
        assert (await response.json())["text"] == "not gzip"


async def failing(
    host: HostSide, web: aiohttp.ClientSession, port: int, response: InvocationResponse | None
) -> tuple[int, dict[str, str], aiohttp.ClientResponse, str]:
    """What a client sees when the actor answers with ``response`` (None: nothing)."""
    actor = KeyPair.generate(Role.MODULE).public
    seen: list[str] = []

    def on_message(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation = Invocation.decode(payload)
        seen.append(invocation.id)
        if response is not None:
            answer = InvocationResponse(
                invocation_id=invocation.id,
                msg=response.msg,
                error=response.error,
                code=response.code,
                retry_after=response.retry_after,
            )
            host.connection.publish(reply, answer.encode())

    subject = subjects.actor_rpc(host.name, actor)
    await host.connection.subscribe(subject, on_message, queue=subject)
    await serve(host, link(host, actor, port), default_rpc_timeout_ms=600)
    async with web.get(f"http://127.0.0.1:{port}/") as answer:
        document = json.loads(await answer.read())
    return answer.status, document, answer, seen[0]


async def test_an_error_of_the_actor_is_a_500_with_its_words(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    status, document, answer, invocation = await failing(host, web, port, InvocationResponse(error="no “milk”"))
    assert status == 500
    assert document == {"error": "no “milk”", "invocation": invocation}
    assert answer.headers["Wasmhost-Invocation"] == invocation


async def test_no_answer_in_time_is_a_504(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    status, document, answer, invocation = await failing(host, web, port, None)
    assert (status, document["invocation"]) == (504, invocation)
    assert answer.headers["Wasmhost-Invocation"] == invocation


async def test_an_actor_past_its_deadline_is_a_504(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    response = InvocationResponse(error="ran past its deadline of 1 s", code=Code.TIMED_OUT)
    assert (await failing(host, web, port, response))[0] == 504


async def test_overload_is_a_503_that_says_when_to_come_back(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    response = InvocationResponse(error="overloaded", code=Code.OVERLOADED, retry_after=2.2)
    status, document, answer, invocation = await failing(host, web, port, response)
    assert (status, document) == (503, {"error": "overloaded", "invocation": invocation})
    assert answer.headers["Retry-After"] == "3"


async def test_garbage_from_the_actor_is_a_500(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    status, document, _, _ = await failing(host, web, port, InvocationResponse(msg=b"\x01\x02"))
    assert status == 500
    assert "HttpResponse" in document["error"]


async def test_nobody_running_the_actor_is_a_503_at_once(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    actor = KeyPair.generate(Role.MODULE).public
    await serve(host, link(host, actor, port))
    started = asyncio.get_running_loop().time()
    async with web.get(f"http://127.0.0.1:{port}/") as response:
        assert response.status == 503
        assert len((await response.json())["invocation"]) == 32
        assert response.headers["Wasmhost-Invocation"]
        assert "Retry-After" not in response.headers
    assert asyncio.get_running_loop().time() - started < 1


async def test_actors_share_an_address_by_path_and_host(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    actors = {name: await host.actor(partial(lambda name, _: say(name), name)) for name in ("root", "api", "shop")}
    process = await serve(
        host,
        link(host, actors["root"], port),
        link(host, actors["api"], port, path_prefix="/api"),
        link(host, actors["shop"], port, host="shop.example"),
    )
    health = await process.health()
    assert {status["state"] for status in health["links"].values()} == {"ready"}

    async def ask(path: str, name: str = "else") -> str:
        async with web.get(f"http://127.0.0.1:{port}{path}", headers={"Host": name}) as response:
            return await response.text()

    assert await ask("/") == "root"
    assert await ask("/api/x?y") == "api"
    assert await ask("/apix") == "root"
    assert await ask("/api", "shop.example:80") == "shop"

    await process.delete(link(host, actors["root"], port))
    async with web.get(f"http://127.0.0.1:{port}/none") as response:
        assert response.status == 404
        assert "no actor is linked" in (await response.json())["error"]
    assert await ask("/api/x") == "api"


async def test_the_second_link_with_the_same_route_fails_with_the_reason(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    first = await host.actor(lambda _: say("first"))
    second = await host.actor(lambda _: say("second"))
    process = await serve(host, link(host, first, port))
    failed = await process.put(link(host, second, port))
    assert failed["state"] == "failed"
    assert f"127.0.0.1:{port}" in failed["reason"]
    assert first in failed["reason"]
    async with web.get(f"http://127.0.0.1:{port}/") as response:
        assert await response.text() == "first"
    # once the first is gone the second takes over by itself
    await process.delete(link(host, first, port))
    await process.until_link(second, "ready")
    async with web.get(f"http://127.0.0.1:{port}/") as response:
        assert await response.text() == "second"


async def test_a_port_in_use_fails_the_link_until_it_is_free(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    actor = await host.actor(describe)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", port))
        other.listen()
        process = await serve(host, link(host, actor, port))
        health = await process.health()
        assert health["links"][actor] == {"state": "failed", "reason": f"127.0.0.1:{port} in use"}
        assert (health["healthy"], health["state"]) == (False, "failed")
    await process.until_link(actor, "ready")
    async with web.get(f"http://127.0.0.1:{port}/") as response:
        assert response.status == 200


async def test_a_removed_link_finishes_its_requests_and_frees_the_port(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    actor = await host.held()
    process = await serve(host, link(host, actor.key, port), default_rpc_timeout_ms=10_000)
    request = asyncio.create_task(web.get(f"http://127.0.0.1:{port}/"))
    answer = await actor.next()
    assert await process.delete(link(host, actor.key, port)) == {"state": "removed"}
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)
    answer(say("late but whole"))
    response = await request
    assert (response.status, await response.text()) == (200, "late but whole")
    # the port can be used again, also by this provider
    other = await host.actor(lambda _: say("other"))
    assert await process.put(link(host, other, port)) == {"state": "ready"}
    async with web.get(f"http://127.0.0.1:{port}/") as again:
        assert await again.text() == "other"


async def test_a_link_moves_to_another_port_without_a_gap(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    actor = await host.actor(lambda _: say("here"))
    process = await serve(host, link(host, actor, port))
    taken, free = free_port(), free_port()
    with socket.socket() as other:
        other.bind(("127.0.0.1", taken))
        other.listen()
        moved = await process.put(link(host, actor, taken))
        assert moved["state"] == "degraded"
        assert moved["reason"].startswith(f"127.0.0.1:{taken} in use")
        async with web.get(f"http://127.0.0.1:{port}/") as response:
            assert await response.text() == "here"
        assert await process.put(link(host, actor, free)) == {"state": "ready"}
    async with web.get(f"http://127.0.0.1:{free}/") as response:
        assert await response.text() == "here"
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_a_link_widens_and_narrows_its_address_on_the_port_that_it_has(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    actor, neighbour = await host.actor(lambda _: say("here")), await host.actor(lambda _: say("there"))
    process = await serve(host, link(host, actor, port))
    for address in ("0.0.0.0", "[::]", "127.0.0.1"):
        assert await process.put(link(host, actor, port, address=f"{address}:{port}")) == {"state": "ready"}
        async with web.get(f"http://127.0.0.1:{port}/") as response:
            assert await response.text() == "here"
    with pytest.raises(OSError):
        await asyncio.open_connection("::1", port)  # the wider ones are not listened at any more
    beside = link(host, neighbour, port, path_prefix="/there")
    assert await process.put(beside) == {"state": "ready"}
    wide = await process.put(link(host, actor, port, address=f"0.0.0.0:{port}"))
    assert wide["state"] == "degraded" and f"0.0.0.0:{port} in use" in wide["reason"]  # by the neighbour's link
    with pytest.raises(OSError), socket.socket() as stranger:
        stranger.bind(("127.0.0.1", port))


async def test_a_client_that_went_away_costs_nothing(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    actor = await host.held()
    process = await serve(host, link(host, actor.key, port))
    gone = []
    for sent in (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc"):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        await writer.drain()
        if sent.startswith(b"GET"):
            gone.append(await actor.next())
        else:
            await asyncio.sleep(0.1)
        writer.transport.abort()
    gone[0](say("for nobody"))
    request = asyncio.create_task(web.get(f"http://127.0.0.1:{port}/"))
    answer = await actor.next()
    answer(say("next"))
    assert await (await request).text() == "next"
    assert {event["level"] for event in process.events} == {"info"}, process.output


async def test_what_is_not_http_gets_a_400_and_no_log_of_ours(host: HostSide, port: int) -> None:
    actor = await host.actor(describe)
    process = await serve(host, link(host, actor, port))
    for garbage in (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(garbage)
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400")), (garbage[:40], answer[:80])
        writer.close()
    assert {event["level"] for event in process.events} == {"info"}, process.output


async def test_bad_link_values_fail_the_link_with_every_problem(host: HostSide) -> None:
    actor = KeyPair.generate(Role.MODULE).public
    process = await serve(host)
    failed = await process.put(host.link(actor, HTTP.public_key, HTTP.contract_id, address="here", timeout_ms="x"))
    assert failed["state"] == "failed"
    assert "invalid parameter: invalid address: 'here'" in failed["reason"]
    assert "timeout_ms" in failed["reason"]


async def test_a_shutdown_answers_what_is_in_flight(host: HostSide, web: aiohttp.ClientSession, port: int) -> None:
    actor = await host.held()
    process = await serve(host, link(host, actor.key, port))
    request = asyncio.create_task(web.get(f"http://127.0.0.1:{port}/"))
    answer = await actor.next()
    await process.shut_down()
    await asyncio.sleep(0.1)
    answer(say("still answered"))
    assert await (await request).text() == "still answered"
    assert await process.ended() == 0


async def test_what_is_in_flight_is_answered_though_the_host_was_killed(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    actor = await host.held()
    process = await serve(host, link(host, actor.key, port))
    request = asyncio.create_task(web.get(f"http://127.0.0.1:{port}/"))
    answer = await actor.next()
    process.hang_up()
    await eventually(lambda: not listens(port))
    answer(say("still answered"))
    assert await (await request).text() == "still answered"
    assert await process.ended() == 0


def listens(port: int) -> bool:
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


async def test_it_leaves_soon_and_frees_its_port_when_host_and_server_are_gone(
    tmp_path: Path, lattice: str, port: int
) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    side = await HostSide.open(server.url, lattice)
    try:
        process = await serve(side, link(side, KeyPair.generate(Role.MODULE).public, port))
        await asyncio.to_thread(server.stop, signal.SIGKILL)
        assert process.process is not None
        assert process.process.stdin is not None
        process.process.stdin.close()
        assert await process.ended(timeout=8) == 0
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
    finally:
        await side.close()
        server.stop()


async def test_an_upgrade_that_no_actor_speaks_is_an_ordinary_request(host: HostSide, port: int) -> None:
    actor = await host.actor(describe)
    await serve(host, link(host, actor, port))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
    assert json.loads(await one_answer(reader))["path"] == "/ws"
    writer.write(b"GET /next HTTP/1.1\r\nHost: x\r\n\r\n")
    assert json.loads(await one_answer(reader))["path"] == "/next"
    writer.close()


async def test_a_client_that_does_not_read_holds_up_only_itself(
    host: HostSide, web: aiohttp.ClientSession, port: int
) -> None:
    served = 0

    def large(invocation: Invocation) -> bytes:
        nonlocal served
        served += 1
        return HttpResponse(body=b"x" * 500_000).encode()

    actor = await host.actor(large)
    await serve(host, link(host, actor, port))
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 200)
    await asyncio.sleep(0.5)
    stalled_at = served
    async with web.get(f"http://127.0.0.1:{port}/") as response:
        assert len(await response.read()) == 500_000
    assert served == stalled_at + 1 < 100
    writer.transport.abort()
