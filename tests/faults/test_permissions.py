"""A NATS server that refuses a host single subjects, from the start or from some moment on."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lattice.claims import read_actor
from tests.support import actors
from tests.support.fleet import COUNTER, Fleet
from tests.support.http import get
from tests.support.nats import NatsServer
from tests.support.processes import run

ACTOR = read_actor(COUNTER.read_bytes()).subject
REDIS = "VDNVFJJ3DSQR6UPPXEYEOU2HPYGLOHDKI4GGMFXPDVB5BMQYFZVU46A4"


def allowing(*, publish: str = "nothing", subscribe: str = "nothing") -> str:
    """A server whose one user may do all but this."""
    permissions = f'{{publish: {{deny: ["{publish}"]}}, subscribe: {{deny: ["{subscribe}"]}}}}'
    return f'authorization {{ users: [ {{user: "host", password: "pw", permissions: {permissions}}} ] }}\n'


def test_a_subject_that_is_not_permitted_is_named_at_once_and_used_again_once_it_is(
    new_fleet: Callable[..., Fleet], tmp_path: Path
) -> None:
    to_redis = f"wasmbus.rpc.default.{REDIS}.default"
    echo = tmp_path / "echo_s.wasm"
    echo.write_bytes(actors.signed(actors.ECHO, name="echo"))
    to_echo = f"wasmbus.rpc.default.{read_actor(echo.read_bytes()).subject}"
    fleet = new_fleet(NatsServer(tmp_path / "nats", config=allowing(publish=to_redis, subscribe=to_echo)))
    fleet.env["WASMHOST_NATS_URL"] = fleet.nats.login_url("host")
    host = fleet.host("one", "--trust", actors.ACCOUNT.public, url=fleet.nats.login_url("host"))
    fleet.start_providers("one")
    fleet.do("start", "actor", str(COUNTER), "--host", "one")
    fleet.put_links()

    host.wait_until(lambda: refused(fleet.http_port) is not None, timeout=15, what="the refusal")
    began = time.monotonic()
    status, body = get(fleet.http_port)
    assert time.monotonic() - began < 1, "a refusal, not a time-out"
    assert status == 500
    assert f"does not permit this user to publish to {to_redis}; give the user" in json.loads(body)["error"]
    started = run(["start", "actor", str(echo), "--host", "one"], env=fleet.env)
    assert started.returncode != 0
    assert f"does not permit this user to subscribe to {to_echo}; give the user" in started.stderr, started.stderr
    assert host.has_printed("security.permission_violation")

    fleet.nats.reload(allowing())
    fleet.wait_until_it_answers()
    fleet.do("start", "actor", str(echo), "--host", "one")
    with fleet.load() as load:
        load.wait_for_more(50, timeout=10)
        fleet.nats.reload(allowing(subscribe=f"wasmbus.rpc.default.{ACTOR}"))
        host.wait_until(lambda: load.failures, timeout=10, what="failures")
        fleet.nats.reload(allowing())
        host.wait_for_output("connection.permitted_again", timeout=20)
        load.wait_for_more(50, timeout=10)
    print(f"permissions: {load.figures()} {dict(load.reasons)}")
    assert load.longest < 4
    assert any("nobody listens" in reason for reason in load.reasons)
    fleet.check_counted(load)
    assert host.stop(signal.SIGTERM) == 0


def refused(port: int) -> str | None:
    try:
        status, body = get(port)
    except OSError:
        return None
    return body.decode() if status == 500 and b"permit" in body else None
