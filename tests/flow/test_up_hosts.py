"""`wasmhost up --hosts N`: several hosts, each a process, one application over all of them."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from tests.support.http import Load, answers, get
from tests.support.processes import Running, run, wait_until

Manifest = Callable[[str], Path]
Start = Callable[..., Running]


def instances(env: dict[str, str]) -> dict[str, int]:
    """How many instances run, by host."""
    listed = run(["get", "actors", "-o", "json"], env=env)
    if listed.returncode != 0:
        return {}
    return {actor["host_name"]: actor["instances"] for actor in json.loads(listed.stdout)["actors"]}


def test_instances_are_divided_over_hosts_with_keys_of_their_own(
    start: Start, manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    up = start("up", "--hosts", "3", str(manifest("kvcounter")))
    up.wait_for_output("Ready after", timeout=60)
    hosts = json.loads(run(["get", "hosts", "-o", "json"], env=env).stdout)["hosts"]
    assert len({host["host_id"] for host in hosts}) == 3
    assert sorted(instances(env).values()) == [1, 1, 2]
    assert [get(http_port, "/count")[1] for _ in range(6)] == [b'{"counter":%d}' % n for n in range(1, 7)]
    family = up.family()
    assert sum("wasmhost host" in process.command for process in family) == 2
    assert not [process for process in family if "SC" in process.command], "no seed on a command line"
    keys = {host["host_id"] for host in hosts}
    assert up.stop() == 0

    again = start("up", "--hosts", "2", str(manifest("kvcounter")))
    again.wait_for_output("Ready after", timeout=60)
    assert sorted(instances(env).values()) == [2, 2]
    hosts = json.loads(run(["get", "hosts", "-o", "json"], env=env).stdout)["hosts"]
    assert {host["host_id"] for host in hosts} < keys, "a host keeps its key"
    assert again.stop(signal.SIGTERM) == 0
    assert not list(Path(env["HOME"]).rglob("duties")), "the manifests say what runs, not what ran there before"


def test_calls_in_flight_finish_when_several_hosts_are_stopped(
    start: Start, manifest: Manifest, http_port: int
) -> None:
    up = start("up", "--hosts", "2", str(manifest("kvcounter")))
    up.wait_for_output("Ready after", timeout=60)
    with Load(http_port, "/load") as load:
        up.wait_until(lambda: len(load.good_at) > 50, timeout=20, what="traffic")
        assert up.stop() == 0
    assert up.has_printed("Stopped.")


def test_a_host_that_is_killed_comes_back_with_its_instances(
    start: Start, manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    up = start("up", "--hosts", "2", str(manifest("kvcounter")))
    up.wait_for_output("Ready after", timeout=60)
    victim = up.child("wasmhost host")
    with Load(http_port, "/load") as load:
        up.wait_until(lambda: len(load.good_at) > 50, timeout=20, what="traffic")
        os.kill(victim.pid, signal.SIGKILL)
        killed = time.monotonic()
        up.wait_until(lambda: load.good_since(killed + 0.5) > 50, timeout=15, what="answers of the other host")
    up.wait_for_output("killed by SIGKILL; starting it again")
    up.wait_until(lambda: sorted(instances(env).values()) == [2, 2], timeout=30, what="its instances")
    assert up.child("wasmhost host") != victim
    assert up.stop() == 0


def test_a_host_that_is_stopped_by_a_command_stays_away(
    start: Start, manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    up = start("up", "--hosts", "2", "--name", "shop", str(manifest("echo")))
    up.wait_for_output("Ready after", timeout=60)
    state = str(Path(env["HOME"]) / ".local/state/wasmhost/hosts/shop")
    stopped = run(["stop", "host", "shop-2", "--state", state], env=env)
    assert stopped.returncode == 0, stopped.stderr
    up.wait_for_output("Host shop-2 was stopped by a command.")
    wait_until(lambda: answers(http_port), timeout=10, what="an answer of the host that is left")
    assert up.stop() == 0


def test_killed_it_leaves_no_host_behind(start: Start, manifest: Manifest) -> None:
    up = start("up", "--hosts", "3", str(manifest("echo")))
    up.wait_for_output("Ready after", timeout=60)
    family = up.family()
    os.kill(up.process.pid, signal.SIGKILL)
    wait_until(lambda: not [p for p in family if p.alive], timeout=10, what="the end of its children")


def test_settings_of_the_environment_do_not_make_hosts_share_a_key(
    start: Start, manifest: Manifest, env: dict[str, str]
) -> None:
    from lattice.keys import KeyPair, Role

    key = KeyPair.generate(Role.HOST)
    env["WASMCLOUD_HOST_SEED"] = key.seed
    env["HOST_ZONE"] = "here"
    up = start("up", "--hosts", "2", str(manifest("echo")))
    up.wait_for_output("Ready after", timeout=60)
    hosts = json.loads(run(["get", "hosts", "-o", "json"], env=env).stdout)["hosts"]
    assert len(hosts) == 2
    assert [host["host_id"] for host in hosts].count(key.public) == 1
    assert [host["labels"]["zone"] for host in hosts] == ["here", "here"]
    assert up.stop() == 0
    assert not [line for line in up.lines if key.seed in line]
