"""A host that is cut off from the NATS server for half a minute: packets are dropped, nobody is told."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import namespaces
from tests.support.fleet import Fleet
from tests.support.http import get
from tests.support.namespaces import FarSide
from tests.support.nats import QUICK_PINGS, NatsServer
from tests.support.processes import run

PARTITION = 30.0


@pytest.fixture
def far_side() -> Iterator[FarSide]:
    if reason := namespaces.why_not():
        pytest.skip(reason)
    with FarSide() as made:
        yield made


def test_a_partition_of_30_s_costs_the_calls_to_the_far_side_and_heals_by_itself(
    far_side: FarSide, new_fleet: Callable[..., Fleet], tmp_path: Path, env: dict[str, str]
) -> None:
    env["WASMHOST_ALLOW_ANONYMOUS_NATS"] = "true"
    fleet = new_fleet(NatsServer(tmp_path / "nats", config=QUICK_PINGS, address=far_side.near_address))
    near = fleet.host("near")
    far = fleet.host("far", prefix=far_side.prefix)
    fleet.start_counter("near", "far")
    with fleet.load() as load:
        load.wait_for_more(200, timeout=20)
        assert not load.failures, load.reasons
        far_side.cut()
        cut = time.monotonic()
        far.wait_until(lambda: far.has_printed("does not answer pings"), timeout=12, what="word of the silence")
        noticed = time.monotonic() - cut
        load.wait_until_well(timeout=10)
        routed = load.failures[-1][0] - cut if load.failures else 0.0
        load.wait_for_more(200, timeout=20)
        alone = run(["get", "hosts"], env=fleet.env, prefix=far_side.prefix)
    assert (alone.returncode, "no answer within" in alone.stderr) == (6, True), alone.stderr
    assert list(fleet.host_ids()) == ["near"]
    assert load.longest < 4, "calls to the far side failed within their deadline"
    fleet.check_counted(load)

    # what changes on the near side meanwhile: another provider keeps the numbers
    fleet.do("start", "provider", "bundled:keyvalue-memory", "--host", "near")
    fleet.do("link", "put", "kvcounter", "bundled:keyvalue-memory", "wasmcloud:keyvalue")
    time.sleep(max(0.0, cut + PARTITION - time.monotonic()))
    assert far.process.poll() is None
    far_side.heal()
    healed = time.monotonic()
    far.wait_until(lambda: far.output.count("connection.restored") >= 2, timeout=15, what="both connections")
    back = time.monotonic() - healed
    assert sorted(fleet.host_ids()) == ["far", "near"]
    fleet.do("stop", "actor", "kvcounter", "--host", "near")
    answers = [get(fleet.http_port, "/after") for _ in range(5)]
    assert answers == [(200, json.dumps({"counter": n}, separators=(",", ":")).encode()) for n in range(1, 6)]
    assert fleet.counter("/after") == 0, "the far side uses the link that was changed while it was away"
    print(
        f"partition of {PARTITION:.0f} s: {load.figures()}; far side noticed after {noticed:.1f} s, "
        f"last call lost to it {routed:.1f} s after the cut, connected {back:.1f} s after the healing"
    )
    assert back < 10
    for host in (far, near):
        assert host.stop(signal.SIGTERM) == 0
