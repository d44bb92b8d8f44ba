"""Bodies of many megabytes through a whole application: client, HTTP provider, object store, host, actor, and back."""

from __future__ import annotations

import http.client
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import wasmtime

from tests.support import actors
from tests.support.processes import ROOT, Running

SIZE = 8 * 1024 * 1024


@pytest.fixture
def application(
    tmp_path: Path, start: Callable[..., Running], http_port: int, env: dict[str, str]
) -> Iterator[Running]:
    """``wasmhost up`` with an actor that answers with the body it was sent."""
    (tmp_path / "echo.wasm").write_bytes(bytes(wasmtime.wat2wasm(actors.HTTP_ECHO)))
    text = (ROOT / "manifests" / "echo.yaml").read_text()
    text = text.replace("../actors/echo/echo_s.wasm", "echo.wasm").replace("127.0.0.1:8080", f"127.0.0.1:{http_port}")
    path = tmp_path / "echo.yaml"
    path.write_text(text)
    up = start("up", str(path))
    up.wait_for_output("Ready after", timeout=30)
    yield up
    assert up.stop() == 0


def post(port: int, body: bytes) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("POST", "/", body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_a_body_comes_back_as_it_was_sent(application: Running, http_port: int) -> None:
    for size in (0, 921_000, 921_600, 921_601, SIZE):
        body = os.urandom(size)
        assert post(http_port, body) == (200, body)


def test_several_clients_at_once_get_their_own_bodies(application: Running, http_port: int) -> None:
    bodies = [os.urandom(3_000_000 + number) for number in range(6)]
    results: dict[int, tuple[int, bytes]] = {}

    def ask(number: int) -> None:
        results[number] = post(http_port, bodies[number])

    threads = [threading.Thread(target=ask, args=[number], daemon=True) for number in range(len(bodies))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {number: (200, body) for number, body in enumerate(bodies)}


def test_a_body_above_what_the_actor_takes_is_a_413_that_names_the_limit(application: Running, http_port: int) -> None:
    status, answer = post(http_port, bytes(17 * 1024 * 1024))
    assert status == 413
    assert b"is above this actor's limit of 16777216 bytes" in answer
    assert post(http_port, b"next") == (200, b"next")
