"""State folder and compile cache on a disk that becomes full or read-only, or is so from the beginning."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet
from tests.support.http import answers
from tests.support.processes import ROOT, Running, run, wait_until
from tests.support.tmpfs import Disk, small_disk

MEMORY = "bundled:keyvalue-memory"


def events(host: Running, name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in host.lines if f'"event": "{name}"' in line]


def degraded(fleet: Fleet) -> str:
    """What the one host says is wrong with it."""
    (host,) = fleet.ask("get", "inventory")["hosts"]
    return str(host["degraded"] or "")


def instances(fleet: Fleet) -> int:
    return sum(int(actor["instances"]) for actor in fleet.ask("get", "actors")["actors"])


def check_it_goes_on(fleet: Fleet, host: Running, disk: Disk, count: int) -> None:
    """Under load nothing fails; what needs no space is done, a provider that dies comes back, and the host says why."""
    with fleet.load(clients=2) as load:
        load.wait_for_more(30, timeout=20)
        fleet.do("scale", "actor", "kvcounter", str(count))
        wait_until(lambda: str(disk.folder) in degraded(fleet), timeout=10, what="a host that says that it is degraded")
        load.wait_for_more(30, timeout=20)
    assert not load.failures, load.reasons
    provider = host.child("keyvalue")
    os.kill(provider.pid, signal.SIGKILL)
    wait_until(lambda: not provider.alive and answers(fleet.http_port, "/x"), timeout=20, what="its provider")


def test_a_state_folder_that_becomes_full_or_read_only_stops_no_host_and_loses_nothing(
    fleet: Fleet, env: dict[str, str], tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        env["XDG_CACHE_HOME"] = str(disk.folder)
        where = ("--state", str(disk.folder / "state"))
        one = fleet.host("one", *where)
        fleet.start_counter("one")
        (host_id,) = fleet.host_ids().values()
        wait_until(lambda: "kvcounter" in duties(disk) and "redis" in duties(disk), timeout=10, what="its memory")

        disk.fill()
        check_it_goes_on(fleet, one, disk, 3)
        assert "No space left on device" in degraded(fleet)
        fleet.do("start", "actor", str(ROOT / "actors" / "echo" / "echo_s.wasm"))
        assert events(one, "compiled.not_kept"), "without space it is compiled for this time only"

        os.kill(one.process.pid, signal.SIGKILL)
        one.process.wait(10)
        one = fleet.host("one", *where)
        one.wait_until(lambda: answers(fleet.http_port, "/x"), timeout=30, what="what it was asked to run before")
        assert set(fleet.host_ids().values()) == {host_id}, "its key was not lost"
        disk.empty()
        fleet.do("scale", "actor", "kvcounter", "2")
        wait_until(lambda: not degraded(fleet), timeout=20, what="a host that is well again")

        disk.read_only()
        check_it_goes_on(fleet, one, disk, 4)
        assert "Read-only file system" in degraded(fleet)
        assert one.stop(signal.SIGTERM) == 0
        disk.writable()

        one = fleet.host("one", *where)
        one.wait_until(lambda: answers(fleet.http_port, "/x"), timeout=30, what="what it was asked to run before")
        assert instances(fleet) == 2, "what could be written last"
        assert one.stop(signal.SIGTERM) == 0


def duties(disk: Disk) -> str:
    return "".join(path.read_text() for path in disk.folder.glob("state/**/duties/*.json"))


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_started_on_a_full_or_read_only_folder_it_says_so_in_one_sentence(
    fleet: Fleet, env: dict[str, str], tmp_path: Path, how: str
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        disk.fill() if how == "full" else disk.read_only()
        state = disk.folder / "state"
        why, what = {
            "full": ("No space left on device", "free some space there"),
            "read-only": ("Read-only file system", "make it writable for this user"),
        }[how]
        host = run(["host", "--nats-url", fleet.nats.url, "--state", str(state)], env=env)
        up = run(["up", "manifests/echo.yaml"], env={**env, "WASMHOST_STATE": str(disk.folder)})
        for done in (host, up):
            last = done.stderr.splitlines()[-1]
            assert (done.returncode, last.startswith(f"Error: state folder {disk.folder}")) == (1, True), done.stderr
            assert why in last and what in last and "Traceback" not in done.stderr
        seed = run(["keys", "gen", "account", "--out", str(disk.folder / "a.nk")], env=env)
        assert (seed.returncode, why.lower() in seed.stderr) == (1, True)
        assert not (disk.folder / "a.nk").exists(), "no half key is left"
        doctor = run(["doctor", "-o", "json"], env={**env, "WASMHOST_STATE": str(disk.folder)})
        checks = {each["check"]: each["level"] for each in json.loads(doctor.stdout)["checks"]}
        assert checks["state"] == {"full": "warn", "read-only": "fail"}[how]

        env["XDG_CACHE_HOME"] = str(disk.folder)  # keys elsewhere, nothing compiled can be kept
        one = fleet.host("one")
        assert events(one, "compiled.nothing_kept") or events(one, "compiled.not_kept")
        fleet.do("start", "actor", str(ROOT / "actors" / "echo" / "echo_s.wasm"))
        assert one.stop(signal.SIGTERM) == 0
