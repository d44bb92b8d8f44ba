"""`wasmhost up --detach` and `wasmhost down`, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.http import answers, get
from tests.support.nats import NatsServer
from tests.support.processes import WASMHOST, Running, descendants, run, wait_until

Manifest = Callable[[str], Path]
Start = Callable[..., Running]


@pytest.fixture(autouse=True)
def nothing_left(env: dict[str, str]) -> Iterator[None]:
    """Whatever a test left running in the background is ended."""
    yield
    run(["down"], env=env)


def test_it_returns_when_ready_and_down_ends_all_of_it(manifest: Manifest, http_port: int, env: dict[str, str]) -> None:
    up = run(["up", "--detach", "--hosts", "2", str(manifest("kvcounter"))], env=env)
    assert up.returncode == 0, up.stderr
    assert up.stdout == f"http://127.0.0.1:{http_port}/\n"
    assert "wasmhost down" in up.stderr and "tail -f " in up.stderr and "link kvcounter" in up.stderr
    assert get(http_port, "/x")[1] == b'{"counter":1}'
    log = Path(up.stderr.split("tail -f ")[1].splitlines()[0])
    assert "Ready after" in log.read_text()
    assert log.stat().st_mode & 0o077 == 0

    record = json.loads((log.parent.parent / "up.json").read_text())
    family = descendants(record["pid"])
    assert len(family) == 4, "a NATS server, a host, two providers"
    down = run(["down"], env=env)
    assert down.returncode == 0, down.stderr
    assert "2 hosts and the NATS server at nats://127.0.0.1:" in down.stdout
    assert str(record["pid"]) in down.stdout
    assert not [process for process in family if process.alive]
    assert not answers(http_port)
    assert "Stopped." in log.read_text()

    again = run(["down"], env=env)
    assert again.returncode == 0
    assert "Nothing to stop" in again.stdout


def test_what_was_stored_is_kept_until_it_is_purged(manifest: Manifest, http_port: int, env: dict[str, str]) -> None:
    path = str(manifest("kvcounter"))
    for expected, ending in ((b'{"counter":1}', ["down"]), (b'{"counter":2}', ["down", "--purge", "--yes"])):
        assert run(["up", "--detach", path], env=env).returncode == 0
        assert get(http_port, "/x")[1] == expected
        assert run(ending, env=env).returncode == 0
    fresh = run(["up", "--detach", "-o", "json", path], env=env)
    document = json.loads(fresh.stdout)
    assert (document["ready"], document["urls"]) == (True, [f"http://127.0.0.1:{http_port}/"])
    os.kill(document["pid"], 0)
    assert get(http_port, "/x")[1] == b'{"counter":1}'
    down = json.loads(run(["down", "--purge", "--yes", "-o", "json"], env=env).stdout)
    assert (down["stopped"], down["pid"], down["hosts"]) == (True, document["pid"], 1)
    assert down["removed_bytes"] > 0


def test_purging_asks_first_and_stops_nothing_without_an_answer(
    manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    assert run(["up", "--detach", str(manifest("kvcounter"))], env=env).returncode == 0
    refused = run(["down", "--purge"], env=env)
    assert refused.returncode == 2
    assert "--yes" in refused.stderr
    assert answers(http_port), "it goes on"
    for answer, code in ((b"n\n", 1), (b"y\n", 0)):
        control, terminal = os.openpty()
        process = subprocess.Popen(
            [*WASMHOST, "down", "--purge"], stdin=terminal, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env
        )
        os.write(control, answer)
        out, err = process.communicate(timeout=60)
        os.close(terminal)
        os.close(control)
        assert process.returncode == code, err
        assert b"applications stored in " in err
        assert (b"Removed" in out) == (code == 0)


def test_what_does_not_work_is_told_with_its_exit_code(
    manifest: Manifest, http_port: int, env: dict[str, str], tmp_path: Path
) -> None:
    missing = run(["up", "--detach", str(tmp_path / "none.yaml")], env=env)
    assert missing.returncode == 2
    assert missing.stderr.count("Error: ") == 1
    with socket.create_server(("127.0.0.1", http_port)):
        taken = run(["up", "--detach", str(manifest("kvcounter"))], env=env)
    assert taken.returncode == 5
    assert f"127.0.0.1:{http_port} in use" in taken.stderr
    assert taken.stderr.count("Error: ") == 1
    assert run(["down"], env=env).stdout.startswith("Nothing to stop"), "what failed left nothing behind"

    assert run(["up", "--detach", str(manifest("echo"))], env=env).returncode == 0
    second = run(["up", "--detach", str(manifest("echo"))], env=env)
    assert second.returncode == 5
    assert "wasmhost down" in second.stderr
    assert answers(http_port)


def test_ctrl_c_while_waiting_stops_what_was_begun(start: Start, manifest: Manifest, env: dict[str, str]) -> None:
    up = start("up", "--detach", str(manifest("kvcounter")))
    up.wait_for_output("NATS server:")
    assert up.stop(signal.SIGINT) == 130
    assert "Nothing to stop" in run(["down"], env=env).stdout


def test_down_ends_one_in_the_foreground_and_one_that_is_not_ready(
    start: Start, manifest: Manifest, env: dict[str, str]
) -> None:
    up = start("up", "--name", "shop", str(manifest("echo")))
    up.wait_for_output("NATS server:")
    assert "Nothing to stop" in run(["down"], env=env).stdout, "that is another one"
    down = run(["down", "--name", "shop"], env=env)
    assert down.returncode == 0, down.stderr
    assert f"process {up.process.pid}" in down.stdout
    wait_until(lambda: up.process.poll() is not None, timeout=5, what="its end")
    assert up.stop() == 0


def test_a_server_that_was_named_goes_on(
    manifest: Manifest, env: dict[str, str], nats_server: NatsServer, lattice: str
) -> None:
    arguments = ["--nats-url", nats_server.url, "-x", lattice, str(manifest("echo"))]
    assert run(["up", "--detach", *arguments], env=env).returncode == 0
    down = run(["down", "--purge", "--yes"], env=env)
    assert down.returncode == 0, down.stderr
    assert f"The NATS server at {nats_server.url} is not its own" in down.stdout
    os.kill(nats_server.pid, 0)


def test_one_that_does_not_end_in_time_is_ended_by_a_second_down(
    manifest: Manifest, env: dict[str, str], http_port: int
) -> None:
    up = run(["up", "--detach", "-o", "json", str(manifest("echo"))], env=env)
    pid = json.loads(up.stdout)["pid"]
    provider = next(p for p in descendants(pid) if "providers.httpserver" in p.command)
    os.kill(provider.pid, signal.SIGSTOP)  # it can neither hear nor obey
    late = run(["down", "--timeout", "0.5"], env=env)
    assert late.returncode == 7, late.stderr
    assert f"process {pid} still runs" in late.stderr
    time.sleep(0.6)  # two signals within a second are one
    assert run(["down"], env=env).returncode == 0
    assert not provider.alive


def test_a_password_in_the_address_is_shown_nowhere(
    manifest: Manifest, env: dict[str, str], tmp_path: Path, lattice: str
) -> None:
    server = NatsServer(tmp_path / "nats", config='authorization { user: shop, password: "hunter2" }').start()
    try:
        named = {**env, "WASMHOST_NATS_URL": server.url.replace("://", "://shop:hunter2@")}
        up = run(["up", "--detach", "-x", lattice, str(manifest("echo"))], env=named)
        assert up.returncode == 0, up.stderr
        record = next(Path(env["HOME"]).rglob("up.json"))
        pid = json.loads(record.read_text())["pid"]
        commands = [Path(f"/proc/{pid}/cmdline").read_text(), *(process.command for process in descendants(pid))]
        found = run(["get", "hosts"], env=env)
        assert found.returncode == 0, found.stderr
        shown = [up, found, run(["ctx", "list"], env=env), run(["doctor"], env=env), run(["down"], env=env)]
        log = record.parent / "up" / "up.log"
        texts = [*commands, log.read_text(), *(end.stdout + end.stderr for end in shown)]
        assert not [text for text in texts if "hunter2" in text]
        assert record.parent.stat().st_mode & 0o077 == 0
    finally:
        server.stop()
