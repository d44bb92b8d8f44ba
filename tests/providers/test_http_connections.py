"""What the HTTP server does with connections: order, ends, waits, and clients that are slow, greedy or confused."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.contracts.httpserver import HttpRequest, HttpResponse
from providers.httpserver.limits import Limits
from providers.httpserver.listener import Listener, Room
from providers.httpserver.policy import Policy
from providers.httpserver.routes import Route
from tests.support.listeners import Client, Served, StandIn, served
from tests.support.waiting import eventually

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture
async def echo() -> AsyncIterator[Served]:
    async with served() as listening:
        yield listening


def get(path: str, *headers: str, version: str = "1.1") -> bytes:
    host = ("Host: x",) if version == "1.1" else ()
    return "\r\n".join([f"GET {path} HTTP/{version}", *host, *headers, "", ""]).encode()


def post(length: int, *headers: str) -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: x", f"Content-Length: {length}", *headers, "", ""]).encode()


async def test_a_target_in_absolute_form_says_whose_the_request_is(echo: Served) -> None:
    client = await echo.connect()
    for target, host, path in (
        ("http://shop.example:8080/p?q=http://x", "shop.example:8080", "/p"),
        ("http://user@shop.example?q", "shop.example", "/"),
        ("/p?q=http://other", "x", "/p"),
    ):
        client.send(get(target))
        document = await client.document()
        assert (document["header"], document["path"]) == ({"host": [host]}, path)
    only = Route(actor="MTEST", host="shop.example")
    echo.listener.routes = echo.listener.routes.without("MTEST").with_route(only)
    client.send(get("http://shop.example/"), get("http://other/"))
    assert [(await client.answer())[0].split(b" ")[1] for _ in range(2)] == [b"200", b"404"]
    client.close()


# --- order ---


async def test_pipelined_requests_are_answered_in_their_order() -> None:
    async def late(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(random.random() / 500)
        return HttpResponse(body=request.path.encode())

    async with served(StandIn(late)) as listening:
        client = await listening.connect()
        paths = [f"/{n}" for n in range(300)]
        client.send(b"".join(map(get, paths)))
        assert [(await client.answer())[1].decode() for _ in paths] == paths
        client.close()


async def test_refusals_stand_in_line_behind_calls() -> None:
    gate = asyncio.Event()

    async def held(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return HttpResponse(body=b"called")

    async with served(StandIn(held), policy=Policy(read_only=True)) as listening:
        client = await listening.connect()
        client.send(get("/"), post(3), b"abc", get("/again"), b"nonsense\r\n\r\n")
        await eventually(lambda: bool(listening.actor.requests))
        gate.set()
        heads = [(await client.answer())[0].split(b"\r\n")[0] for _ in range(4)]
        assert [head.split(b" ")[1] for head in heads] == [b"200", b"405", b"200", b"400"]
        assert await client.rest() == b""
        client.close()


async def test_thousands_of_pipelined_refusals_are_no_matter(echo: Served) -> None:
    client = await echo.connect()
    echo.listener.routes = echo.listener.routes.without("MTEST")
    client.send(GET * 5000)
    for _ in range(5000):
        assert b" 404 " in (await client.answer())[0]
    client.close()


async def test_a_second_request_waits_unread_while_the_first_is_with_its_actor() -> None:
    gate = asyncio.Event()

    async def held(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return HttpResponse(body=request.body)

    async with served(StandIn(held)) as listening:
        client = await listening.connect()
        client.send(get("/"))
        await eventually(lambda: bool(listening.actor.requests))
        client.send(post(5_000_00), b"x" * 5_000_00)
        await asyncio.sleep(0.1)
        assert len(listening.actor.requests) == 1
        gate.set()
        assert (await client.answer())[1] == b""
        assert len((await client.answer())[1]) == 500_000
        client.close()


async def test_requests_may_arrive_byte_by_byte(echo: Served) -> None:
    client = await echo.connect()
    for byte in b"\r\n" + get("/a", "X-Y: z") + post(2) + b"ok":
        client.send(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert (await client.document())["header"] == {"host": ["x"], "x-y": ["z"]}
    assert (await client.document())["body"] == "ok"
    client.close()


# --- the end of a connection ---


@pytest.mark.parametrize(
    ("version", "header", "word", "stays"),
    [
        ("1.1", "", b"", True),
        ("1.1", "Connection: keep-alive", b"", True),
        ("1.1", "Connection: close", b"close", False),
        ("1.1", "Connection: x, CLOSE", b"close", False),
        ("1.0", "", b"close", False),
        ("1.0", "Connection: Keep-Alive", b"keep-alive", True),
        ("1.0", "Connection: close", b"close", False),
    ],
)
async def test_a_connection_stays_as_the_version_and_the_client_want(
    echo: Served, version: str, header: str, word: bytes, stays: bool
) -> None:
    client = await echo.connect()
    request = get("/", *([header] if header else []), version=version)
    client.send(request)
    head, _ = await client.answer()
    assert head.startswith(b"HTTP/1.1 200 ")
    assert (b"Connection: %b\r\n" % word in head) if word else (b"Connection" not in head)
    if stays:
        client.send(request)
        await client.answer()
    else:
        assert await client.rest() == b""
    client.close()


async def test_what_follows_a_last_request_is_dropped(echo: Served) -> None:
    data = await echo.ask(get("/1", "Connection: close"), get("/2"))
    assert data.count(b"HTTP/1.1 ") == 1
    assert b"/1" in data


async def test_a_client_that_closes_its_half_gets_its_answers() -> None:
    async def late(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(0.05)
        return HttpResponse(body=request.path.encode())

    async with served(StandIn(late)) as listening:
        client = await listening.connect()
        client.send(get("/1"), get("/2"))
        client.writer.write_eof()
        data = await client.rest()
        assert data.count(b" 200 OK") == 2
        client = await listening.connect()
        client.send(post(10), b"abc")
        client.writer.write_eof()
        assert await client.rest() == b""
    assert len(listening.actor.requests) == 2


async def test_closing_lets_calls_end_and_drops_idle_connections() -> None:
    gate = asyncio.Event()

    async def held(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return HttpResponse(body=b"whole")

    async with served(StandIn(held)) as listening:
        idle, busy = await listening.connect(), await listening.connect()
        busy.send(GET)
        await eventually(lambda: bool(listening.actor.requests))
        closing = asyncio.create_task(listening.listener.close(5))
        assert await idle.rest() == b""
        gate.set()
        data = await busy.rest()
        assert data.endswith(b"whole")
        assert b"Connection: close\r\n" in data
        await closing


async def test_closing_does_not_wait_longer_than_it_may() -> None:
    async with served(StandIn(lambda _: asyncio.Event().wait())) as listening:  # type: ignore[arg-type,return-value]
        client = await listening.connect()
        client.send(GET)
        await eventually(lambda: bool(listening.actor.requests))
        async with asyncio.timeout(2):
            await listening.listener.close(0.1)
        assert await client.rest() in (b"", b"reset")


# --- bodies ---


async def test_a_chunked_body_is_joined_and_its_trailers_are_no_headers(echo: Served) -> None:
    client = await echo.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    client.send(b"3\r\nabc\r\n", b"4;x=y\r\ndefg\r\n0\r\nX-Trailer: 1\r\n\r\n", GET)
    document = await client.document()
    assert document["body"] == "abcdefg"
    assert "x-trailer" not in document["header"]  # type: ignore[operator]
    assert (await client.document())["body"] == ""
    client.close()


async def test_100_continue_is_said_when_it_is_the_requests_turn() -> None:
    gate = asyncio.Event()

    async def held(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return HttpResponse(body=request.body)

    async with served(StandIn(held)) as listening:
        client = await listening.connect()
        client.send(get("/"), post(5, "Expect: 100-Continue"))
        await eventually(lambda: bool(listening.actor.requests))
        gate.set()
        assert (await client.answer())[0].startswith(b"HTTP/1.1 200 ")
        assert (await client.answer())[0] == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"hello")
        assert (await client.answer())[1] == b"hello"
        client.close()


async def test_no_100_continue_for_old_clients_refused_requests_and_bodies_that_are_there(echo: Served) -> None:
    old = post(2, "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0") + b"ab"
    assert (await echo.ask(old)).startswith(b"HTTP/1.1 200 ")
    there = post(2, "Expect: 100-continue", "Connection: close") + b"ab"
    assert (await echo.ask(there)).startswith(b"HTTP/1.1 200 ")
    refused = await echo.ask(post(200_000_000, "Expect: 100-continue"))
    assert refused.startswith(b"HTTP/1.1 413 ")
    assert b"Connection: close\r\n" in refused
    other = await echo.ask(post(2, "Expect: the-unexpected"))
    assert other.startswith(b"HTTP/1.1 417 ")


@pytest.mark.parametrize("chunked", [False, True])
async def test_a_link_limits_its_bodies(chunked: bool) -> None:
    async with served(policy=Policy(max_content=1000)) as listening:
        client = await listening.connect()
        for size, status in ((1000, b"200"), (1001, b"413")):
            if chunked:
                client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
                client.send(b"%x\r\n" % size, b"x" * size, b"\r\n0\r\n\r\n")
            else:
                client.send(post(size), b"x" * size)
            head, body = await client.answer()
            assert head.split(b" ")[1] == status
        assert b"1000 bytes" in body
        client.close()
        assert len(listening.actor.requests) == 1


async def test_a_small_refused_body_leaves_the_connection_usable(echo: Served) -> None:
    echo.listener.routes = echo.listener.routes.without("MTEST")
    client = await echo.connect()
    for _ in range(3):
        client.send(post(40_000))
        client.send(b"x" * 40_000)
        head, _ = await client.answer()
        assert b" 404 " in head
        assert b"Connection" not in head
    client.close()


async def test_a_client_that_goes_on_sending_still_reads_its_refusal() -> None:
    async with served(policy=Policy(max_content=1_000_000)) as listening:
        client = await listening.connect()
        client.send(post(50_000_000))
        with suppress(ConnectionError):
            for _ in range(500):
                client.send(b"x" * 100_000)
                await client.writer.drain()
        assert (await client.rest()).startswith(b"HTTP/1.1 413 ")
        client.close()


async def test_many_bodies_at_once_are_refused_but_a_large_one_alone_passes() -> None:
    async with served(limits=Limits(bodies=1000)) as listening:
        first = await listening.connect()
        first.send(post(2000), b"x" * 600)
        await asyncio.sleep(0.05)
        refused = await listening.ask(post(500, "Connection: close") + b"x" * 500)
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in refused
        first.send(b"x" * 1400)
        assert len(str((await first.document())["body"])) == 2000
        first.close()
        assert (await listening.ask(post(500, "Connection: close") + b"x" * 500)).startswith(b"HTTP/1.1 200 ")


async def test_an_upgrade_with_a_body_is_read_as_the_ordinary_request_it_is(echo: Served) -> None:
    client = await echo.connect()
    upgrade = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
    client.send(post(27, *upgrade), b"GET /smuggled HTTP/1.1\r\n\r\n!", get("/next"))
    assert (await client.document())["body"] == "GET /smuggled HTTP/1.1\r\n\r\n!"
    assert (await client.document())["path"] == "/next"
    chunked = "\r\n".join(["POST / HTTP/1.1", "Host: x", "Transfer-Encoding: chunked", *upgrade, "", ""])
    client.send(chunked.encode(), b"2\r\nhi\r\n", b"0\r\n\r\n", get("/last", *upgrade), get("/end"))
    assert (await client.document())["body"] == "hi"
    assert [(await client.document())["path"] for _ in range(2)] == ["/last", "/end"]
    client.close()


# --- HEAD ---


async def test_head_has_the_length_of_get_and_no_body() -> None:
    async with served(StandIn(lambda _: HttpResponse(body=b"12345"))) as listening:
        client = await listening.connect()
        client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", GET)
        assert b"Content-Length: 5\r\n" in (await client.answer(body=False))[0]
        assert (await client.answer())[1] == b"12345"
        listening.listener.routes = listening.listener.routes.without("MTEST")
        client.send(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", GET)
        head, _ = await client.answer(body=False)
        full, body = await client.answer()
        assert head == full
        assert body
        client.close()


# --- what is not HTTP ---


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00", 400),
        (b"GET / HTTP/1.1\nHost: x\n\n", 400),
        (b"GET /\r\n\r\n", 505),
        (b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\nabc", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 501),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xe9, chunked\r\n\r\n0\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: \xe9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: \xe9\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999999999999999\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: " + b"y" * 100_000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 1000 + b"\r\n", 431),
    ],
)
async def test_what_servers_might_read_differently_is_refused_and_ends_the_connection(
    echo: Served, sent: bytes, status: int
) -> None:
    answer = await echo.ask(sent, GET)
    assert answer.startswith(b"HTTP/1.1 %d " % status), answer[:300]
    assert answer.count(b"\r\nDate: ") == 1
    assert b"Connection: close\r\n" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]
    assert echo.actor.requests == []


_PIECES = st.sampled_from(
    [
        GET,
        post(3),
        b"abc",
        b"Transfer-Encoding: chunked\r\n",
        b"Expect: 100-continue\r\n",
        b"Connection: Upgrade\r\nUpgrade: x\r\n",
        b"POST /p HTTP/1.1\r\nHost: y\r\n",
        b"HEAD / HTTP/1.0\r\n",
        b"\r\n",
        b"0\r\n\r\n",
        b"2\r\nhi\r\n",
        b"Connection: close\r\n",
    ]
)


@given(st.lists(st.lists(_PIECES | st.binary(max_size=20), max_size=8).map(b"".join), max_size=4))
@settings(max_examples=40)
def test_no_client_breaks_the_server(sent: list[bytes]) -> None:
    """Whatever comes, in whatever pieces: the next client is answered, and nothing of the first one is left."""

    async def scene() -> None:
        failures: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context))
        async with served(limits=Limits(head=0.2, body=0.2, idle=0.3, linger=0.1)) as listening:
            client = await listening.connect()
            for data in sent:
                client.send(data)
                await asyncio.sleep(0)
            with suppress(OSError):
                client.writer.write_eof()
            await client.rest()
            client.close()
            other = await listening.connect()
            other.send(GET)
            assert (await other.document())["path"] == "/"
            other.close()
            await eventually(lambda: not listening.listener._connections)
            assert listening.listener._bytes == 0
        assert not failures

    asyncio.run(scene())


async def test_what_frames_a_body_is_bounded_too(echo: Served) -> None:
    for flood in (b"0\r\nX: " + b"y" * 300_000, b"2;" + b"e" * 300_000, b"0\r\n" + b"X: y\r\n" * 50_000):
        head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n"
        answer = await echo.ask(head + flood)  # goes on for ever, as far as the server knows
        assert answer.startswith(b"HTTP/1.1 400 "), answer[:300]
        assert b"trailers" in answer and b"Connection: close\r\n" in answer
    assert echo.actor.requests == []


async def test_a_body_in_tiny_chunks_takes_no_more_memory_than_its_bytes(echo: Served) -> None:
    client = await echo.connect()
    client.send(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(10):
            client.send(b"2\r\nhi\r\n" * 10_000)
            await client.writer.drain()
        await eventually(lambda: echo.listener._bytes == 200_000)
        assert tracemalloc.get_traced_memory()[0] - before < 1_500_000
    finally:
        tracemalloc.stop()
    client.send(b"0\r\n\r\n")
    assert (await client.document())["body"] == "hi" * 100_000
    client.close()


# --- slow clients ---

SLOW = Limits(idle=0.6, head=0.3, body=0.3, body_rate=1000, answer=0.4, linger=0.3, parting=0.3)


async def trickle(client: Client, data: bytes) -> None:
    with suppress(ConnectionError):
        for byte in data:
            client.send(bytes([byte]))
            await client.writer.drain()
            await asyncio.sleep(0.02)


async def test_a_head_that_trickles_in_is_given_up() -> None:
    async with served(limits=SLOW) as listening:
        client = await listening.connect()
        trickling = asyncio.create_task(trickle(client, b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100))
        started = asyncio.get_running_loop().time()
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert asyncio.get_running_loop().time() - started < 2
        trickling.cancel()
        client.close()


async def test_a_body_that_trickles_in_is_given_up() -> None:
    async with served(limits=SLOW) as listening:
        client = await listening.connect()
        client.send(post(10_000))
        trickling = asyncio.create_task(trickle(client, b"x" * 10_000))
        started = asyncio.get_running_loop().time()
        assert (await client.rest()).startswith(b"HTTP/1.1 408 ")
        assert asyncio.get_running_loop().time() - started < 3
        assert listening.actor.requests == []
        trickling.cancel()
        client.close()


async def test_a_body_that_comes_steadily_has_all_the_time_it_needs() -> None:
    async with served(limits=SLOW) as listening:
        client = await listening.connect()
        client.send(post(20_000))
        for _ in range(10):
            client.send(b"x" * 2000)
            await asyncio.sleep(0.1)
        assert len(str((await client.document())["body"])) == 20_000
        client.close()


async def test_idle_connections_are_closed_and_busy_ones_are_not() -> None:
    async def late(request: HttpRequest) -> HttpResponse:
        await asyncio.sleep(1.5)
        return HttpResponse(body=b"late")

    async with served(StandIn(late), limits=SLOW) as listening:
        silent, busy = await listening.connect(), await listening.connect()
        busy.send(GET)
        assert await silent.rest() == b""
        assert (await busy.answer())[1] == b"late"
        assert await busy.rest() == b"", "idle again, so closed again"


async def test_each_request_of_a_connection_has_its_own_time() -> None:
    async with served(limits=SLOW) as listening:
        client = await listening.connect()
        for _ in range(6):  # together longer than a head may take, and than a connection may be idle
            client.send(GET[:10])
            await asyncio.sleep(0.1)
            client.send(GET[10:])
            await client.document()
            await asyncio.sleep(0.1)
        client.close()


async def test_a_client_that_reads_nothing_is_dropped_and_holds_up_nobody() -> None:
    async with served(StandIn(lambda _: HttpResponse(body=b"x" * 4_000_000)), limits=SLOW) as listening:
        stuck = await listening.connect()
        stuck.writer.transport.pause_reading()  # type: ignore[attr-defined]
        stuck.send(GET * 20)
        await eventually(lambda: bool(listening.actor.requests))
        other = await listening.connect()
        other.send(GET)
        assert len((await other.answer())[1]) == 4_000_000
        other.close()
        await eventually(lambda: not listening.listener._connections)
        assert len(listening.actor.requests) <= 4
        stuck.close()


async def test_a_client_that_reads_slowly_gets_everything() -> None:
    async with served(StandIn(lambda _: HttpResponse(body=b"x" * 3_000_000)), limits=SLOW) as listening:
        client = await listening.connect()
        client.send(get("/", "Connection: close"))
        size = 0
        while data := await client.reader.read(200_000):
            size += len(data)
            await asyncio.sleep(0.05)
        assert size > 3_000_000


# --- addresses ---


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
async def test_the_address_of_all_addresses_takes_both_generations() -> None:
    async with served(host="::") as listening:
        for address in ("127.0.0.1", "::1"):
            client = Client(*await asyncio.open_connection(address, listening.port))
            client.send(GET)
            assert (await client.document())["path"] == "/"
            client.close()


async def test_the_port_is_free_as_soon_as_nobody_listens() -> None:
    async with served() as listening:
        idle = await listening.connect()
        listening.listener.stop_listening()
        with pytest.raises(OSError):
            await listening.connect()
        again = Listener(("127.0.0.1", listening.port), listening.actor)
        await again.open()
        await again.close(1)
        idle.close()


# --- many clients ---


async def test_connections_beyond_the_room_are_told_so() -> None:
    async with served(room=Room(3)) as listening:
        clients = [await listening.connect() for _ in range(3)]
        for client in clients:
            client.send(GET)
            await client.document()
        beyond = await listening.connect()
        assert (await beyond.rest()).startswith(b"HTTP/1.1 503 ")
        clients[0].close()
        await eventually(lambda: len(listening.listener._connections) < 3)
        again = await listening.connect()
        again.send(GET)
        assert (await again.document())["path"] == "/"


async def test_calls_beyond_the_limit_are_refused_at_once() -> None:
    gate = asyncio.Event()

    async def held(request: HttpRequest) -> HttpResponse:
        await gate.wait()
        return HttpResponse(body=b"whole")

    async with served(StandIn(held), limits=Limits(calls=2)) as listening:
        clients = [await listening.connect() for _ in range(3)]
        for client in clients[:2]:
            client.send(GET)
        await eventually(lambda: len(listening.actor.requests) == 2)
        clients[2].send(GET)
        head, _ = await clients[2].answer()
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"Retry-After: 1\r\n" in head
        gate.set()
        assert [(await client.answer())[1] for client in clients[:2]] == [b"whole", b"whole"]
