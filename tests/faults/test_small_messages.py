"""A NATS server that takes much smaller messages than payloads are cut into by default."""

from __future__ import annotations

import http.client
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lattice.client import ControlClient
from lattice.connection import ConnectOptions, connect
from lattice.errors import TooLarge
from lattice.links import LinkDefinition
from tests.support import actors
from tests.support.fleet import Fleet
from tests.support.nats import NatsServer
from tests.support.processes import run

LIMIT = 65536


def post(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


async def put_many_links(url: str, link: LinkDefinition) -> None:
    """More than fits into one answer, and one that does not fit into a request."""
    connection = await connect(ConnectOptions(url=url))
    try:
        client = ControlClient(connection, "default")
        for number in range(10):
            await client.put_link(replace(link, link_name=f"link{number}", values={"text": "x" * 10_000}))
        with pytest.raises(TooLarge, match=f"the NATS server takes {LIMIT} at most"):
            await client.put_link(replace(link, link_name="large", values={"text": "x" * LIMIT}))
    finally:
        await connection.drain()


async def test_payloads_above_the_servers_limit_are_cut_to_it_and_answers_above_it_are_refused_in_words(
    new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    fleet = new_fleet(NatsServer(tmp_path / "nats", config=f"max_payload: {LIMIT}\n"))
    host = fleet.host("one", "--trust", actors.ACCOUNT.public)
    path = tmp_path / "echo_s.wasm"
    path.write_bytes(actors.signed(actors.HTTP_ECHO, name="echo", capabilities=["wasmcloud:httpserver"]))
    fleet.do("start", "provider", "bundled:httpserver", "--host", "one")
    fleet.do("start", "actor", str(path), "--host", "one")
    address = f"address=127.0.0.1:{fleet.http_port}"
    fleet.do("link", "put", "echo", "bundled:httpserver", "wasmcloud:httpserver", address)
    host.wait_until(lambda: post(fleet.http_port, b"x")[0] == 200, timeout=15, what="an answer")
    for size in (0, 50_000, LIMIT - 8192, LIMIT, LIMIT + 1, 921_600, 8 * 1024 * 1024):
        body = os.urandom(size)
        assert post(fleet.http_port, body) == (200, body), size

    [link] = fleet.ask("get", "links")["links"]
    await put_many_links(fleet.nats.url, replace(LinkDefinition.from_json(link), contract_id="test:many"))
    shown = run(["get", "links"], env=fleet.env)
    assert shown.returncode == 4, shown.stderr
    assert "the answer does not fit into one message" in shown.stderr
    assert f"the NATS server takes {LIMIT} at most" in shown.stderr
    assert post(fleet.http_port, b"next") == (200, b"next")
    assert host.stop(signal.SIGTERM) == 0
