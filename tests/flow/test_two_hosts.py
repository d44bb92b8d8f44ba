"""One lattice on two hosts: providers on one, the actor on the other, and what a host takes with it when it dies."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lattice.connection import ConnectOptions, connect
from tests.support.fleet import COUNTER, Fleet
from tests.support.http import Load, answers, get
from tests.support.processes import Running, run

Start = Callable[..., Running]
NOTICED = 0.3
"""Seconds in which the NATS server sees that a dead process is gone and routes nothing to it any more."""


@pytest.fixture
def lattice(start: Start, env: dict[str, str], tmp_path: Path, http_port: int) -> Iterator[Fleet]:
    made = Fleet(start, env, tmp_path, http_port)
    yield made
    made.stop()


def test_a_killed_host_costs_the_calls_it_was_at_and_no_other(lattice: Fleet) -> None:
    port = lattice.http_port
    one = lattice.host()
    refused = run(["host", "--nats-url", lattice.nats.url], env=lattice.env)
    assert refused.returncode == 5
    assert "--name" in refused.stderr
    two = lattice.host("second")
    ids = lattice.host_ids()
    first = next(ids[name] for name in ids if name != "second")

    lattice.start_providers(first)
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
        time.sleep(NOTICED)
        # All clients of the load may have been waiting for the dead host, and wait for their deadline now.
        for _ in range(20):
            asked = time.monotonic()
            assert get(port, "/other")[0] == 200
            assert time.monotonic() - asked < 1, "calls go on at once on the other host"
        one.wait_until(lambda: load.good_since(died + 3) > 200, timeout=30, what="traffic on the other host")
    lost = len(load.failures)
    assert lost <= load.clients, f"more failed than were in flight: {load.statuses}"
    assert [began - died for began, _ in load.failures if began > died + NOTICED] == [], "calls after the death failed"
    assert 0 <= lattice.counter("load") - load.statuses[200] <= lost, (
        "a lost call may have counted, no answered one is lost"
    )
    assert lattice.actors_by_host() == {first: 1}
    assert one.stop(signal.SIGTERM) == 0


def test_links_outlive_the_hosts(lattice: Fleet) -> None:
    port = lattice.http_port
    hosts = [lattice.host("first"), lattice.host("second")]
    lattice.start_providers("first")
    lattice.do("start", "actor", str(COUNTER), "--host", "second")
    lattice.put_links()
    hosts[0].wait_until(lambda: answers(port, "/kept"), timeout=15, what="an answer across two hosts")
    before = lattice.links()
    assert len(before) == 2
    assert [host.stop(signal.SIGTERM) for host in hosts] == [0, 0]

    hosts = [lattice.host(name, "--no-restore") for name in ("first", "second")]
    assert lattice.links() == before
    lattice.start_providers("second")  # the other way round this time
    lattice.do("start", "actor", str(COUNTER), "--host", "first")
    hosts[0].wait_until(lambda: answers(port, "/kept"), timeout=15, what="an answer without new links")
    assert get(port, "/kept")[1] == b'{"counter":3}'
    assert [host.stop(signal.SIGTERM) for host in hosts] == [0, 0]


async def test_a_host_that_is_slow_to_answer_is_found_all_the_same(lattice: Fleet) -> None:
    """It stands still until the command asks a second time."""
    lattice.begin_hosts(["quick", "slow"])
    lattice.do("start", "provider", "bundled:keyvalue-memory", "--host", "slow")
    slow = lattice.hosts["slow"].process.pid
    commands: list[tuple[str, ...]] = [("get", "inventory", "slow"), ("stop", "provider", "keyvalue-memory")]
    connection = await connect(ConnectOptions(url=lattice.nats.url))
    try:
        asked = 0

        def on_ping(*_: object) -> None:
            nonlocal asked
            asked += 1
            if asked == 2:
                os.kill(slow, signal.SIGCONT)

        await connection.subscribe("wasmbus.ctl.default.ping.hosts", on_ping)
        for command in commands:
            asked = 0
            os.kill(slow, signal.SIGSTOP)
            done = await asyncio.to_thread(run, list(command), env=lattice.env)
            assert (done.returncode, asked) == (0, 2), done.stderr
        assert lattice.ask("get", "providers")["providers"] == []
    finally:
        os.kill(slow, signal.SIGCONT)
        await connection.drain()
