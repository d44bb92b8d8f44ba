"""The course of one ``wasmhost up``: everything opened in order, kept running, closed in the reverse order."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TypeVar

from lattice.addresses import shown
from lattice.background import begin
from lattice.errors import Code, LatticeError, Unreachable
from lattice.links import LinkDefinition
from lattice.login import TlsFiles
from wasmhost.apps import manifest
from wasmhost.cli import exit_codes
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.output import Output, printable
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session
from wasmhost.cli.signals import ending_signals
from wasmhost.cli.up.addresses import Address, addresses
from wasmhost.cli.up.background import Report, up_folder
from wasmhost.cli.up.deploy import Deployment
from wasmhost.cli.up.further_hosts import FurtherHost, stop_all
from wasmhost.cli.up.history import EMBEDDED, History
from wasmhost.cli.up.images import PreparedActor, PreparedApplication, PreparedArchive, prepare
from wasmhost.cli.up.progress import Progress
from wasmhost.cli.up.server import keep as keep_server
from wasmhost.configuration import config as host_config
from wasmhost.configuration import settings
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.contexts import context as contexts
from wasmhost.contexts.context import Context, UpRecord
from wasmhost.host import Host
from wasmhost.private_files import StateError
from wasmhost.processes.leftovers import HOST_MARK, end_leftovers
from wasmhost.processes.nats_server import NatsServer
from wasmhost.state import Keyring, StateFolder, StatePaths

T = TypeVar("T")

ANSWER_TIMEOUT = 20.0
"""Seconds that a linked address may take to answer."""
BRING_UP_TIMEOUT = 60.0
"""Seconds for which the bring-up begins anew when the NATS server or a host is away for a moment."""
RETRY_PAUSE = 0.3
IMPATIENCE = 1.0
"""Seconds after which another signal means "now": tools such as `timeout` send one to us and one to our group."""


class Stopped(Exception):
    """A signal asked for the end before everything was up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What the command line asked for."""

    manifests: tuple[Path, ...]
    flags: Mapping[str, object]
    """Settings of the host, as :func:`wasmhost.configuration.config.load` takes them."""
    environ: Mapping[str, str] = field(repr=False)
    """The same from the environment."""
    nats_url: str | None
    """A server that runs already; None: bring one along."""
    fresh: bool
    hosts: int
    """So many in all."""
    verbose: bool
    timeout: float | None
    host_labels: Mapping[int, Mapping[str, str]] = field(default_factory=dict)
    """Labels of single hosts beside those of all, by their numbers; the first one is 1."""
    report_to: int | None = None
    """Descriptor of the pipe on which somebody waits for this process in the background."""


def host_flags(plan: Plan) -> dict[str, object]:
    """The flags of every host: what runs on them is what the manifests say, not what ran there before."""
    return {**plan.flags, "allow_file_load": True, "no_restore": True}


async def bring_up(plan: Plan, output: Output) -> ExitCode:
    """Run until a signal or a control command ends it. Raises Problem and LatticeError for what does not work."""
    config = host_config.load(host_flags(plan), plan.environ)
    report = Report.to(plan.report_to, config.paths)
    progress = Progress(output, verbose=plan.verbose or plan.flags.get("log_level") in ("debug", "info"))
    try:
        applications = manifest.load_all(plan.manifests)
        with _locked(config.paths) as folder:
            up = _Up(plan, config, folder, output, progress=progress, report=report)
            prepared = await asyncio.to_thread(
                prepare, applications, keyring=Keyring(config.paths), folder=folder / "actors"
            )
            with ending_signals(up.ask_to_stop):
                await up.run(prepared)
    except Exception as error:
        report.failed(error)
        raise
    finally:
        report.close()
    progress.step("Stopped.")
    return ExitCode.DONE


@dataclass(frozen=True, slots=True)
class _Job:
    """What is to be brought up, and where."""

    host: Host
    """The first host."""
    url: str
    """The NATS server."""
    applications: tuple[PreparedApplication, ...]
    history: History


class _Up:
    """The parts of a running ``up``."""

    def __init__(
        self, plan: Plan, config: HostConfig, folder: Path, output: Output, *, progress: Progress, report: Report
    ) -> None:
        self._report = report
        self._plan = plan
        self._config = config
        self._folder = folder
        self._output = output
        self._progress = progress
        self._stop = asyncio.Event()
        self._asked_at = 0.0
        self._server: NatsServer | None = None
        self._host: Host | None = None
        self._further: list[FurtherHost] = []
        self._deploying = asyncio.Lock()
        self._failure: Problem | None = None

    def ask_to_stop(self) -> None:
        """A signal arrived: the first one drains, a later one ends at once."""
        if self._stop.is_set():
            if self._progress.elapsed - self._asked_at < IMPATIENCE:
                return
            self._end_at_once()
        self._stop.set()
        self._asked_at = self._progress.elapsed
        again = "a second signal" if self._report.in_background else "Ctrl-C again"
        self._progress.step(
            f"Stopping: calls in flight get up to {self._config.drain_timeout:g} s; {again} ends them now."
        )

    def _end_at_once(self) -> NoReturn:
        """Leave without waiting for anybody, and leave nobody behind."""
        groups = [provider.pid for provider in self._host.providers] if self._host is not None else []
        groups += [host.pid for host in self._further]
        groups.append(self._server.pid if self._server is not None else None)
        for group in filter(None, groups):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        end_leftovers(HOST_MARK, str(self._config.state_dir))  # who left those groups
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
            host = await self._unless_stopped(self._open_host(parts, config))
            self._host = host
            self._add_further_hosts(parts, host)
            self._announce(parts, host, url)
            running = asyncio.create_task(host.run_until(self._stop), name="host")
            parts.push_async_callback(_end, running)
            job = _Job(host, url, applications, self._history())
            await self._unless_stopped(self._bring_up(job))
            for further in self._further:
                again = partial(self._in_time, partial(self._deploy, job))  # give one that came back what it had
                keeping = begin(further.keep(again), f"host {further.name}")
                parts.push_async_callback(_end, keeping)
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
        watching = begin(keep_server(server, self._progress, self._fail), "nats server")
        parts.push_async_callback(_end, watching)
        return server.url

    async def _open_host(self, parts: AsyncExitStack, config: HostConfig) -> Host:
        """The first host. A server of ours that ends meanwhile comes back; one that was named has to be there."""

        async def open_once() -> Host:
            return await parts.enter_async_context(Host(config))

        if self._server is not None:
            return await self._in_time(open_once)
        try:
            return await open_once()
        except Unreachable as error:
            raise Problem(
                str(error).partition("; ")[0],
                exit_code=exit_codes.for_code(error.code),
                hint="start that server, or name none: `wasmhost up` then brings one along",
            ) from error

    def _labels_of(self, number: int) -> dict[str, str]:
        return {**self._config.labels, **self._plan.host_labels.get(number, {})}

    def _add_further_hosts(self, parts: AsyncExitStack, first: Host) -> None:
        given = settings.resolve(host_flags(self._plan), self._plan.environ, None).document()
        for number in range(2, self._plan.hosts + 1):
            self._further.append(FurtherHost(number, given, first, self._progress, labels=self._labels_of(number)))
        # They end before the first one: that has the providers, which calls in flight on the others may need.
        parts.push_async_callback(stop_all, self._further)

    async def _in_time(self, work: Callable[[], Awaitable[T]]) -> T:
        """The result of ``work``, begun again while all that is wrong is that somebody cannot be reached."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._plan.timeout or BRING_UP_TIMEOUT)
        told = ""
        while True:
            try:
                return await work()
            except (LatticeError, Problem) as error:
                if not _passes(error) or loop.time() > deadline:
                    raise
                if str(error) != told:
                    told = str(error)
                    self._progress.step(f"Trying again: {told}")
            await asyncio.sleep(RETRY_PAUSE)

    def _trusting(self, applications: tuple[PreparedApplication, ...], url: str) -> HostConfig:
        """The host's configuration for this run, which trusts who signed the local files that it was given."""
        config = self._config
        accounts: set[str] = set()
        for application in applications:
            for component, key in application.names():
                self._progress.names[key] = component
            files: list[PreparedActor | PreparedArchive] = [*application.actors, *application.archives]
            for file in files:
                account = file.claims.issuer
                if isinstance(file, PreparedActor) and file.signed_here:
                    self._progress.step(f"Signed {_shown(file.path)} with your development key ({account[:12]}…).")
                elif account not in accounts | config.trusted_issuers:
                    self._progress.step(f"Trusting account {account[:12]}… for now: it signed {_shown(file.path)}.")
                accounts.add(account)
        accounts.add(Keyring(config.paths).account().public)
        config = replace(config, trusted_issuers=config.trusted_issuers | accounts, labels=self._labels_of(1))
        if self._plan.nats_url is not None:
            return config
        own = NatsEndpoint(url=url)  # credentials of the environment are for another server
        return replace(config, rpc=own, control=own, providers=own)

    def _announce(self, parts: AsyncExitStack, host: Host, url: str) -> None:
        """Say that the host is there, here and to the other commands."""
        folder = self._config.paths.host
        theirs = self._config.control if self._server is None else NatsEndpoint()
        UpRecord(
            pid=os.getpid(),
            nats_url=url,
            lattice=self._config.lattice,
            host_id=host.host_id,
            hosts=self._plan.hosts,
            ctl_prefix=self._config.ctl_prefix,
            own_server=self._server is not None,
            log=self._report.log,
            credentials=_absolute(theirs.credentials),
            tls=TlsFiles(
                ca=_absolute(theirs.tls.ca),
                certificate=_absolute(theirs.tls.certificate),
                key=_absolute(theirs.tls.key),
                name=theirs.tls.name,
            ),
            inbox_prefix=theirs.inbox_prefix,
            started_ticks=contexts.process_ticks(os.getpid()),
        ).write(folder)
        parts.callback(UpRecord.remove, folder)
        self._progress.names[host.host_id] = host.identity.friendly_name
        self._progress.step(
            f"Host {host.identity.friendly_name} ({host.host_id[:12]}…) in lattice '{self._config.lattice}'"
        )
        if host.metadata.degraded:
            self._progress.step(f"Degraded: {host.metadata.degraded}")

    def _history(self) -> History:
        history = History(
            self._folder / "applied.json",
            place=f"{self._plan.nats_url or EMBEDDED} {self._config.lattice}",
        )
        if self._plan.fresh and self._plan.nats_url is None:
            history.note(())
        return history

    async def _bring_up(self, job: _Job) -> None:
        """Bring the applications up and print where they answer."""
        for application in job.applications:
            version = f" {application.application.version}" if application.application.version else ""
            self._progress.step(f"Application {application.application.name}{version}")
        links = await self._in_time(partial(self._deploy, job))
        await self._show_addresses(addresses(links), job)

    async def _deploy(self, job: _Job) -> list[LinkDefinition]:
        """Have the applications run on all hosts that are there; their links, which are ready then."""
        host = job.host
        async with self._deploying, Session.open(self._client_context(job.url), self._output) as session:
            further = [one for one in self._further if not one.left]
            await asyncio.gather(*(one.ensure_ready(session.client) for one in further))
            for one in further:
                if one.host_id not in self._progress.names:
                    self._progress.names[one.host_id] = one.name
                    self._progress.step(f"Host {one.name} ({one.host_id[:12]}…)")
            session.know(host.facts.ping(), *(one.ping() for one in further))
            names = {host.host_id: host.identity.friendly_name} | {one.host_id: one.name for one in further}
            deployment = Deployment(session, names, job.applications, history=job.history, progress=self._progress)
            return await deployment.run()

    def _client_context(self, url: str) -> Context:
        control = self._config.control if self._plan.nats_url is not None else NatsEndpoint(url=url)
        return Context(
            nats_url=control.url,
            lattice=self._config.lattice,
            control_prefix=self._config.ctl_prefix,
            user_jwt=control.jwt,
            user_seed=control.seed,
            credentials=control.credentials,
            tls=control.tls,
            inbox_prefix=control.inbox_prefix,
            patience=self._plan.timeout,
        )

    async def _show_addresses(self, found: list[Address], job: _Job) -> None:
        answered = await asyncio.gather(*(address.wait_answers(ANSWER_TIMEOUT) for address in found))
        for address, answers in zip(found, answered, strict=True):
            if not answers:
                raise Problem(
                    f"{address.url} does not answer {ANSWER_TIMEOUT:g} s after its link was ready",
                    exit_code=ExitCode.TIMED_OUT,
                    hint="look at the provider's lines above",
                )
        document = {
            "ready": True,
            "urls": [address.url for address in found],
            "nats_url": shown(job.url),
            "lattice": self._config.lattice,
            "host_id": job.host.host_id,
            "hosts": [job.host.host_id, *(further.host_id for further in self._further)],
            "applications": [application.application.name for application in job.applications],
        }
        self._report.ready(document)
        if self._output.json:
            self._output.line(document)
            return
        for address in found:
            self._output.text(address.url)
        ending = "`wasmhost down`" if self._report.in_background else "Ctrl-C"
        self._progress.step(f"Ready after {self._progress.elapsed:.1f} s. {ending} stops everything.")

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


def _passes(error: LatticeError | Problem) -> bool:
    """Whether somebody could not be reached, which a NATS server or a host that is started again mends."""
    if isinstance(error, Problem):
        return error.exit_code is ExitCode.UNREACHABLE
    return error.code in (Code.NO_RESPONDERS, Code.DISCONNECTED, Code.TIMED_OUT)


def _absolute(path: str) -> str:
    return str(Path(path).absolute()) if path else ""


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
    folder = up_folder(paths)
    try:
        state = StateFolder.open(replace(paths, host=folder))
    except StateError as error:
        if error.code is not Code.CONFLICT:
            raise
        running = UpRecord.read(paths.host)
        where = f" (process {running.pid}, {shown(running.nats_url)}, lattice '{running.lattice}')" if running else ""
        raise Problem(
            f"another `wasmhost up` already runs with state folder {paths.host}{where}",
            exit_code=ExitCode.CONFLICT,
            hint="stop it with `wasmhost down`, or give this one a folder of its own with --name NAME",
        ) from error
    with state:
        yield folder
