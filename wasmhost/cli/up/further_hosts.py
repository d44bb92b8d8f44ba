"""The hosts of ``wasmhost up --hosts N`` beside the first: one child process each, so that each can use a core."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from lattice.client import ControlClient
from lattice.control import HostPing
from lattice.errors import LatticeError, Unreachable
from lattice.keys import Role
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.problems import Problem, timed_out
from wasmhost.cli.up.progress import Progress
from wasmhost.configuration.config import HostConfig
from wasmhost.configuration.settings import SETTINGS
from wasmhost.host import Host
from wasmhost.keys.identity import Identity
from wasmhost.private_files import make_private_folder
from wasmhost.processes.own_program import own_command
from wasmhost.processes.process import ChildProcess, describe_exit
from wasmhost.state import locate, read_or_make_key

log = structlog.get_logger(__name__)

READY_TIMEOUT = 30.0
LOOK_INTERVAL = 0.1
RESTART_PAUSES = (0.2, 1.0, 5.0)
"""Seconds before each new start of a host that ended by itself; the last one counts for all that follow."""
MOST_STARTS = 3
"""So often is a host started that somebody kills before it is ready."""
STOP_GRACE = 10.0
"""Seconds beyond its drain time after which a host that was told to end is killed."""


class FurtherHost:
    """One host beside the first, with a state folder and a key of its own and the settings of the first."""

    def __init__(
        self,
        number: int,
        given: Mapping[str, object],
        first: Host,
        progress: Progress,
        *,
        labels: Mapping[str, str],
    ) -> None:
        """``given`` are the settings of the command; ``number`` counts from 2. Raises StateError."""
        config, identity = replace(first.config, labels=labels), first.identity
        self.name = f"{identity.friendly_name}-{number}"
        self._settings = settings_of_further_host(given, config, identity, self.name)
        self._label = f"host {number}"
        self._state = config.paths.host
        self._drain_timeout = config.drain_timeout
        self._progress = progress
        folder = locate(os.environ, state=str(self._state), name=self.name).host
        make_private_folder(folder)
        self.host_id = read_or_make_key(folder / "host.nk", Role.HOST).public
        self._process: ChildProcess | None = None
        self._last_error: Mapping[str, object] = {}
        self._stopping = False
        self.left = False
        """A command stopped it: it stays away."""

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None and self._process.running else None

    def ping(self) -> HostPing:
        """What the lattice would say of it, as far as it is known here."""
        return HostPing(id=self.host_id, friendly_name=self.name)

    async def ensure_ready(self, client: ControlClient) -> None:
        """Start it if it does not run, and wait until it answers in the lattice. Raises Problem and OSError."""
        code = 0
        for _ in range(MOST_STARTS):
            if self.pid is None:
                await self._start()
            assert self._process is not None
            if await self._answers(client, self._process):
                return
            code = await self._process.wait()
            if code >= 0:
                break  # it ended by itself, and would again
        raise self._early_end(code)

    async def _answers(self, client: ControlClient, process: ChildProcess) -> bool:
        """Wait until it answers; False when it ended first."""
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                while process.running:
                    with contextlib.suppress(Unreachable):
                        await client.inventory(self.host_id)
                        return True
                    await asyncio.sleep(LOOK_INTERVAL)
        except TimeoutError:
            raise timed_out(
                f"host {self.name} does not answer {READY_TIMEOUT:g} s after its start", "look at its lines above"
            ) from None
        return False

    async def keep(self, bring_up: Callable[[], Awaitable[object]]) -> None:
        """Start it again with ``bring_up`` whenever it ends by itself. Returns when it was stopped on purpose."""
        pauses = iter(RESTART_PAUSES)
        while self._process is not None:
            code = await self._process.wait()
            if self._stopping:
                return
            if code == 0:
                self.left = True  # before anybody brings it up again
                self._progress.step(f"Host {self.name} was stopped by a command.")
                return
            self._progress.step(f"Host {self.name} {describe_exit(code)}; starting it again.")
            await asyncio.sleep(next(pauses, RESTART_PAUSES[-1]))
            try:
                await bring_up()  # which waits until it is ready
            except (Problem, LatticeError, OSError) as error:
                self._progress.step(f"Host {self.name}: {error}")
            except Exception:
                log.exception("up.host_broke", host=self.name)  # a host that is there is worth more than none

    async def stop(self) -> None:
        """Have it drain and end; by force when that takes too long. Repeating it does no harm."""
        self._stopping = True
        if self._process is not None:
            await self._process.terminate(grace=self._drain_timeout + STOP_GRACE)

    async def _start(self) -> None:
        self._last_error = {}
        self._process = await ChildProcess.spawn(
            own_command("host", "-o", "json", "--state", str(self._state), "--config", "-"),
            environment=_environment(),
            folder=Path.cwd(),
            first_line=json.dumps(self._settings).encode(),
            on_line=self._on_line,
            dies_with_parent=True,
        )
        self._process.close_input()  # the settings end where its input ends

    def _on_line(self, line: str) -> None:
        with contextlib.suppress(ValueError, RecursionError):
            record = json.loads(line)
            if isinstance(record, dict):
                if "exit_code" in record and "error" in record:
                    self._last_error = record
                else:
                    self._progress.relay(record, self._label)
                return
        self._progress.relay({"event": line, "level": "warning"}, self._label)

    def _early_end(self, code: int) -> Problem:
        """Why it ended before it was ready, in its own words where it had some."""
        said = self._last_error.get("error")
        exit_code = ExitCode.FAILED
        with contextlib.suppress(ValueError):
            exit_code = ExitCode(code)
        return Problem(
            f"host {self.name} did not start: {said or describe_exit(code)}",
            exit_code=exit_code,
            hint=str(self._last_error.get("hint") or ""),
        )


def settings_of_further_host(
    given: Mapping[str, object], config: HostConfig, identity: Identity, name: str
) -> dict[str, object]:
    """All settings of a host like the first one, but for its name, its key and its folder.

    ``given`` are the settings of the command, as a file would hold them; whatever setting is added to hosts is among
    them. They go through a pipe, since they hold seeds: neither a command line nor an environment would keep them.
    """
    connections = ("nats_", "rpc_", "ctl_", "prov_rpc_")
    kept = {"host_seed", "state"}
    others = {"rpc_timeout_ms", "rpc_events", "ctl_topic_prefix"}
    document = {
        setting: value
        for setting, value in given.items()
        if setting not in kept and (setting in others or not setting.startswith(connections))
    }
    for kind, endpoint in (("rpc", config.rpc), ("ctl", config.control), ("prov_rpc", config.providers)):
        document |= endpoint.settings(kind)
    return document | {
        "name": name,
        "cluster_seed": identity.cluster.seed,
        "trusted_issuers": sorted(config.trusted_issuers),
        "labels": dict(config.labels),
    }


def _environment() -> dict[str, str]:
    """Ours without any setting of a host: those come through the pipe."""
    variables = {variable for setting in SETTINGS for variable in setting.variables}
    return {name: value for name, value in os.environ.items() if name not in variables}


async def stop_all(hosts: Sequence[FurtherHost]) -> None:
    """Stop them together."""
    await asyncio.gather(*(host.stop() for host in hosts))
