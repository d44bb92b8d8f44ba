"""The first application, from one command to nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.http import Load, answers, get
from tests.support.processes import Running, run

Manifest = Callable[[str], Path]
Start = Callable[..., Running]


def test_one_command_counts_and_leaves_nothing_behind(start: Start, manifest: Manifest, http_port: int) -> None:
    up = start("up", str(manifest("kvcounter")))
    up.wait_until(lambda: answers(http_port, "/warm"), timeout=10, what="the first 200 of `wasmhost up`")
    assert [get(http_port, path)[1] for path in ("/", "/", "/?amount=5")] == [
        b'{"counter":1}',
        b'{"counter":2}',
        b'{"counter":7}',
    ]
    up.wait_for_output(f"http://127.0.0.1:{http_port}")
    assert len(up.family()) == 3, "one NATS server and two providers"
    assert up.stop(signal.SIGINT) == 0


def test_what_was_counted_survives_and_fresh_starts_empty(start: Start, manifest: Manifest, http_port: int) -> None:
    path = str(manifest("kvcounter"))
    for arguments, expected in (
        (["up", path], b'{"counter":1}'),
        (["up", path], b'{"counter":2}'),
        (["up", "--fresh", path], b'{"counter":1}'),
    ):
        up = start(*arguments)
        up.wait_until(lambda: answers(http_port, "/warm"), timeout=15, what="the application")
        assert get(http_port, "/kept")[1] == expected
        assert up.stop(signal.SIGTERM) == 0


def test_echo_answers_what_it_was_asked(start: Start, manifest: Manifest, http_port: int) -> None:
    up = start("up", str(manifest("echo")))
    up.wait_until(lambda: answers(http_port), timeout=15, what="the application")
    status, body = get(http_port, "/some/path?a=1")
    assert status == 200
    answer = json.loads(body)
    assert (answer["method"], answer["path"], answer["queryString"]) == ("GET", "/some/path", "a=1")
    assert up.stop() == 0


def test_another_manifest_replaces_what_an_earlier_up_put(
    start: Start, manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    for name in ("kvcounter", "echo"):
        up = start("up", str(manifest(name)))
        up.wait_until(lambda: answers(http_port), timeout=15, what=name)
        links = json.loads(run(["get", "links", "-o", "json"], env=env).stdout)
        assert len(json.dumps(links).split('"contract_id"')) - 1 == (2 if name == "kvcounter" else 1)
        assert up.stop() == 0


def test_a_stopped_key_value_provider_is_named_in_the_answer(
    start: Start, manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    up = start("up", str(manifest("kvcounter")))
    up.wait_until(lambda: answers(http_port), timeout=15, what="the application")
    stopped = run(["stop", "provider", "bundled:keyvalue"], env=env)
    assert stopped.returncode == 0, stopped.stderr
    began = time.monotonic()
    status, body = get(http_port)
    assert time.monotonic() - began < 3
    assert status == 500
    text = json.loads(body)["error"]
    assert "wasmcloud:keyvalue" in text
    assert "default" in text
    assert up.stop() == 0


def test_a_killed_key_value_provider_comes_back_and_counting_goes_on(
    start: Start, manifest: Manifest, http_port: int
) -> None:
    up = start("up", str(manifest("kvcounter")))
    up.wait_until(lambda: answers(http_port, "/load"), timeout=15, what="the application")
    up.wait_for_output("Ready after")
    with Load(http_port, "/load") as load:
        up.wait_until(lambda: len(load.good_at) > 50, timeout=20, what="traffic")
        victim = up.child("providers.keyvalue")
        os.kill(victim.pid, signal.SIGKILL)
        killed = time.monotonic()
        up.wait_until(lambda: load.good_since(killed + 0.3) > 50, timeout=15, what="traffic after the kill")
    assert up.child("providers.keyvalue") != victim
    counted = json.loads(get(http_port, "/load")[1])["counter"]
    # one from the warm-up and one just now; calls in flight at the kill may have counted without an answer
    assert 0 <= counted - load.statuses[200] - 2 <= load.clients
    assert up.stop() == 0


def test_a_restarted_nats_server_costs_seconds_and_no_subscription(
    start: Start, manifest: Manifest, http_port: int, tmp_path: Path
) -> None:
    from tests.support.nats import NatsServer

    server = NatsServer(tmp_path / "nats").start()
    try:
        up = start("up", "--nats-url", server.url, str(manifest("kvcounter")))
        up.wait_until(lambda: answers(http_port, "/load"), timeout=15, what="the application")
        up.wait_for_output("Ready after")
        with Load(http_port, "/load") as load:
            up.wait_until(lambda: len(load.good_at) > 20, timeout=20, what="traffic")
            server.restart(signal.SIGKILL)
            restarted = time.monotonic()
            up.wait_until(lambda: load.good_since(restarted) > 50, timeout=15, what="traffic after the restart")
        assert up.stop() == 0
    finally:
        server.stop()
