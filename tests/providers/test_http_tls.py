"""TLS of the HTTP server: certificates good and bad, shared addresses, and changes under load."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from lattice import bundled
from lattice.contracts.httpserver import HttpResponse
from lattice.links import LinkDefinition
from providers.httpserver.limits import Limits
from providers.httpserver.tls import TlsFiles
from tests.support.certificates import Certificate, encrypt_key, make_certificate
from tests.support.listeners import Client, StandIn, served
from tests.support.nats import NatsServer, free_port
from tests.support.providers import HostSide, ProviderProcess
from tests.support.waiting import eventually

HTTP = bundled.find("bundled:httpserver")
ANSWER = HttpResponse(body=b"here").encode()
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificates"), "first")


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return make_certificate(tmp_path_factory.mktemp("certificates"), "second")


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


@pytest.fixture
def port() -> int:
    return free_port()


def link(host: HostSide, actor: str, port: int, /, **values: str) -> LinkDefinition:
    return host.link(actor, HTTP.public_key, HTTP.contract_id, **{"address": f"127.0.0.1:{port}", **values})


async def serve(host: HostSide, *links: LinkDefinition) -> ProviderProcess:
    return await host.start(HTTP.module, host.host_data(HTTP.public_key, *links))


async def get(port: int, trusted: Certificate | None) -> str:
    """The body of one GET, by TLS that accepts the certificate ``trusted``, or without TLS."""
    scheme, context = ("https", trusted.trusting()) if trusted else ("http", True)
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as web,
        web.get(f"{scheme}://127.0.0.1:{port}/", ssl=context) as response,
    ):
        return await response.text()


async def test_a_link_with_a_certificate_speaks_tls(host: HostSide, port: int, first: Certificate) -> None:
    actor = await host.actor(lambda _: ANSWER)
    process = await serve(host, link(host, actor, port, **first.values))
    assert await get(port, first) == "here"
    # Plain HTTP, garbage and a hasty goodbye are the client's affair.
    for sent in (GET, b"\x16\x03\x01\x00\x05", b""):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(sent)
        if not sent:
            writer.transport.abort()
        else:
            writer.write_eof()
            with contextlib.suppress(ConnectionError):
                assert not (await reader.read()).startswith(b"HTTP")
            writer.close()
    assert await get(port, first) == "here"
    assert {event["level"] for event in process.events} == {"info"}, process.output


async def test_old_tls_is_refused_and_http_1_1_agreed(port: int, first: Certificate) -> None:
    async with served(tls=TlsFiles(certificate=str(first.certificate), key=str(first.key))) as listening:
        context = first.trusting()
        context.set_alpn_protocols(["h2", "http/1.1"])
        _, writer = await asyncio.open_connection("127.0.0.1", listening.port, ssl=context)
        assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        writer.close()
        context = first.trusting()
        with pytest.warns(DeprecationWarning):
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await asyncio.open_connection("127.0.0.1", listening.port, ssl=context)


async def test_large_bodies_pipelining_and_half_closed_clients_work_by_tls(first: Certificate) -> None:
    actor = StandIn(lambda request: HttpResponse(body=request.body * 3))
    async with served(actor, tls=TlsFiles(certificate=str(first.certificate), key=str(first.key))) as listening:
        client = Client(*await asyncio.open_connection("127.0.0.1", listening.port, ssl=first.trusting()))
        for size in (0, 1, 300_000, 900_000):
            client.send(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size, GET)
        for size in (0, 1, 300_000, 900_000):
            assert len((await client.answer())[1]) == 3 * size
            assert (await client.answer())[1] == b""
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b"Connection: close" in await client.rest()
        client.close()


async def test_a_handshake_that_does_not_come_is_given_up(first: Certificate) -> None:
    files = TlsFiles(certificate=str(first.certificate), key=str(first.key))
    async with served(tls=files, limits=Limits(handshake=0.3)) as listening:
        silent = await listening.connect()
        assert await silent.rest(timeout=5) in (b"", b"reset")


async def test_bad_certificates_fail_the_link_with_the_reason(
    host: HostSide, port: int, first: Certificate, second: Certificate, tmp_path: Path
) -> None:
    actor = await host.actor(lambda _: ANSWER)
    process = await serve(host)
    locked, text = tmp_path / "locked.key", tmp_path / "text.pem"
    encrypt_key(first, locked)
    text.write_text("-----BEGIN CERTIFICATE-----\nnonsense\n-----END CERTIFICATE-----\n")
    cert, key = str(first.certificate), str(first.key)
    for values, reason in (
        ({"cert_file": cert}, "priv_key_file: not given"),
        ({"cert_file": cert, "priv_key_file": f"{tmp_path}/gone.key"}, "gone.key': no such file or directory"),
        ({"cert_file": cert, "priv_key_file": str(second.key)}, "is not the key of the certificate"),
        ({"cert_file": cert, "priv_key_file": str(locked)}, "is protected by a passphrase"),
        ({"cert_file": key, "priv_key_file": key}, "holds no PEM certificate"),
        ({"cert_file": cert, "priv_key_file": cert}, "holds no PEM private key"),
        ({"cert_file": str(text), "priv_key_file": key}, "cannot be used: "),
    ):
        failed = await process.put(link(host, actor, port, **values))
        assert failed["state"] == "failed"
        assert reason in failed["reason"]
        assert "(example: " in failed["reason"]
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", port)
    assert await process.put(link(host, actor, port, **first.values)) == {"state": "ready"}
    assert await get(port, first) == "here"


async def test_links_of_one_address_agree_on_tls(
    host: HostSide, port: int, first: Certificate, second: Certificate
) -> None:
    one, two = await host.actor(lambda _: ANSWER), await host.actor(lambda _: ANSWER)
    process = await serve(host, link(host, one, port, **first.values))
    for values in ({}, second.values):
        failed = await process.put(link(host, two, port, path_prefix="/two", **values))
        assert failed["state"] == "failed"
        assert f"127.0.0.1:{port} speaks TLS with the certificate '{first.certificate}'" in failed["reason"]
        assert one in failed["reason"]
        assert "agree on cert_file and priv_key_file" in failed["reason"]
    shared = link(host, two, port, path_prefix="/two", **first.values)
    assert await process.put(shared) == {"state": "ready"}
    degraded = await process.put(link(host, one, port))
    assert (degraded["state"], "asks for plain HTTP" in degraded["reason"]) == ("degraded", True)
    assert await get(port, first) == "here"
    # Alone at its address, the link may change it.
    await process.delete(shared)
    await process.until_link(one, "ready")
    assert await get(port, None) == "here"


async def test_a_change_of_tls_drops_no_request_in_flight(
    host: HostSide, port: int, first: Certificate, second: Certificate
) -> None:
    actor = await host.held()
    process = await serve(host, link(host, actor.key, port))

    async def change(before: Certificate | None, after: Certificate | None) -> None:
        under_way = asyncio.create_task(get(port, before))
        answer = await actor.next()
        assert await process.put(link(host, actor.key, port, **(after.values if after else {}))) == {"state": "ready"}
        fresh = asyncio.create_task(get(port, after))
        (await actor.next())(ANSWER)
        assert await fresh == "here", "new connections speak what is asked for now"
        answer(ANSWER)
        assert await under_way == "here"

    await change(None, first)
    await change(first, second)
    await change(second, None)


async def test_a_certificate_is_changed_under_load_without_a_failed_request(
    host: HostSide, port: int, first: Certificate, second: Certificate
) -> None:
    actor = await host.actor(lambda _: ANSWER)
    process = await serve(host, link(host, actor, port, **first.values))
    trusting = first.trusting()
    trusting.load_verify_locations(str(second.certificate))
    stop = asyncio.Event()
    answered = 0

    async def ask(*, fresh: bool) -> None:
        nonlocal answered
        connector = aiohttp.TCPConnector(ssl=trusting, force_close=fresh)
        async with aiohttp.ClientSession(connector=connector) as web:
            while not stop.is_set():
                async with web.get(f"https://127.0.0.1:{port}/") as response:
                    assert (response.status, await response.text()) == (200, "here")
                    answered += 1

    clients = [asyncio.create_task(ask(fresh=n % 2 == 0)) for n in range(6)]
    for n in range(6):
        chosen = (second, first)[n % 2]
        seen = answered
        await eventually(lambda seen=seen: answered > seen + 20 or any(c.done() for c in clients), timeout=20)  # type: ignore[misc]
        assert await process.put(link(host, actor, port, **chosen.values)) == {"state": "ready"}
    stop.set()
    await asyncio.gather(*clients)


async def test_a_renewed_certificate_is_used_without_a_word(
    first: Certificate, second: Certificate, tmp_path: Path
) -> None:
    here = Certificate(tmp_path / "here.pem", tmp_path / "here.key")
    shutil.copy(first.certificate, here.certificate)
    shutil.copy(first.key, here.key)
    actor = StandIn(lambda _: HttpResponse(body=b"here"))
    files = TlsFiles(certificate=str(here.certificate), key=str(here.key))
    async with served(actor, tls=files, limits=Limits(renewal=0.05)) as listening:
        assert await get(listening.port, first) == "here"
        shutil.copy(second.certificate, here.certificate)  # without its key, for now: not usable
        await asyncio.sleep(0.3)
        assert await get(listening.port, first) == "here"
        shutil.copy(second.key, here.key)

        for _ in range(100):
            with contextlib.suppress(aiohttp.ClientError):
                assert await get(listening.port, second) == "here"
                break
            await asyncio.sleep(0.05)
        else:
            pytest.fail("the new certificate is not used")
