"""What a user can do wrong: one sentence, a next step, the right exit code, nothing left running."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import venv
from collections.abc import Callable
from pathlib import Path

from tests.support.http import answers
from tests.support.processes import ROOT, WASMHOST, Running, run, user_environment

Manifest = Callable[[str], Path]
Start = Callable[..., Running]


def one_clear_error(stderr: str) -> str:
    """The error line; fails on tracebacks."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.lower().startswith("error")]
    assert len(lines) >= 1, stderr
    return lines[-1]


def test_a_taken_http_port_is_a_conflict(manifest: Manifest, http_port: int, env: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", http_port))
        taken.listen()
        ended = run(["up", str(manifest("kvcounter"))], env=env)
    assert ended.returncode == 5, ended.stderr
    assert f"127.0.0.1:{http_port} in use" in one_clear_error(ended.stderr)


def test_a_bad_setting_of_the_http_server_is_told_with_key_value_and_example(
    manifest: Manifest, http_port: int, env: dict[str, str]
) -> None:
    path = manifest("echo")
    address = f"address: 127.0.0.1:{http_port}"
    text = path.read_text()
    assert address in text
    path.write_text(text.replace(address, f"{address}\n              cert_file: /nowhere/shop.pem"))
    ended = run(["up", str(path)], env=env)
    assert ended.returncode == 2, ended.stderr
    error = one_clear_error(ended.stderr)
    assert "cert_file: '/nowhere/shop.pem': no such file or directory (example: /etc/ssl/server.pem)" in error
    assert "priv_key_file: not given" in error


def test_no_nats_server_binary(manifest: Manifest, home: Path, tmp_path: Path) -> None:
    """No server on PATH, and a virtual environment whose scripts folder has none."""
    venv.create(tmp_path / "venv", with_pip=False)
    env = user_environment(home, PATH=str(tmp_path / "venv" / "bin"))
    packages = [path for path in sys.path if path.endswith("site-packages")]
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), *packages])
    command = [tmp_path / "venv" / "bin" / "python", "-m", "wasmhost", "up", str(manifest("kvcounter"))]
    ended = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 6, ended.stderr
    assert "nats-server" in one_clear_error(ended.stderr)


def test_broken_yaml_names_file_line_and_column(tmp_path: Path, env: dict[str, str]) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text("apiVersion: core.oam.dev/v1beta1\nkind: [Application\n")
    ended = run(["up", str(path)], env=env)
    assert ended.returncode == 2
    assert "broken.yaml:" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_text_file_is_no_actor(tmp_path: Path, manifest: Manifest, env: dict[str, str]) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not WebAssembly\n")
    path = manifest("echo")
    path.write_text(path.read_text().replace(str(ROOT / "actors" / "echo" / "echo_s.wasm"), str(text)))
    ended = run(["up", str(path)], env=env)
    assert ended.returncode == 2, ended.stderr
    assert "notes.txt" in one_clear_error(ended.stderr)


def test_a_state_folder_without_write_permission(tmp_path: Path, manifest: Manifest, env: dict[str, str]) -> None:
    state = tmp_path / "state"
    state.mkdir()
    command = [*WASMHOST, "up", "--state", str(state), str(manifest("echo"))]
    if os.geteuid() == 0:
        # root without the right to overrule file modes, in a folder of somebody else
        os.chown(state, 65534, 65534)
        dropped = "-dac_override,-dac_read_search,-fowner"
        command = ["setpriv", "--bounding-set", dropped, "--inh-caps", dropped, *command]
    state.chmod(0o555)
    ended = subprocess.run(command, capture_output=True, text=True, env=env, cwd=ROOT, timeout=60, check=False)
    assert ended.returncode == 1, ended.stderr
    assert str(state) in one_clear_error(ended.stderr)


def test_a_second_up_beside_the_first(start: Start, manifest: Manifest, http_port: int, env: dict[str, str]) -> None:
    up = start("up", str(manifest("echo")))
    up.wait_until(lambda: answers(http_port), timeout=15, what="the first up")
    second = run(["up", str(manifest("echo"))], env=env)
    assert second.returncode == 5, second.stderr
    assert "Traceback" not in second.stderr
    assert answers(http_port), "the first one goes on"
    assert up.stop() == 0
