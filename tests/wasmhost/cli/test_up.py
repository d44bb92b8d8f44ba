"""`wasmhost up` as a user meets it, beyond the first application (tests/flow has that)."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lattice import wasmfile
from tests.support.http import answers, get
from tests.support.nats import NatsServer, free_port
from tests.support.processes import ROOT, Running, run, user_environment, wait_until

Start = Callable[..., Running]


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    return user_environment(tmp_path / "home")


@pytest.fixture
def start(env: dict[str, str]) -> Iterator[Start]:
    running: list[Running] = []

    def begin(*arguments: str, **more: str) -> Running:
        running.append(Running(list(arguments), env={**env, **more}))
        return running[-1]

    yield begin
    for process in running:
        process.kill()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def manifest(tmp_path: Path, port: int) -> Path:
    """The echo application on a port of its own, its actor unsigned."""
    (tmp_path / "echo.wasm").write_bytes(wasmfile.strip((ROOT / "actors" / "echo" / "echo_s.wasm").read_bytes()))
    text = (ROOT / "manifests" / "echo.yaml").read_text().replace("127.0.0.1:8080", f"127.0.0.1:{port}")
    path = tmp_path / "echo.yaml"
    path.write_text(text.replace("../actors/echo/echo_s.wasm", "echo.wasm"))
    return path


def test_an_unsigned_actor_runs_and_the_user_is_told_who_signed_it(start: Start, manifest: Path, port: int) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    assert up.has_printed("echo.wasm with your development key (A")
    assert up.has_printed(f"http://127.0.0.1:{port}/")
    assert get(port, "/x")[0] == 200
    assert up.stop() == 0


def test_in_json_standard_output_is_one_document(manifest: Path, env: dict[str, str], port: int) -> None:
    import subprocess

    from tests.support.processes import WASMHOST

    process = subprocess.Popen(
        [*WASMHOST, "up", "-o", "json", str(manifest)],
        env=env,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    document = json.loads(process.stdout.readline())
    assert document["urls"] == [f"http://127.0.0.1:{port}/"]
    assert document["applications"] == ["echo"]
    process.terminate()
    assert process.stdout.read() == ""
    process.stdout.close()
    assert process.wait(20) == 0


def test_without_a_manifest_it_is_a_lattice_for_the_other_commands(start: Start, env: dict[str, str]) -> None:
    up = start("up", "--lattice", "mine", "--name", "bench")
    up.wait_for_output("Ready after")
    elsewhere = run(["get", "hosts", "-o", "json"], env=env)
    assert elsewhere.returncode in (0, 6), "the default folder has no running up"
    state = str(Path(env["HOME"]) / ".local/state/wasmhost/hosts/bench")
    found = run(["get", "hosts", "-o", "json", "--state", state], env=env)
    assert [host["lattice"] for host in json.loads(found.stdout)["hosts"]] == ["mine"]
    assert up.stop(signal.SIGTERM) == 0


def test_a_lattice_on_a_server_that_runs_already_leaves_that_server_alone(
    start: Start, manifest: Path, port: int, nats_server: NatsServer, lattice: str
) -> None:
    up = start("up", "--nats-url", nats_server.url, "--lattice", lattice, str(manifest))
    up.wait_for_output("Ready after")
    assert not [process for process in up.family() if "nats-server" in process.command]
    assert get(port)[0] == 200
    assert up.stop() == 0
    os.kill(nats_server.pid, 0)


def test_a_nats_server_that_died_is_started_again(start: Start, manifest: Path, port: int) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    os.kill(up.child("nats-server").pid, signal.SIGKILL)
    up.wait_for_output("starting it again")
    wait_until(lambda: answers(port), timeout=20, what="an answer after the NATS server came back")
    assert up.stop() == 0


def test_stopping_the_host_by_a_command_ends_it_all(start: Start, manifest: Path, env: dict[str, str]) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    host = json.loads(run(["get", "hosts", "-o", "json"], env=env).stdout)["hosts"][0]["host_id"]
    stopped = run(["stop", "host", host[:6]], env=env)
    assert stopped.returncode == 0, stopped.stderr
    wait_until(lambda: up.process.poll() is not None, timeout=20, what="the end of up")
    assert up.stop() == 0
    assert up.has_printed("stopped by a command")


def test_killed_it_leaves_no_process_and_the_next_one_starts(start: Start, manifest: Path, port: int) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    family = up.family()
    assert len(family) == 2
    os.kill(up.process.pid, signal.SIGKILL)
    wait_until(lambda: not [p for p in family if p.alive], timeout=10, what="the end of its children")
    again = start("up", str(manifest))
    again.wait_for_output("Ready after")
    assert get(port)[0] == 200
    assert again.stop() == 0


def test_a_doubled_signal_is_one(start: Start, manifest: Path) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    family = up.family()
    up.process.send_signal(signal.SIGINT)
    time.sleep(0.05)
    assert up.stop() == 0
    assert up.has_printed("Stopped.")
    assert not [process for process in family if process.alive]


def test_a_second_signal_a_moment_later_ends_it_at_once(start: Start, manifest: Path) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    family = up.family()
    os.kill(up.child("providers.httpserver").pid, signal.SIGSTOP)  # it can neither hear nor obey
    up.process.send_signal(signal.SIGINT)
    up.wait_for_output("Stopping")
    time.sleep(1.1)  # less is one signal, sent twice
    assert up.process.poll() is None
    assert up.stop(signal.SIGINT, timeout=2) == 130
    wait_until(lambda: not [p for p in family if p.alive], timeout=5, what="the end of its children")


def test_a_signal_before_everything_is_up_ends_it_cleanly(start: Start, manifest: Path) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("NATS server:")
    assert up.stop(signal.SIGTERM) == 0
    assert up.has_printed("Stopped.")


def test_a_changed_manifest_takes_effect(start: Start, manifest: Path, port: int, env: dict[str, str]) -> None:
    up = start("up", str(manifest))
    up.wait_for_output("Ready after")
    assert up.stop() == 0
    other = free_port()
    manifest.write_text(manifest.read_text().replace(str(port), str(other)).replace("replicas: 4", "replicas: 2"))
    up = start("up", str(manifest))
    up.wait_for_output(f"http://127.0.0.1:{other}/")
    actors = json.loads(run(["get", "actors", "-o", "json"], env=env).stdout)["actors"]
    assert [actor["instances"] for actor in actors] == [2]
    assert not answers(port)
    assert up.stop() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["up", "missing.yaml"], 2, "missing.yaml"),
        (["up", "--fresh", "--nats-url", "nats://127.0.0.1:1"], 2, "--fresh"),
        (["up", "--nats-url", "nats://127.0.0.1:1"], 6, "Next: start that server, or name none"),
        (["up", "--trust", "nonsense"], 2, "--trust"),
        (["host", "--nats-url", "nats://127.0.0.1:1"], 6, "127.0.0.1:1"),
        (["host", "--rpc-timeout-ms", "soon", "--lattice", "a.b"], 2, "not a number of milliseconds"),
    ],
)
def test_what_cannot_work_is_told_at_once(env: dict[str, str], arguments: list[str], code: int, words: str) -> None:
    ended = run(arguments, env=env)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
