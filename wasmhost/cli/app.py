"""What every command shares: how it prints, which lattice it means, how it runs its one piece of work."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from lattice.keys import Role
from lattice.login import TlsFiles
from wasmhost.cli.classic import completed, connection_options
from wasmhost.cli.output import Output
from wasmhost.configuration.settings import SETTINGS
from wasmhost.contexts.context import Bundles, Context, UpRecord, login, resolve
from wasmhost.contexts.context_files import Bundle, ContextStore
from wasmhost.state import Keyring, StatePaths, locate

if TYPE_CHECKING:
    from wasmhost.cli.session import Session
    from wasmhost.cli.watching import Held

CONTEXT_VARIABLE = "WASMHOST_CONTEXT"

TOLD_AS_ERRORS = ("security.permission_violation",)
"""Events of connections that end a command with an error of the same content."""

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


@dataclass(slots=True)
class App:
    """The options given so far, and what is built from them when it is needed."""

    output: Output = field(default_factory=Output)
    nats_url: str | None = None
    lattice: str | None = None
    cluster_seed: str | None = field(default=None, repr=False)
    timeout: float | None = None
    state: str = ""
    name: str = ""
    """Name of the ``up`` or host that is meant, where a user runs several."""
    context_name: str = ""
    nats_creds: str = ""
    nats_tls_ca: str = ""
    nats_tls_cert: str = ""
    nats_tls_key: str = ""
    classic: dict[str, str] = field(default_factory=dict, repr=False)
    """Flags of the classic command line, by the variable that each stands for."""
    held: Held | None = field(default=None, repr=False)
    """The connection of a command that goes on watching."""

    def context(self) -> Context:
        """Where the lattice is. Raises ContextError."""
        return resolve(
            environ=os.environ,
            record=UpRecord.read(self.paths.host),
            bundles=self._bundles(),
            nats_url=self.nats_url,
            lattice=self.lattice,
            cluster_seed=self.cluster_seed,
            timeout=self.timeout,
            credentials=self.nats_creds,
            tls=TlsFiles(ca=self.nats_tls_ca, certificate=self.nats_tls_cert, key=self.nats_tls_key),
            typed=completed(self.classic, os.environ),
        )

    @property
    def contexts(self) -> ContextStore:
        """This user's contexts."""
        return ContextStore.locate(os.environ)

    def named_context(self) -> tuple[Bundle | None, Bundle | None]:
        """The contexts named by --context and by WASMHOST_CONTEXT; the first hides the second. Raises ContextError."""
        if self.context_name:
            return self.contexts.read(self.context_name), None
        named = os.environ.get(CONTEXT_VARIABLE, "").strip()
        return None, self.contexts.read(named) if named else None

    def _bundles(self) -> Bundles:
        named, from_environment = self.named_context()
        try:
            here = Path.cwd()
        except FileNotFoundError:  # removed meanwhile; a project file went with it
            project = of_project = None
        else:
            project, of_project = self.contexts.project(here)
        return Bundles(
            named=named,
            from_environment=from_environment,
            project=tuple(bundle for bundle in (project, of_project) if bundle is not None),
            default=None if self.nats_url or named or from_environment else self.contexts.default(),
        )

    def for_host(self, flags: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str]]:
        """Flags and environment of a host, completed with what the contexts named by this user say.

        A default context is for commands only: what a daemon does must not depend on it. Raises ContextError, Problem.
        """
        named, from_environment = self.named_context()
        flags = {name: value for name, value in flags.items() if value is not None}
        environ = dict(os.environ)
        for name, value in _host_settings(named).items():
            flags.setdefault(name, value)
        variables = _host_settings(from_environment)
        for setting in SETTINGS:
            text = variables.get(setting.name)
            if text and not any(environ.get(variable, "").strip() for variable in setting.variables):
                environ[setting.variables[0]] = text
        return flags, environ

    @property
    def paths(self) -> StatePaths:
        """Folders with this user's keys and the record of a running ``up``; they may not exist."""
        return locate(os.environ, state=self.state, name=self.name or os.environ.get("WASMHOST_NAME", ""))

    @property
    def keyring(self) -> Keyring:
        """This user's keys, made on first use."""
        return Keyring(self.paths)

    def run(self, work: Callable[[Session], Coroutine[Any, Any, T]]) -> T:
        """Connect to the lattice, do ``work``, disconnect. Raises what ``work`` raises, and Unreachable."""
        from wasmhost import logs
        from wasmhost.cli.session import Session

        if self.held is not None:
            return self.held.run(work)
        logs.configure("warning", structured=self.output.json, told_otherwise=TOLD_AS_ERRORS)

        async def connected() -> T:
            async with Session.open(self.context(), self.output) as session:
                return await work(session)

        return asyncio.run(connected())


def _host_settings(bundle: Bundle | None) -> dict[str, str]:
    """A context as settings of a host. Raises ContextError, Problem."""
    from wasmhost.cli.signing import read_seed

    if bundle is None:
        return {}
    who = login(bundle)
    found = {
        "nats_url": bundle.nats_url,
        "lattice": bundle.lattice,
        "ctl_topic_prefix": bundle.ctl_prefix,
        "nats_creds": bundle.credentials,
        "nats_jwt": "" if bundle.credentials else who.jwt,
        "nats_seed": "" if bundle.credentials else who.seed,
        "nats_tls_ca": bundle.tls.ca,
        "nats_tls_cert": bundle.tls.certificate,
        "nats_tls_key": bundle.tls.key,
        "nats_tls_name": bundle.tls.name,
        "nats_inbox_prefix": bundle.inbox_prefix,
        "cluster_seed": read_seed(bundle.cluster_seed, Role.CLUSTER).seed if bundle.cluster_seed else "",
    }
    return {name: value for name, value in found.items() if value}


def _remember(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def keep(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value is not None:
            setattr(ctx.ensure_object(App), name, value)

    return keep


def _remember_classic(ctx: click.Context, variable: str, value: str) -> None:
    ctx.ensure_object(App).classic[variable] = value


def _choose_output(ctx: click.Context, parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.ensure_object(App).output.json = value == "json"


def _positive(ctx: click.Context, parameter: click.Parameter, value: float | None) -> None:
    if value is not None:
        if value <= 0:
            raise click.BadParameter("it must be above 0 seconds (example: 5)")
        ctx.ensure_object(App).timeout = value


def output_option(command: F) -> F:
    """Add ``-o text|json``."""
    return click.option(
        "-o",
        "--output",
        type=click.Choice(["text", "json"]),
        help="Form of the result.",
        expose_value=False,
        is_eager=True,  # an error in a later option is shown in the form asked for
        callback=_choose_output,
    )(command)


_NATS_FILES = (
    ("--nats-creds", "nats_creds", "Credentials file of a NATS user, or a file with its seed."),
    ("--nats-tls-ca", "nats_tls_ca", "Authority to trust for the NATS server, instead of the system's."),
    ("--nats-tls-cert", "nats_tls_cert", "Client certificate for the NATS server."),
    ("--nats-tls-key", "nats_tls_key", "Its private key."),
)


def nats_files(command: F) -> F:
    """Add, for a host, the files that say who it is to NATS; as arguments named like the settings."""
    for flag, name, text in reversed(_NATS_FILES):
        command = click.option(flag, name, metavar="FILE", help=text)(command)
    return command


def _remembered_nats_files(command: F) -> F:
    for flag, name, text in reversed(_NATS_FILES):
        command = click.option(
            flag, f"given_{name}", metavar="FILE", help=text, expose_value=False, callback=_remember(name)
        )(command)
    return command


def lattice_options(command: F) -> F:
    """Add the options that say which lattice is meant, and ``-o``."""
    for option in (
        output_option,
        click.option(
            "--timeout",
            type=float,
            metavar="SECONDS",
            help="Longest wait for one answer (default 2; longer for what takes longer).",
            expose_value=False,
            callback=_positive,
        ),
        state_option,
        context_option,
        connection_options(_remember_classic),
        _remembered_nats_files,
        click.option("--lattice-prefix", hidden=True, expose_value=False, callback=_remember("lattice")),
        click.option(
            "-x", "--lattice", metavar="NAME", help="Lattice name.", expose_value=False, callback=_remember("lattice")
        ),
        click.option(
            "--nats-url",
            metavar="URL",
            help="NATS server (default: that of the context, else of a running `wasmhost up`).",
            expose_value=False,
            callback=_remember("nats_url"),
        ),
    ):
        command = option(command)
    return command


def state_option(command: F) -> F:
    """Add ``--state``."""
    return click.option(
        "--state",
        metavar="DIR",
        help="Folder with keys and data (default: that of the user).",
        expose_value=False,
        callback=_remember("state"),
    )(command)


def context_names(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Completes the name of a context."""
    return [name for name in ContextStore.locate(os.environ).names() if name.startswith(incomplete)]


def context_option(command: F) -> F:
    """Add ``--context``."""
    return click.option(
        "--context",
        metavar="NAME",
        help="Use this context; see `wasmhost ctx`.",
        expose_value=False,
        callback=_remember("context_name"),
        shell_complete=context_names,
    )(command)


def name_option(command: F) -> F:
    """Add ``--name``."""
    return click.option(
        "--name",
        metavar="NAME",
        help="The one that was started with this --name.",
        expose_value=False,
        callback=_remember("name"),
    )(command)


pass_app = click.make_pass_decorator(App, ensure=True)
