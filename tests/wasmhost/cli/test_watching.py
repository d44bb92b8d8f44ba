"""``--watch``: a result is shown again whenever it changed."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from lattice import claims
from tests.support.nats import NatsServer
from tests.support.processes import ROOT, Running, run, user_environment

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"


def test_a_change_is_shown_and_only_a_change(nats_server: NatsServer, tmp_path: Path) -> None:
    env = user_environment(tmp_path, WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE="cli-watch")
    shipped = claims.read_actor(ECHO.read_bytes()).issuer
    daemon = Running(["host", "--trust", shipped, "--allow-file-load", "--name", "watched"], env=env)
    watchers = []
    try:
        daemon.wait_for_output("host.started")
        actors = Running(["get", "actors", "--watch", "-o", "json"], env=env)
        hosts = Running(["get", "hosts", "--watch"], env=env)
        watchers = [actors, hosts]
        actors.wait_for_output('"actors": []')
        hosts.wait_for_output("watched")
        assert run(["start", "actor", str(ECHO)], env=env).returncode == 0
        actors.wait_for_output('"Echo"')
        assert run(["stop", "actor", "echo"], env=env).returncode == 0
        actors.wait_until(lambda: len(actors.lines) >= 3, timeout=10, what="the end of the actor")
        assert daemon.stop() == 0
        actors.wait_until(lambda: hosts.has_printed("No host answers"), timeout=20, what="the end of the host")
        assert [watcher.stop(signal.SIGINT) for watcher in watchers] == [0, 0]
        shown = [len(json.loads(line)["actors"]) for line in actors.lines if line.startswith('{"actors')]
        assert shown == [0, 1, 0]
        assert sum("watched" in line for line in hosts.lines) == 1, "uptime alone is no change"
    finally:
        for process in (*watchers, daemon):
            process.kill()


@pytest.mark.parametrize("what", ["hosts", "inventory", "actors", "providers", "links", "claims"])
def test_a_first_look_that_fails_ends_the_command(tmp_path: Path, what: str) -> None:
    env = user_environment(tmp_path, WASMHOST_NATS_URL="nats://127.0.0.1:1")
    ended = run(["get", what, "--watch"], env=env)
    assert ended.returncode == 6
    assert ended.stderr.startswith("Error: no NATS server")


def test_whoever_follows_events_is_told_that_the_server_is_away_and_back(tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats").start()
    follower = Running(["events"], env=user_environment(tmp_path / "home", WASMHOST_NATS_URL=server.url))
    try:
        follower.wait_for_output("Following lattice")
        server.stop()
        follower.wait_for_output(f"The NATS server at {server.url} is away")
        server.start()
        follower.wait_for_output("It is back.")
        assert follower.stop(signal.SIGINT) == 0
    finally:
        follower.kill()
        server.stop()
