"""Listening sockets handed from one HTTP server process to the next, on a real lattice."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lattice import bundled
from lattice.contracts.httpserver import HttpRequest, HttpResponse
from lattice.hostdata import HostData
from lattice.invocation import Invocation
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from providers.handover import Offer, Predecessor
from tests.support.certificates import make_certificate
from tests.support.nats import NatsServer, free_port
from tests.support.providers import HostSide, ProviderProcess

HTTP = bundled.find("bundled:httpserver")
OLD, NEW, THIRD = (KeyPair.generate(Role.HOST).public for _ in range(3))


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


@pytest.fixture
def meeting(tmp_path: Path) -> Path:
    """A folder for hand-overs with a path that is too long for a Unix socket's address."""
    folder = tmp_path / ("deep" * 30)
    folder.mkdir(mode=0o700)
    return folder


def answer(invocation: Invocation) -> bytes:
    return HttpResponse(body=HttpRequest.decode(invocation.msg).path.encode()).encode()


def link(host: HostSide, actor: str, port: int, /, **values: str) -> LinkDefinition:
    return host.link(actor, HTTP.public_key, HTTP.contract_id, **{"address": f"127.0.0.1:{port}", **values})


def told(host: HostSide, meeting: Path, of: str, *links: LinkDefinition, **more: object) -> HostData:
    """Host data of the process of host ``of``."""
    return host.host_data(HTTP.public_key, *links, host_id=of, handover_folder=str(meeting), instance_id=of, **more)


async def start(host: HostSide, data: HostData) -> ProviderProcess:
    """Start a process and wait until it has tried all its links."""
    process = ProviderProcess(host, data)
    host.processes.append(process)
    await process.start(HTTP.module)
    await until(process, "provider.ready")
    return process


async def until(process: ProviderProcess, text: str) -> None:
    async with asyncio.timeout(30):
        while text not in process.output:
            assert process.process is not None and process.process.returncode is None, process.output
            await asyncio.sleep(0.02)


async def ask(port: int, path: str = "/", *, tls: ssl.SSLContext | None = None) -> bytes:
    """The answer on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls)
    try:
        writer.write(b"GET %b HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n" % path.encode())
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()


async def test_every_address_moves_and_no_connection_is_refused_or_lost(
    host: HostSide, meeting: Path, tmp_path: Path
) -> None:
    plain, secure = free_port(), free_port()
    actors = [await host.actor(answer) for _ in range(2)]
    slow = await host.held()
    certificate = make_certificate(tmp_path / "certificate", "here")
    trusting = ssl.create_default_context(cafile=str(certificate.certificate))
    trusting.check_hostname = False
    files = {"cert_file": str(certificate.certificate), "priv_key_file": str(certificate.key)}
    links = [
        link(host, actors[0], plain, path_prefix="/a"),
        link(host, slow.key, plain, path_prefix="/slow"),
        link(host, actors[1], secure, **files),
    ]
    old = await start(host, told(host, meeting, OLD, *links))
    idle, to_idle = await asyncio.open_connection("127.0.0.1", plain)
    busy, to_busy = await asyncio.open_connection("127.0.0.1", plain)
    to_busy.write(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
    finish = await slow.next()

    new = await start(host, told(host, meeting, NEW, *links, predecessor=OLD))
    assert "http.took_over" not in new.output  # it waits for its turn
    assert (await ask(plain, "/a/1")).endswith(b"/a/1")
    await old.shut_down({"host_id": OLD, "drain_ms": 10_000})
    await until(new, "http.took_over")
    for path, port, context in (("/a/2", plain, None), ("/3", secure, trusting)):
        assert (await ask(port, path, tls=context)).endswith(path.encode())

    to_idle.write(b"GET /a/late HTTP/1.1\r\nHost: x\r\n\r\n")  # on its way when the old process left
    late = await asyncio.wait_for(idle.read(), 10)
    assert late.startswith(b"HTTP/1.1 200 ") and late.endswith(b"/a/late")
    assert b"\r\nconnection: close\r\n" in late.lower()
    finish(HttpResponse(body=b"finished").encode())
    assert (await asyncio.wait_for(busy.read(), 10)).endswith(b"finished")
    assert await old.ended() == 0
    for writer in (to_idle, to_busy):
        writer.close()


async def test_whoever_dies_the_other_one_serves(host: HostSide, meeting: Path) -> None:
    port = free_port()
    actor = await host.actor(answer)
    old = await start(host, told(host, meeting, OLD, link(host, actor, port)))
    dead = await start(host, told(host, meeting, NEW, link(host, actor, port), predecessor=OLD))
    await dead.kill()
    for number in range(20):
        assert (await ask(port, f"/{number}")).endswith(f"/{number}".encode())
    new = await start(host, told(host, meeting, NEW, link(host, actor, port), predecessor=OLD))
    await old.kill()
    assert (await ask(port, "/after")).endswith(b"/after")
    assert "http.took_over" in new.output


async def test_a_taken_port_stays_an_error_for_all_but_the_successor_of_the_same_cluster(
    host: HostSide, meeting: Path
) -> None:
    port = free_port()
    actor = await host.actor(answer)
    definition = link(host, actor, port)
    old = await start(host, told(host, meeting, OLD, definition))
    foreign = KeyPair.generate(Role.CLUSTER).seed
    for data in (
        told(host, meeting, NEW, definition),  # nobody said that it follows
        told(host, meeting, NEW, definition, predecessor=OLD, invocation_seed=foreign),
        told(host, meeting, NEW, definition, predecessor=NEW),
    ):
        process = await start(host, data)
        assert f"127.0.0.1:{port} in use" in process.output
        await process.kill()
    assert "handover.refused" in old.output
    assert foreign not in old.output
    assert (await ask(port, "/still")).endswith(b"/still")


def test_nothing_is_offered_in_a_folder_that_others_may_enter(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    data = HostData(host_id=OLD, provider_key=HTTP.public_key, handover_folder=str(tmp_path))

    async def offer() -> Offer | None:
        return Offer.open(data, KeyPair.generate(Role.CLUSTER), lambda name: None)

    assert asyncio.run(offer()) is None
    assert list(tmp_path.iterdir()) == []


async def test_a_process_that_leaves_late_takes_nothing_from_the_one_that_came_after_it_on_its_host(
    host: HostSide, meeting: Path
) -> None:
    port = free_port()
    actor = await host.actor(answer)
    definition = link(host, actor, port)
    first = await start(host, told(host, meeting, OLD, definition))
    second = await start(host, told(host, meeting, OLD, definition))  # stopped and started again at once
    assert f"127.0.0.1:{port} in use" in second.output
    assert first.process is not None and first.process.stdin is not None
    first.process.terminate()
    assert await first.ended() == 0
    await until(second, "http.listening")
    new = await start(host, told(host, meeting, NEW, definition, predecessor=OLD))
    assert "handover.given" in second.output and "in use" not in new.output


async def test_of_two_successors_one_gets_the_address_and_for_the_other_it_is_taken(
    host: HostSide, meeting: Path
) -> None:
    port = free_port()
    actor = await host.actor(answer)
    definition = link(host, actor, port)
    old = await start(host, told(host, meeting, OLD, definition))
    new = await start(host, told(host, meeting, NEW, definition, predecessor=OLD))
    third = await start(host, told(host, meeting, THIRD, definition, predecessor=OLD))
    assert f"127.0.0.1:{port} in use" in third.output and "in use" not in new.output
    await new.kill()  # the next one may have it then
    await until(third, "http.listening")
    await old.kill()
    await until(third, "http.took_over")
    assert (await ask(port, "/third")).endswith(b"/third")


async def test_an_address_goes_on_to_a_third_process_once_it_is_the_second_ones_own(
    host: HostSide, meeting: Path
) -> None:
    port = free_port()
    actor = await host.actor(answer)
    definition = link(host, actor, port)
    old = await start(host, told(host, meeting, OLD, definition))
    await start(host, told(host, meeting, NEW, definition, predecessor=OLD))
    third = await start(host, told(host, meeting, THIRD, definition, predecessor=NEW))
    assert f"127.0.0.1:{port} in use" in third.output
    await old.shut_down({"host_id": OLD, "drain_ms": 1000})
    await until(third, "http.listening")
    assert '"handed_over": true' in third.output
    assert (await ask(port, "/on")).endswith(b"/on")


async def test_an_answer_that_comes_too_late_is_not_taken_for_that_to_the_next_question(meeting: Path) -> None:
    key = KeyPair.generate(Role.CLUSTER)
    sockets = {name: socket.create_server(("127.0.0.1", 0)) for name in ("first", "second")}
    data = HostData(host_id=OLD, provider_key=HTTP.public_key, handover_folder=str(meeting), predecessor=OLD)
    offer = Offer.open(data, key, sockets.get)
    assert offer is not None
    predecessor = await Predecessor.find(data, key)
    try:
        given_up = asyncio.create_task(predecessor.take("first"))
        await asyncio.sleep(0)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        taken = await predecessor.take("second")
        assert taken is not None
        with taken:
            assert taken.getsockname() == sockets["second"].getsockname()
    finally:
        predecessor.close()
        offer.close()
        for each in sockets.values():
            each.close()
