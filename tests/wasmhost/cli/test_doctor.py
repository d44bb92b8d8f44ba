"""`wasmhost doctor`: each thing that can be wrong is found, told with what to do, and only failures fail."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lattice import subjects
from lattice.connection import ConnectOptions, connect
from lattice.control import HostPing, Inventory
from lattice.keys import KeyPair, Role
from lattice.transport import Headers
from tests.support import actors
from tests.support.nats import NatsServer, free_port
from tests.support.processes import Running, run, user_environment
from wasmhost.cli.doctor.findings import Level
from wasmhost.cli.doctor.ports import listener
from wasmhost.cli.doctor.reach import _anonymous
from wasmhost.state import StatePaths, locate


def examine(env: dict[str, str], *arguments: str, code: int = 0) -> dict[str, list[dict[str, Any]]]:
    """The checks by name."""
    ended = run(["doctor", "-o", "json", *arguments], env=env)
    assert ended.returncode == code, ended.stdout + ended.stderr
    document = json.loads(ended.stdout)
    assert document["ok"] == (code == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for check in document["checks"]:
        found.setdefault(check["check"], []).append(check)
        assert check["level"] == "ok" or check["fix"], f"nothing to do about {check}"
    return found


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return user_environment(tmp_path / "home")


@pytest.fixture
def paths(env: dict[str, str]) -> StatePaths:
    return locate(env)


def test_on_a_new_machine_nothing_fails(env: dict[str, str], tmp_path: Path) -> None:
    shown = run(["doctor"], env=env)
    assert shown.returncode == 0, shown.stdout
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert {"ok", "warn"} >= {line.split()[0] for line in shown.stdout.splitlines() if not line.startswith(" ")}
    checks = examine(env)
    assert {"versions", "engine", "nats-server", "port 4222", "state", "keys", "context"} <= set(checks)
    assert not (tmp_path / "home" / ".local").exists(), "looking makes no keys"


def test_the_packages_are_those_that_a_user_gets_not_those_of_our_tests(env: dict[str, str]) -> None:
    (packages,) = examine(env)["packages"]
    assert packages["level"] == "ok"
    assert "wasmtime" in packages["message"] and "httptools" in packages["message"]
    assert "aiohttp" not in packages["message"] and "pytest" not in packages["message"]


def test_a_whole_lattice_is_found_sound(env: dict[str, str], nats_server: NatsServer, lattice: str) -> None:
    env |= {"WASMHOST_NATS_URL": nats_server.url, "WASMCLOUD_LATTICE": lattice}
    host = Running(["host", "--name", "one", "--trust", actors.ACCOUNT.public, "--allow-file-load"], env=env)
    try:
        host.wait_for_output("host.started")
        folder = Path(env["HOME"])
        for name in ("first", "second"):
            wasm = actors.signed(actors.ECHO, name=name)
            assert run(["start", "actor", actors.write(folder, wasm, f"{name}.wasm")], env=env).returncode == 0
        checks = examine(env)
        assert {name for name, found in checks.items() if found[0]["level"] != "ok"} <= {"port 8080"}
        assert "1: one" in checks["hosts"][0]["message"]
        assert "within a second" in checks["clocks"][0]["message"]
        assert "first, second" in checks["actor calls"][0]["message"]
        env["WASMCLOUD_CLUSTER_SEED"] = KeyPair.generate(Role.CLUSTER).seed
        assert "--cluster-seed" in examine(env)["calls"][0]["fix"]
        assert host.stop() == 0
    finally:
        host.kill()


def test_a_named_server_that_is_not_there_fails(env: dict[str, str]) -> None:
    nowhere = f"nats://127.0.0.1:{free_port()}"
    assert nowhere in examine(env, "--nats-url", nowhere, code=1)["nats"][0]["message"]
    env["WASMHOST_NATS_URL"] = nowhere
    assert examine(env, code=1)["nats"][0]["level"] == "fail"


def test_a_server_without_jetstream_is_a_warning(env: dict[str, str], tmp_path: Path) -> None:
    server = NatsServer(tmp_path / "nats", jetstream=False).start()
    try:
        checks = examine(env, "--nats-url", server.url)
        assert (checks["jetstream"][0]["level"], "-js" in checks["jetstream"][0]["fix"]) == ("warn", True)
        assert checks["hosts"][0]["level"] == "warn"
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("auth", "url", "level"),
    [
        (True, "nats://10.0.0.1:4222", Level.OK),
        (False, "nats://127.0.0.1:4222", Level.OK),
        (False, "nats://10.0.0.1:4222", Level.WARN),
    ],
)
def test_a_server_open_to_other_machines_is_a_warning(auth: bool, url: str, level: Level) -> None:
    assert _anonymous(auth, url).level is level


def test_keys_that_others_can_read_and_keys_that_are_none(env: dict[str, str], paths: StatePaths) -> None:
    paths.shared.mkdir(parents=True, mode=0o700)
    exposed, broken = paths.shared / "account.nk", paths.shared / "cluster.nk"
    exposed.write_text(KeyPair.generate(Role.ACCOUNT).seed)
    exposed.chmod(0o640)
    broken.write_text("SCNOTHING")
    broken.chmod(0o600)
    keys = {check["level"]: check for check in examine(env, code=1)["keys"]}
    assert f"chmod 600 {exposed}" in keys["warn"]["fix"]
    assert str(broken) in keys["fail"]["message"]
    assert exposed.stat().st_mode & 0o777 == 0o640, "looking changes nothing"


def test_settings_that_cannot_be_used_are_all_named(env: dict[str, str]) -> None:
    env |= {"WASMCLOUD_RPC_TIMEOUT_MS": "soon", "WASMHOST_TRUSTED_ISSUERS": "me"}
    checks = examine(env, code=1)
    assert {check["message"].split(":")[0] for check in checks["settings"]} == {
        "WASMCLOUD_RPC_TIMEOUT_MS",
        "WASMHOST_TRUSTED_ISSUERS",
    }
    assert checks["context"][0]["level"] == "fail"


def test_who_listens_on_a_port_is_known() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        found = listener(server.getsockname()[1])
        assert found is not None
        ours = Path("/proc/self/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        assert (found.pid, found.command) == (os.getpid(), ours[:60])
    assert listener(free_port()) is None


@pytest.fixture
def cluster(paths: StatePaths) -> Iterator[KeyPair]:
    """The cluster of this user, so that its hosts are believed."""
    from wasmhost.state import Keyring

    yield Keyring(paths).cluster()


@pytest.mark.parametrize(
    "case",
    [(0.0, "ok", "within"), (30.0, "warn", "ahead of"), (-20.0, "warn", "behind"), (-90.0, "fail", "refused")],
)
async def test_the_clock_of_a_host_is_compared(
    env: dict[str, str], nats_server: NatsServer, lattice: str, cluster: KeyPair, case: tuple[float, str, str]
) -> None:
    """A stand-in host with a clock of its own, which answers as a host does."""
    skew, level, words = case
    host_id = KeyPair.generate(Role.HOST).public
    connection = await connect(ConnectOptions(url=nats_server.url))

    def pinged(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        now = round((time.time() + skew) * 1000)
        ping = HostPing(id=host_id, friendly_name="far", issuer=cluster.public, lattice=lattice, clock_ms=now)
        connection.publish(reply, json.dumps(ping.to_dict()).encode())

    def asked(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        connection.publish(reply, json.dumps(Inventory(host_id=host_id, friendly_name="far").to_dict()).encode())

    control = subjects.Control(lattice)
    await connection.subscribe(control.ping_hosts(), pinged)
    await connection.subscribe(control.get_inventory(host_id), asked)
    try:
        arguments = ["--nats-url", nats_server.url, "-x", lattice]
        checks = await asyncio.to_thread(examine, env, *arguments, code=1 if level == "fail" else 0)
    finally:
        await connection.drain()
    assert checks["clocks"][0]["level"] == level
    assert words in checks["clocks"][0]["message"]
