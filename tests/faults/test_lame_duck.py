"""A NATS server in lame-duck mode: whoever upgrades a cluster ends its servers one by one like this."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.nats import cluster
from tests.support.processes import Running


def moves(*hosts: Running) -> int:
    """How many connections of hosts and their providers say that they went to another server."""
    return sum("connection.moved" in line for host in hosts for line in host.lines)


def test_a_lame_duck_is_left_without_a_failed_request(new_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    old, new = cluster(tmp_path, 2)
    new.start()
    try:
        fleet = new_fleet(old)
        one = fleet.host("one")
        two = fleet.host("two", url=new.url)
        fleet.start_counter("one", "two")
        with fleet.load() as load:
            load.wait_for_more(100, timeout=20)
            old.lame_duck()
            told = time.monotonic()
            # control and RPC of one host, and its two providers
            one.wait_until(lambda: moves(one) == 4, timeout=10, what="four connections that moved")
            moved = time.monotonic() - told
            fleet.nats.stop()
            load.wait_for_more(200, timeout=20)
        print(f"lame duck: {load.figures()}, moved within {moved:.2f} s")
        assert not load.failures, load.reasons
        fleet.check_counted(load)
        assert moves(two) == 0
        fleet.env["WASMHOST_NATS_URL"] = new.url
        assert sorted(fleet.actors_by_host().values()) == [1, 1], "commands reach both"
        assert one.stop(signal.SIGTERM) == 0
    finally:
        new.stop()
