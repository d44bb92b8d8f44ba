"""The NATS server is stopped, killed or started again under a lattice at work."""

from __future__ import annotations

import json
import signal
import time

from tests.support.fleet import Fleet
from tests.support.http import get
from tests.support.processes import Running


def losses(host: Running) -> int:
    """How often a host has said that it lost its control connection."""
    return sum('"nats.state"' in line and "reconnecting" in line and '"control"' in line for line in host.lines)


def test_a_nats_server_that_goes_away_is_named_and_used_again_within_seconds(fleet: Fleet) -> None:
    one = fleet.host("one")
    two = fleet.host("two")
    fleet.start_counter("one", "two")
    links, actors = fleet.links(), fleet.actors_by_host()
    with fleet.load() as load:
        for outage, sig in enumerate((signal.SIGTERM, signal.SIGKILL)):
            load.wait_for_more(100, timeout=20)
            fleet.nats.stop(sig)
            for host in (one, two):
                host.wait_until(lambda host=host, n=outage: losses(host) > n, timeout=5, what="word of the loss")
            began = time.monotonic()
            status, body = get(fleet.http_port, "/refused")
            assert (status, time.monotonic() - began < 1) == (503, True), body
            assert "NATS" in json.loads(body)["error"]
            fleet.nats.start()
            recovery = load.wait_for_more(100, timeout=10)
            assert recovery < 4
            print(f"signal {sig}: first answer {recovery:.2f} s after the start")
    assert load.longest < 5
    print(f"server away: {load.figures()}")
    fleet.check_counted(load)
    assert (fleet.links(), fleet.actors_by_host()) == (links, actors)
    for host in (one, two):
        assert host.stop(signal.SIGTERM) == 0
