"""A real redis-server for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.support.nats import free_port


def redis_server_binary() -> str:
    """The server's path; a missing server fails the run, since a silent skip would hide the tests that matter most."""
    found = shutil.which("redis-server")
    if found is None:
        raise RuntimeError("redis-server is missing: run tests/packages.sh, or put redis-server on PATH")
    return found


class RedisServer:
    """One server process, whose data are kept in its folder; ``restart`` keeps port and data."""

    def __init__(self, folder: Path, *options: str, password: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self._password = password
        self.address = f"127.0.0.1:{self.port}"
        self._options = (*options, "--requirepass", password) if password else options
        self._process: subprocess.Popen[bytes] | None = None
        self._databases = 0

    def database(self) -> str:
        """The URL of a database that nobody else uses."""
        self._databases += 1
        return f"redis://{self.address}/{self._databases}"

    def start(self) -> RedisServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        options = {"bind": "127.0.0.1", "port": str(self.port), "dir": str(self.folder), "databases": "1000"}
        # every answered change is on disk, so that a kill loses nothing
        options |= {"appendonly": "yes", "appendfsync": "always", "save": ""}
        command = [redis_server_binary(), *(word for name in options for word in (f"--{name}", options[name]))]
        with (self.folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"redis-server ended: {(self.folder / 'server.log').read_text()[-2000:]}")
            try:
                self.command("PING")
            except OSError:
                time.sleep(0.02)
            else:
                return self
        raise RuntimeError("redis-server did not become ready within 10 s")

    def command(self, *words: str, database: str = "") -> bytes:
        """Ask it with our own few bytes of protocol; its whole answer as it came, for small ones."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=2) as connection:
            before = [("AUTH", self._password)] if self._password else []
            before += [("SELECT", database.rpartition("/")[2])] if database else []
            for each in (*before, words):
                packed = b"".join(b"$%d\r\n%b\r\n" % (len(word.encode()), word.encode()) for word in each)
                connection.sendall(b"*%d\r\n%b" % (len(each), packed))
                answer = connection.recv(65536)
            return answer

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, signal.SIGCONT)
            os.kill(self._process.pid, sig)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._process = None

    def restart(self, sig: int = signal.SIGTERM) -> None:
        self.stop(sig)
        self.start()

    def hang(self) -> None:
        """Accept connections, and answer nothing."""
        os.kill(self.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self.pid, signal.SIGCONT)
