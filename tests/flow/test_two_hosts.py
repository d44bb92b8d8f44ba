"""One lattice on two hosts: providers on one, the actor on the other, and what a host takes with it when it dies."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lattice.claims import read_actor
from tests.support.http import Load, answers, get
from tests.support.nats import NatsServer
from tests.support.processes import ROOT, Running, run
from tests.support.redis import RedisServer

Start = Callable[..., Running]
COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"
NOTICED = 0.3
"""Seconds in which the NATS server sees that a dead process is gone and routes nothing to it any more."""


class Lattice:
    """A NATS server, a Redis server and up to two hosts of one user, commanded from the command line."""

    def __init__(self, start: Start, env: dict[str, str], folder: Path, http_port: int) -> None:
        self.nats = NatsServer(folder / "nats").start()
        self.redis = RedisServer(folder / "redis")
        self.env = {**env, "WASMHOST_NATS_URL": self.nats.url}
        self.http_port = http_port
        self._start = start

    def host(self, *options: str) -> Running:
        """``wasmhost host`` that trusts who signed the counter, once it has started."""
        account = read_actor(COUNTER.read_bytes()).issuer
        nats = ("--nats-url", self.nats.url)
        running = self._start("host", *nats, "--trust", account, "--allow-file-load", *options)
        running.wait_for_output("host.started")
        return running

    def do(self, *arguments: str) -> None:
        done = run(list(arguments), env=self.env)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"

    def ask(self, *arguments: str) -> Any:
        done = run([*arguments, "-o", "json"], env=self.env)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    def host_ids(self) -> dict[str, str]:
        """Host ids by name."""
        return {host["friendly_name"]: host["host_id"] for host in self.ask("get", "hosts")["hosts"]}

    def actors_by_host(self) -> dict[str, int]:
        """How many actors run on each host that answers."""
        return {host["host_id"]: len(host["actors"]) for host in self.ask("get", "inventory")["hosts"]}

    def put_links(self) -> None:
        address, url = f"address=127.0.0.1:{self.http_port}", f"URL=redis://{self.redis.address}/"
        self.do("link", "put", "kvcounter", "bundled:httpserver", "wasmcloud:httpserver", address)
        self.do("link", "put", "kvcounter", "bundled:keyvalue-redis", "wasmcloud:keyvalue", url)

    def links(self) -> list[tuple[str, str, str]]:
        links = self.ask("get", "links")["links"]
        return [(link["contract_id"], link["provider_id"], json.dumps(link["values"])) for link in links]

    def counter(self, key: str) -> int:
        return int(self.redis.command("GET", f"counter::{key}").split(b"\r\n")[1])

    def stop(self) -> None:
        self.nats.stop()
        self.redis.stop()


@pytest.fixture
def lattice(start: Start, env: dict[str, str], tmp_path: Path, http_port: int) -> Iterator[Lattice]:
    made = Lattice(start, env, tmp_path, http_port)
    try:
        made.redis.start()
        yield made
    finally:
        made.stop()


def start_providers(lattice: Lattice, host: str) -> None:
    for provider in ("bundled:httpserver", "bundled:keyvalue-redis"):
        lattice.do("start", "provider", provider, "--host", host)


def test_a_killed_host_costs_the_calls_it_was_at_and_no_other(lattice: Lattice) -> None:
    port = lattice.http_port
    one = lattice.host()
    refused = run(["host", "--nats-url", lattice.nats.url], env=lattice.env)
    assert refused.returncode == 5
    assert "--name" in refused.stderr
    two = lattice.host("--name", "second")
    ids = lattice.host_ids()
    first = next(ids[name] for name in ids if name != "second")

    start_providers(lattice, first)
    lattice.do("start", "actor", str(COUNTER), "--host", "second")
    lattice.put_links()
    one.wait_until(lambda: answers(port, "/warm"), timeout=15, what="an answer across two hosts")
    assert lattice.actors_by_host() == {first: 0, ids["second"]: 1}
    assert [get(port, "/a")[1], get(port, "/a?amount=5")[1]] == [b'{"counter":1}', b'{"counter":6}']
    assert lattice.counter("a") == 6

    lattice.do("start", "actor", str(COUNTER), "--host", first)
    with Load(port, "/load", clients=8) as load:
        one.wait_until(lambda: len(load.good_at) > 200, timeout=30, what="traffic")
        assert not load.failures
        os.kill(two.process.pid, signal.SIGKILL)
        two.process.wait(10)
        died = time.monotonic()
        one.wait_until(lambda: load.good_since(died + 3) > 200, timeout=30, what="traffic on the other host")
    lost = len(load.failures)
    assert lost <= load.clients, f"more failed than were in flight: {load.statuses}"
    assert [began - died for began, _ in load.failures if began > died + NOTICED] == [], "calls after the death failed"
    gaps = [after - before for before, after in pairwise(sorted(load.good_at)) if after > died - 1]
    assert max(gaps) < 1, "calls go on at once on the other host"
    assert 0 <= lattice.counter("load") - load.statuses[200] <= lost, (
        "a lost call may have counted, no answered one is lost"
    )
    assert lattice.actors_by_host() == {first: 1}
    assert one.stop(signal.SIGTERM) == 0


def test_links_outlive_the_hosts(lattice: Lattice) -> None:
    port = lattice.http_port
    hosts = [lattice.host("--name", "first"), lattice.host("--name", "second")]
    start_providers(lattice, "first")
    lattice.do("start", "actor", str(COUNTER), "--host", "second")
    lattice.put_links()
    hosts[0].wait_until(lambda: answers(port, "/kept"), timeout=15, what="an answer across two hosts")
    before = lattice.links()
    assert len(before) == 2
    assert [host.stop(signal.SIGTERM) for host in hosts] == [0, 0]

    hosts = [lattice.host("--name", "first"), lattice.host("--name", "second")]
    assert lattice.links() == before
    start_providers(lattice, "second")  # the other way round this time
    lattice.do("start", "actor", str(COUNTER), "--host", "first")
    hosts[0].wait_until(lambda: answers(port, "/kept"), timeout=15, what="an answer without new links")
    assert get(port, "/kept")[1] == b'{"counter":3}'
    assert [host.stop(signal.SIGTERM) for host in hosts] == [0, 0]
