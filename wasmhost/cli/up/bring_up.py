"""The course of one ``wasmhost up``: everything opened in order, kept running, closed in the reverse order."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn, TypeVar

from lattice.errors import Code
from wasmhost import config as host_config
from wasmhost import context as contexts
from wasmhost.apps import manifest
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Output, printable
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session
from wasmhost.cli.signals import ending_signals
from wasmhost.cli.up.addresses import Address, addresses
from wasmhost.cli.up.deploy import Deployment
from wasmhost.cli.up.history import History
from wasmhost.cli.up.images import PreparedApplication, prepare
from wasmhost.cli.up.progress import Progress
from wasmhost.config import HostConfig, NatsEndpoint
from wasmhost.context import Context, UpRecord
from wasmhost.host import Host
from wasmhost.nats_server import NatsServer
from wasmhost.state import Keyring, StateError, StateFolder, StatePaths

T = TypeVar("T")

ANSWER_TIMEOUT = 20.0
"""Seconds that a linked address may take to answer."""
RESTART_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each new start of a NATS server that ended by itself; after the last one, `up` gives up."""
STABLE_AFTER = 60.0
IMPATIENCE = 1.0
"""Seconds after which another signal means "now": tools such as `timeout` send one to us and one to our group."""


class Stopped(Exception):
    """A signal asked for the end before everything was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asked for."""

    manifests: tuple[Path, ...]
    flags: Mapping[str, object]
    """Settings of the host, as :func:`wasmhost.config.load` takes them."""
    nats_url: str | None
    """A server that runs already; None: bring one along."""
    fresh: bool
    verbose: bool
    timeout: float | None


async def bring_up(plan: Plan, output: Output) -> ExitCode:
    """Run until a signal or a control command ends it. Raises Problem and LatticeError for what does not work."""
    applications = manifest.load_all(plan.manifests)
    config = host_config.load({**plan.flags, "allow_file_load": True}, os.environ)
    progress = Progress(output, verbose=plan.verbose or plan.flags.get("log_level") in ("debug", "info"))
    with _locked(config.paths) as folder:
        up = _Up(plan, config, folder, output, progress)
        prepared = await asyncio.to_thread(
            prepare, applications, keyring=Keyring(config.paths), folder=folder / "actors"
        )
        with ending_signals(up.ask_to_stop):
            await up.run(prepared)
    progress.step("Stopped.")
    return ExitCode.DONE


class _Up:
    """The parts of a running ``up``."""

    def __init__(self, plan: Plan, config: HostConfig, folder: Path, output: Output, progress: Progress) -> None:
        self._plan = plan
        self._config = config
        self._folder = folder
        self._output = output
        self._progress = progress
        self._stop = asyncio.Event()
        self._asked_at = 0.0
        self._server: NatsServer | None = None
        self._host: Host | None = None
        self._failure: Problem | None = None

    def ask_to_stop(self) -> None:
        """A signal arrived: the first one drains, a later one ends at once."""
        if self._stop.is_set():
            if self._progress.elapsed - self._asked_at < IMPATIENCE:
                return
            self._end_at_once()
        self._stop.set()
        self._asked_at = self._progress.elapsed
        self._progress.step(
            f"Stopping: calls in flight get up to {self._config.drain_timeout:g} s; Ctrl-C again ends them now."
        )

    def _end_at_once(self) -> NoReturn:
        """Leave without waiting for anybody, and leave nobody behind."""
        groups = [provider.pid for provider in self._host.providers] if self._host is not None else []
        groups.append(self._server.pid if self._server is not None else None)
        for group in filter(None, groups):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        UpRecord.remove(self._config.paths.host)
        os._exit(ExitCode.INTERRUPTED)

    async def run(self, applications: tuple[PreparedApplication, ...]) -> None:
        """Bring everything up, wait for the end, take everything down. Raises Problem and LatticeError."""
        with suppress(Stopped):
            await self._run(applications)
        if self._failure is not None:
            raise self._failure

    async def _run(self, applications: tuple[PreparedApplication, ...]) -> None:
        async with AsyncExitStack() as parts:
            url = await self._open_nats(parts)
            config = self._trusting(applications, url)
            self._progress.take_logs(config.log_level)
            host = Host(config)
            await self._unless_stopped(parts.enter_async_context(host))
            self._host = host
            self._announce(parts, host, url)
            running = asyncio.create_task(host.run_until(self._stop), name="host")
            parts.push_async_callback(_end, running)
            if self._server is not None:
                watching = asyncio.create_task(self._keep_nats(self._server), name="nats server")
                parts.push_async_callback(_end, watching)
            await self._unless_stopped(self._deploy(host, url, applications))
            await running
            if not self._stop.is_set() and self._failure is None:
                self._progress.step("The host was stopped by a command.")

    async def _open_nats(self, parts: AsyncExitStack) -> str:
        """The address of the NATS server, which is started unless one was named."""
        if self._plan.nats_url is not None:
            return self._plan.nats_url
        server = NatsServer(self._folder)
        if self._plan.fresh:
            shutil.rmtree(server.store, ignore_errors=True)
        parts.push_async_callback(server.stop)
        await self._unless_stopped(server.start())
        self._server = server
        self._progress.own_server = True
        self._progress.step(f"NATS server: {server.url}, open to every user of this machine")
        return server.url

    def _trusting(self, applications: tuple[PreparedApplication, ...], url: str) -> HostConfig:
        """The host's configuration for this run, which trusts who signed the local files that it was given."""
        config = self._config
        accounts: set[str] = set()
        for application in applications:
            for component, key in application.names():
                self._progress.names[key] = component
            for actor in application.actors:
                account = actor.claims.issuer
                if actor.signed_here:
                    self._progress.step(f"Signed {_shown(actor.path)} with your development key ({account[:12]}…).")
                elif account not in accounts | config.trusted_issuers:
                    self._progress.step(f"Trusting account {account[:12]}… for now: it signed {_shown(actor.path)}.")
                accounts.add(account)
        accounts.add(Keyring(config.paths).account().public)
        config = replace(config, trusted_issuers=config.trusted_issuers | accounts)
        if self._plan.nats_url is not None:
            return config
        own = NatsEndpoint(url=url)  # credentials of the environment are for another server
        return replace(config, rpc=own, control=own, providers=own)

    def _announce(self, parts: AsyncExitStack, host: Host, url: str) -> None:
        """Say that the host is there, here and to the other commands."""
        folder = self._config.paths.host
        UpRecord(
            pid=os.getpid(),
            nats_url=url,
            lattice=self._config.lattice,
            host_id=host.host_id,
            started_ticks=contexts.process_ticks(os.getpid()),
        ).write(folder)
        parts.callback(UpRecord.remove, folder)
        self._progress.names[host.host_id] = host.identity.friendly_name
        self._progress.step(
            f"Host {host.identity.friendly_name} ({host.host_id[:12]}…) in lattice '{self._config.lattice}'"
        )
        if host.metadata.degraded:
            self._progress.step(f"Degraded: {host.metadata.degraded}")

    async def _deploy(self, host: Host, url: str, applications: tuple[PreparedApplication, ...]) -> None:
        """Bring the applications up and print where they answer."""
        history = History(
            self._folder / "applied.json",
            place=f"{self._plan.nats_url or 'embedded'} {self._config.lattice}",
        )
        if self._plan.fresh and self._plan.nats_url is None:
            history.note(())
        context = self._client_context(url)
        async with Session.open(context, self._output) as session:
            session.know(host.facts.ping())
            for application in applications:
                version = f" {application.application.version}" if application.application.version else ""
                self._progress.step(f"Application {application.application.name}{version}")
            deployment = Deployment(session, host.host_id, applications, history=history, progress=self._progress)
            links = await deployment.run()
        found = addresses(links)
        await self._show_addresses(found, host, url, applications)

    def _client_context(self, url: str) -> Context:
        theirs = self._plan.nats_url is not None
        return Context(
            nats_url=url,
            lattice=self._config.lattice,
            control_prefix=self._config.ctl_prefix,
            user_jwt=self._config.control.jwt if theirs else "",
            user_seed=self._config.control.seed if theirs else "",
            patience=self._plan.timeout,
        )

    async def _show_addresses(
        self, found: list[Address], host: Host, url: str, applications: tuple[PreparedApplication, ...]
    ) -> None:
        answered = await asyncio.gather(*(address.wait_answers(ANSWER_TIMEOUT) for address in found))
        for address, answers in zip(found, answered, strict=True):
            if not answers:
                raise Problem(
                    f"{address.url} does not answer {ANSWER_TIMEOUT:g} s after its link was ready",
                    exit_code=ExitCode.TIMED_OUT,
                    hint="look at the provider's lines above",
                )
        if self._output.json:
            self._output.line(
                {
                    "ready": True,
                    "urls": [address.url for address in found],
                    "nats_url": url,
                    "lattice": self._config.lattice,
                    "host_id": host.host_id,
                    "applications": [application.application.name for application in applications],
                }
            )
            return
        for address in found:
            self._output.text(address.url)
        self._progress.step(f"Ready after {self._progress.elapsed:.1f} s. Ctrl-C stops everything.")

    async def _keep_nats(self, server: NatsServer) -> None:
        """Start the NATS server again whenever it ends by itself; hosts and providers reconnect."""
        loop = asyncio.get_running_loop()
        pauses = iter(RESTART_PAUSES)
        while True:
            begun = loop.time()
            status = await server.wait()
            if loop.time() - begun > STABLE_AFTER:
                pauses = iter(RESTART_PAUSES)
            self._progress.step(f"The NATS server ended by itself (exit status {status}); starting it again.")
            while True:
                pause = next(pauses, None)
                if pause is None:
                    self._fail(f"the NATS server ended {len(RESTART_PAUSES) + 1} times in a row")
                    return
                await asyncio.sleep(pause)
                try:
                    await server.restart()
                except Exception as error:
                    self._progress.step(f"{error}")
                    continue
                self._progress.step(f"NATS server: {server.url}")
                break

    def _fail(self, message: str) -> None:
        self._failure = Problem(message, exit_code=ExitCode.UNREACHABLE, hint=f"look at its log in {self._folder}")
        self._stop.set()

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of ``work``; when a signal comes first, ``work`` is cancelled and Stopped raised."""
        doing = asyncio.ensure_future(work)
        stopping = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({doing, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not doing.done():
                doing.cancel()
                await asyncio.wait({doing})
                raise Stopped
            return doing.result()
        finally:
            stopping.cancel()
            if not doing.done():
                doing.cancel()


async def _end(task: asyncio.Task[None]) -> None:
    """Cancel a task of ours and see it end."""
    task.cancel()
    await asyncio.wait({task})


def _shown(path: Path) -> str:
    """A path as short as it can be said from here."""
    try:
        return printable(str(path.relative_to(Path.cwd())))
    except ValueError:
        return printable(str(path))


@contextmanager
def _locked(paths: StatePaths) -> Iterator[Path]:
    """The folder of `up` inside the host's state, locked before anything starts: two servers must not share data."""
    folder = paths.host / "up"
    try:
        state = StateFolder.open(replace(paths, host=folder))
    except StateError as error:
        if error.code is not Code.CONFLICT:
            raise
        running = UpRecord.read(paths.host)
        where = f" (process {running.pid}, {running.nats_url}, lattice '{running.lattice}')" if running else ""
        raise Problem(
            f"another `wasmhost up` already runs with state folder {paths.host}{where}",
            exit_code=ExitCode.CONFLICT,
            hint="stop it first, or give this one a folder of its own with --name NAME",
        ) from error
    with state:
        yield folder
