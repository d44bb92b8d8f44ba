"""The port for whoever supervises the process of a host."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from tests.support.nats import NatsServer, free_port
from wasmhost.configuration.config import ConfigError, HostConfig, NatsEndpoint, load
from wasmhost.control.probes import Probes
from wasmhost.host import Host


async def ask(port: int, request: str) -> tuple[int, str]:
    """Status and body."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    assert "Connection: close" in head
    return int(head.split()[1]), body


async def get(port: int, path: str) -> tuple[int, str]:
    return await ask(port, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_a_host_answers_its_supervisor_with_its_state(config: HostConfig, tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "own").start()
    endpoint = NatsEndpoint(url=server.url)
    port = free_port()
    own = replace(config, rpc=endpoint, control=endpoint, providers=endpoint, probes=("127.0.0.1", port))
    try:
        async with Host(own):
            assert await get(port, "/livez") == (200, "ok\n")
            assert await get(port, "/readyz?verbose") == (200, "ok\n")
            server.stop()
            deadline = asyncio.get_running_loop().time() + 20
            while (answer := await get(port, "/readyz"))[0] == 200:
                assert asyncio.get_running_loop().time() < deadline
                await asyncio.sleep(0.05)
            assert answer[0] == 503 and answer[1].startswith("no connection to NATS (")
            assert await get(port, "/livez") == (200, "ok\n")
        with pytest.raises(OSError):
            await get(port, "/livez")
    finally:
        server.stop()


async def test_anything_else_is_refused_and_slow_or_endless_requests_get_nothing() -> None:
    probes = Probes(lambda: "starting")
    await probes.open("127.0.0.1", 0)
    try:
        assert await get(probes.port, "/readyz") == (503, "starting\n")
        assert (await get(probes.port, "/"))[0] == 404
        assert (await ask(probes.port, "POST /livez HTTP/1.1\r\n\r\n"))[0] == 405
        assert await ask(probes.port, "HEAD /livez HTTP/1.0\r\n\r\n") == (200, "")
        for request in (b"GET /livez", b"x" * 100_000):
            reader, writer = await asyncio.open_connection("127.0.0.1", probes.port)
            writer.write(request)
            assert await asyncio.wait_for(reader.read(), 10) == b""
            writer.close()
    finally:
        await probes.close()


async def test_a_port_in_use_is_said_and_keeps_no_host_from_its_work(config: HostConfig) -> None:
    taken = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    port = taken.sockets[0].getsockname()[1]
    try:
        with capture_logs() as logs:
            async with Host(replace(config, probes=("127.0.0.1", port))):
                pass
        (told,) = [entry for entry in logs if entry["event"] == "probes.not_open"]
        assert told["port"] == port and "in use" in told["reason"]
    finally:
        taken.close()
        await taken.wait_closed()


def test_the_port_is_named_as_classic_hosts_do_or_with_its_address(tmp_path: Path) -> None:
    home = {"HOME": str(tmp_path), "WASMHOST_STATE": str(tmp_path)}
    assert load({}, home).probes is None
    assert load({}, {**home, "WASMCLOUD_DASHBOARD_PORT": "4000"}).probes == ("", 4000)
    assert load({"probes": "127.0.0.1:4001"}, {**home, "WASMCLOUD_DASHBOARD_PORT": "4000"}).probes == (
        "127.0.0.1",
        4001,
    )
    assert load({"probes": "[::1]:4001"}, home).probes == ("::1", 4001)
    classic = tmp_path / "host_config.json"
    classic.write_text(json.dumps({"dashboard_port": 4000}))
    assert load({}, home, classic).probes is None, "classic hosts write it there unasked"
    for wrong in ("x", "localhost:1", "1.2.3.4:", "70000"):
        with pytest.raises(ConfigError, match=r"probes: .*127\.0\.0\.1:4000"):
            load({"probes": wrong}, home)
