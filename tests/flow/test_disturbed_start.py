"""What is killed while `wasmhost up` is still bringing things up comes back, and the bring-up goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.http import get
from tests.support.nats import NatsServer
from tests.support.processes import Running, descendants

Manifest = Callable[[str], Path]
Start = Callable[..., Running]


def child_of(up: Running, text: str) -> int | None:
    return next((p.pid for p in descendants(up.process.pid) if text in p.command), None)


def kill_once(up: Running, text: str) -> None:
    """Kill the first child whose command has ``text``, as soon as it is there."""
    found: list[int] = []

    def seen() -> bool:
        if not found and (pid := child_of(up, text)) is not None:
            os.kill(pid, signal.SIGKILL)
            found.append(pid)
        return bool(found)

    up.wait_until(seen, timeout=30, what=text)


@pytest.mark.parametrize("moment", ["NATS server:", "Host ", "Application ", "actor kvcounter"])
def test_a_nats_server_that_dies_during_the_bring_up_costs_time_only(
    start: Start, manifest: Manifest, http_port: int, moment: str
) -> None:
    up = start("up", str(manifest("kvcounter")))
    up.wait_for_output(moment)
    kill_once(up, "nats-server")
    up.wait_for_output("Ready after", timeout=60)
    assert up.has_printed("starting it again")
    assert get(http_port, "/x")[1] == b'{"counter":1}'
    assert up.stop() == 0


@pytest.mark.parametrize("provider", ["providers.keyvalue", "providers.httpserver"])
def test_a_provider_that_is_killed_during_the_bring_up_comes_back(
    start: Start, manifest: Manifest, http_port: int, provider: str
) -> None:
    up = start("up", str(manifest("kvcounter")))
    kill_once(up, provider)
    up.wait_for_output("Ready after", timeout=60)
    assert get(http_port, "/x")[1] == b'{"counter":1}'
    assert up.stop() == 0


def test_a_host_that_is_killed_during_the_bring_up_is_started_again(
    start: Start, manifest: Manifest, http_port: int
) -> None:
    up = start("up", "--hosts", "2", str(manifest("kvcounter")))
    kill_once(up, "wasmhost host")
    up.wait_for_output("Ready after", timeout=60)
    assert get(http_port, "/x")[1] == b'{"counter":1}'
    assert up.stop() == 0


def test_a_named_server_that_goes_away_meanwhile_is_waited_for(
    start: Start, manifest: Manifest, http_port: int, tmp_path: Path
) -> None:
    server = NatsServer(tmp_path / "nats").start()
    try:
        up = start("up", "--nats-url", server.url, str(manifest("kvcounter")))
        up.wait_for_output("Application ")
        server.restart(signal.SIGKILL)
        up.wait_for_output("Ready after", timeout=60)
        assert get(http_port, "/x")[0] == 200
        assert up.stop() == 0
    finally:
        server.stop()
