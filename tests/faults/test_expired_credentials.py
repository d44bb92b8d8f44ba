"""NATS users whose tokens end while hosts and providers are at work."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.fleet import Fleet
from tests.support.nats import NatsServer
from tests.support.operator import Operator, write_credentials

LIFETIME = 4.0


def test_expired_credentials_are_named_and_renewed_ones_used_without_a_restart(
    new_fleet: Callable[..., Fleet], tmp_path: Path, env: dict[str, str]
) -> None:
    operator = Operator()
    token, seed = operator.user(expires=time.time() + 3600)
    credentials = write_credentials(tmp_path / "user.creds", token, seed)
    env["WASMHOST_NATS_CREDS"] = str(credentials)
    fleet = new_fleet(NatsServer(tmp_path / "nats", config=operator.config))
    host = fleet.host("one")
    fleet.start_counter("one")
    with fleet.load() as load:
        load.wait_for_more(50, timeout=10)
        assert not load.failures, load.reasons
        token, _ = operator.user(expires=time.time() + LIFETIME, seed=seed)
        write_credentials(credentials, token, seed)
        fleet.nats.restart()  # a new connection reads the file
        host.wait_for_output("token expired", timeout=LIFETIME + 15)
        ended = time.monotonic()
        host.wait_until(lambda: len(load.failures) > 100, timeout=15, what="refused calls")
        assert host.process.poll() is None
        retries = sum("connection.retry" in line for line in host.lines)
        assert retries < 4 + 8 * (time.monotonic() - ended + 1), "four connections, with growing pauses"
        token, _ = operator.user(expires=time.time() + 3600, seed=seed)
        write_credentials(credentials, token, seed)
        renewed = time.monotonic()
        load.wait_until_well(timeout=20)
        recovery = load.failures[-1][0] - renewed
    print(f"expired credentials: {load.figures()}; last failure {recovery:.1f} s after the renewal")
    assert recovery < 6
    assert load.longest < 4
    assert all("NATS" in reason or "nobody listens" in reason for reason in load.reasons), load.reasons
    fleet.check_counted(load)
    assert host.stop(signal.SIGTERM) == 0
