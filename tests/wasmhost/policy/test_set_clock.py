"""A host whose machine's clock is set while claims run: a daemon that sees another time of day."""

from __future__ import annotations

import time
from pathlib import Path

from lattice.claims import read_actor
from tests.support import actors
from tests.support.clock import Clock
from tests.support.nats import NatsServer
from tests.support.processes import Running, run, user_environment

HOUR = 3600


def test_a_clock_that_is_set_back_revives_nothing_and_one_set_forward_ends_claims_for_good(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    env = user_environment(tmp_path / "home", WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE=lattice)
    clock = Clock(tmp_path / "machine")
    flags = ["--trust", actors.ACCOUNT.public, "--allow-file-load"]
    host = Running(["host", *flags], env=env | clock.env)
    try:
        host.wait_for_output("host.started")
        long = actors.signed(actors.ECHO, name="Long", expires=int(time.time()) + HOUR)
        actors.write(tmp_path, long, "long.wasm")
        assert run(["start", "actor", str(tmp_path / "long.wasm")], env=env).returncode == 0
        short = actors.signed(actors.ECHO, name="Short", expires=int(time.time()) + 10)
        actors.write(tmp_path, short, "short.wasm")
        started = run(["start", "actor", str(tmp_path / "short.wasm")], env=env)
        assert started.returncode == 0, started.stderr

        clock.set(-HOUR)
        expires = read_actor(short).expires
        assert expires is not None
        host.wait_for_output("actor.halted", timeout=30)
        assert abs(time.time() - expires) < 10  # and not an hour later
        refused = run(["start", "actor", str(tmp_path / "short.wasm")], env=env)
        assert refused.returncode == 8 and "expired at" in refused.stderr

        clock.set(2 * HOUR)
        host.wait_until(lambda: host.output.count("actor.halted") == 2, timeout=20, what="the end of the other")
        clock.set(0)
        refused = run(["start", "actor", str(tmp_path / "long.wasm")], env=env)
        assert refused.returncode == 8 and "expired at" in refused.stderr
    finally:
        host.kill()
