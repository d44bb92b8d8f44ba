"""The NATS server is stopped, killed or started again under a lattice at work."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable
from pathlib import Path

from lattice.claims import read_actor
from tests.support import actors
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


def calling_again_and_again(target: str) -> str:
    """An actor whose one call makes 100,000 host calls to another one, each after a while of computing."""
    return actors.module(f"""(data (i32.const 0) "{target}Test.Echo")
      (func (export "__guest_call") (param $op i32) (param $len i32) (result i32) (local $calls i32) (local $spin i32)
        (call $request (i32.const 1024) (i32.const 65536))
        (loop $again
          (local.set $spin (i32.const 20000000))
          (loop $compute (br_if $compute (local.tee $spin (i32.sub (local.get $spin) (i32.const 1)))))
          (if (i32.ne (i32.const 1) (call $host_call
              (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 56) (i32.const 56) (i32.const 9)
              (i32.const 65536) (i32.const 0)))
            (then unreachable))
          (br_if $again
            (i32.lt_u (local.tee $calls (i32.add (local.get $calls) (i32.const 1))) (i32.const 100000))))
        (i32.const 1))""")


def test_calls_between_actors_of_one_host_go_on_without_a_nats_server(
    fleet: Fleet, start: Callable[..., Running], tmp_path: Path
) -> None:
    host = fleet.host("one", "--trust", actors.ACCOUNT.public, "--log-level", "debug")
    echo = actors.signed(actors.ECHO, name="echo")
    caller = actors.signed(calling_again_and_again(read_actor(echo).subject), name="caller")
    for name, wasm in (("echo", echo), ("caller", caller)):
        path = tmp_path / f"{name}_s.wasm"
        path.write_bytes(wasm)
        fleet.do("start", "actor", str(path), "--host", "one", "--limit", "deadline_ms=60000")

    def local_calls() -> int:
        return sum('"route": "local"' in line and '"outcome": "ok"' in line for line in host.lines)

    start("call", "caller", "Test.Begin", "--timeout", "60", "--nats-url", fleet.nats.url)
    host.wait_until(lambda: local_calls() > 5, timeout=20, what="local calls")
    fleet.nats.stop()
    host.wait_until(lambda: losses(host) == 1, timeout=5, what="word of the loss")
    before = local_calls()
    host.wait_until(lambda: local_calls() > before + 20, timeout=20, what="local calls without a server")
    fleet.nats.start()
    host.wait_until(lambda: fleet.ask("call", "echo", "Test.Echo", "[1]") is not None, timeout=10, what="an answer")
