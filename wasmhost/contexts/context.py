"""Where commands find their lattice: flags, environment, project file, context, running ``wasmhost up``, defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import urlsplit

from lattice import subjects
from lattice.connectoptions import DEFAULT_INBOX_PREFIX, ConnectOptions
from lattice.errors import MalformedMessage, NotAuthorized
from lattice.login import SYSTEM_TLS, Login, TlsFiles, read_credentials
from wasmhost.contexts.context_files import Bundle, ContextError
from wasmhost.private_files import StateError, read_private, replace_file

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
DEFAULT_TIMEOUT = 2.0
"""Seconds for one request; what the classic command line used."""

RECORD_NAME = "up.json"

_TRUE = {"1", "true", "yes", "y", "enabled", "enable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRecord:
    """What a running ``wasmhost up`` tells the other commands, in a file of the state folder for its user only."""

    pid: int
    nats_url: str
    lattice: str
    host_id: str = ""
    hosts: int = 1
    """So many hosts in all."""
    ctl_prefix: str = ""
    own_server: bool = True
    """It brought the NATS server along."""
    log: str = ""
    """Its log file, when it runs in the background."""
    credentials: str = ""
    """Path of the credentials file that it uses; what else it may have been given is not told."""
    tls: TlsFiles = SYSTEM_TLS
    inbox_prefix: str = ""
    started_ticks: int = 0
    """Start time of the process, in clock ticks since boot: tells it from a later process of the same number."""

    def write(self, folder: Path) -> None:
        """Put the record into ``folder``, whole or not at all. Raises OSError."""
        replace_file(folder / RECORD_NAME, json.dumps(asdict(self)).encode())

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in ``folder`` if the process that wrote it still runs, else None."""
        try:
            value = json.loads(read_private(folder / RECORD_NAME))
            record = cls(
                pid=int(value["pid"]),
                nats_url=str(value["nats_url"]),
                lattice=str(value["lattice"]),
                host_id=str(value.get("host_id", "")),
                hosts=int(value.get("hosts", 1)),
                ctl_prefix=str(value.get("ctl_prefix", "")),
                own_server=bool(value.get("own_server", True)),
                log=str(value.get("log", "")),
                credentials=str(value.get("credentials", "")),
                tls=TlsFiles(**value.get("tls", {})),
                inbox_prefix=str(value.get("inbox_prefix", "")),
                started_ticks=int(value.get("started_ticks", 0)),
            )
        except (OSError, StateError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return record if record._runs() else None

    def bundle(self) -> Bundle:
        """Where its lattice is."""
        return Bundle(
            source=f"the running `wasmhost up`, pid {self.pid}",
            nats_url=self.nats_url,
            lattice=self.lattice,
            ctl_prefix=self.ctl_prefix,
            credentials=self.credentials,
            tls=self.tls,
            inbox_prefix=self.inbox_prefix,
        )

    @staticmethod
    def remove(folder: Path) -> None:
        (folder / RECORD_NAME).unlink(missing_ok=True)

    def _runs(self) -> bool:
        try:
            os.kill(self.pid, 0)
        except PermissionError:
            pass
        except (OSError, OverflowError):
            return False
        return not self.started_ticks or process_ticks(self.pid) in (0, self.started_ticks)


def process_ticks(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 where the system does not tell."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        return int(stat.rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """Everything a command needs in order to reach a lattice. Durations in seconds."""

    nats_url: str = DEFAULT_NATS_URL
    lattice: str = subjects.DEFAULT_LATTICE
    control_prefix: str = subjects.DEFAULT_CONTROL_PREFIX
    user_jwt: str = field(default="", repr=False)
    user_seed: str = field(default="", repr=False)
    rpc_url: str = ""
    """Where calls go, if elsewhere than commands."""
    rpc_jwt: str = field(default="", repr=False)
    rpc_seed: str = field(default="", repr=False)
    credentials: str = ""
    """The file that token and seed are from, read again at each reconnect."""
    rpc_credentials: str = ""
    tls: TlsFiles = SYSTEM_TLS
    rpc_tls: TlsFiles = SYSTEM_TLS
    inbox_prefix: str = ""
    """Empty for the usual one."""
    cluster_seed: str = field(default="", repr=False)
    """A seed, or the path of a file that holds one."""
    js_domain: str = ""
    """JetStream domain of what is too large for one message."""
    timeout: float = DEFAULT_TIMEOUT
    rpc_timeout: float | None = None
    """For calls; None leaves it to the command."""
    patience: float | None = None
    """What the user said with --timeout or --timeout-ms; None leaves it to the command."""
    source: str = "default"
    """Where the NATS address comes from, for messages."""

    def options(self, name: str) -> ConnectOptions:
        """How to connect for commands."""
        return ConnectOptions(
            url=self.nats_url,
            name=name,
            user_jwt=self.user_jwt,
            seed=self.user_seed,
            credentials=self.credentials,
            tls=self.tls,
            inbox_prefix=self.inbox_prefix or DEFAULT_INBOX_PREFIX,
        )

    def rpc_options(self, name: str) -> ConnectOptions | None:
        """How to connect for calls; None where that is the same."""
        if not self.rpc_url:
            return None
        return ConnectOptions(
            url=self.rpc_url,
            name=name,
            user_jwt=self.rpc_jwt,
            seed=self.rpc_seed,
            credentials=self.rpc_credentials,
            tls=self.rpc_tls,
            inbox_prefix=self.inbox_prefix or DEFAULT_INBOX_PREFIX,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Bundles:
    """The contexts that may apply. See :mod:`wasmhost.contexts.context_files`."""

    named: Bundle | None = None
    """Named by --context."""
    from_environment: Bundle | None = None
    """Named by WASMHOST_CONTEXT."""
    project: tuple[Bundle, ...] = ()
    """The project file, and the context that it names."""
    default: Bundle | None = None


_NO_BUNDLES = Bundles()


def resolve(
    *,
    environ: Mapping[str, str],
    record: UpRecord | None = None,
    bundles: Bundles = _NO_BUNDLES,
    nats_url: str | None = None,
    lattice: str | None = None,
    cluster_seed: str | None = None,
    timeout: float | None = None,
    credentials: str | None = None,
    tls: TlsFiles = SYSTEM_TLS,
    typed: Mapping[str, str] = MappingProxyType({}),
) -> Context:
    """The context from flags, ``environ``, contexts and the record of a running ``up``.

    Flags are the keyword arguments; ``typed`` holds those of the classic command line, by the variable that each stands
    for. Each member comes from the nearest source that has it. What is farther than the source of the address means
    nothing any more, unless the user named it: a lattice name or credentials would be those of another server.
    Raises ContextError.
    """
    settings = _Settings(environ)
    flags = Bundle(
        source="--nats-url",
        nats_url=nats_url or "",
        lattice=lattice or "",
        cluster_seed=cluster_seed or "",
        credentials=credentials or "",
        credentials_source="--nats-creds",
        tls=tls,
    )
    words = _Settings(typed)
    classic = replace(words.bundle(), source="the command line")
    variables = settings.bundle()
    chosen = [b for b in (flags, classic, bundles.named, variables, bundles.from_environment) if b is not None]
    implied = [b for b in (*bundles.project, bundles.default, record.bundle() if record else None) if b is not None]
    sources = list(chosen)
    for bundle in implied:
        if any(one.nats_url for one in sources):
            break
        sources.append(bundle)

    def first(member: str) -> Any:
        return next((text for one in sources if (text := getattr(one, member))), "")

    origin = next((one for one in sources if one.nats_url), None)
    url = origin.nats_url if origin else DEFAULT_NATS_URL
    source = origin.source if origin else "default"
    settings.check_url(url, source)
    name, prefix = first("lattice"), first("ctl_prefix") or subjects.DEFAULT_CONTROL_PREFIX
    settings.check_names(name or subjects.DEFAULT_LATTICE, prefix)
    login = next((one for one in sources if one.credentials or one.user_jwt or one.user_seed), None)
    who = settings.login(login) if login else Login()
    # The variables for calls belong to those for commands: an address from nearer by is for both.
    both = origin is not None and any(origin is one for one in (flags, classic, bundles.named))
    rpc = words.rpc_bundle()
    if rpc == _Settings({}).rpc_bundle():
        rpc = Bundle() if both else settings.rpc_bundle()
    rpc_who = settings.login(rpc)
    if rpc.tls and not rpc.nats_url and not rpc_who.seed:  # another certificate for the same user
        rpc, rpc_who = replace(rpc, credentials=login.credentials if login else ""), who
    context = Context(
        nats_url=url,
        lattice=name or subjects.DEFAULT_LATTICE,
        control_prefix=prefix,
        user_jwt=who.jwt,
        user_seed=who.seed,
        credentials=login.credentials if login else "",
        tls=_tls_of(sources),
        inbox_prefix=first("inbox_prefix"),
        rpc_url=rpc.nats_url or (url if rpc_who.seed or rpc_who.jwt or rpc.tls else ""),
        rpc_jwt=rpc_who.jwt,
        rpc_seed=rpc_who.seed,
        rpc_credentials=rpc.credentials,
        rpc_tls=_tls_of([rpc, *sources]),
        cluster_seed=first("cluster_seed"),
        js_domain=words.first("WASMCLOUD_JS_DOMAIN") or settings.first("WASMCLOUD_JS_DOMAIN"),
        timeout=words.seconds("WASMCLOUD_CTL_TIMEOUT_MS")
        or settings.seconds("WASMCLOUD_CTL_TIMEOUT_MS")
        or DEFAULT_TIMEOUT,
        rpc_timeout=timeout
        or words.seconds("WASMCLOUD_RPC_TIMEOUT_MS")
        or settings.seconds("WASMCLOUD_RPC_TIMEOUT_MS"),
        # typed, not from the environment: a classic script that says how long it would wait for the start itself
        patience=timeout or words.seconds("WASMCLOUD_CTL_TIMEOUT_MS"),
        source=source,
    )
    if problems := words.problems + settings.problems:
        raise ContextError("\n".join(problems))
    return context


def _tls_of(sources: Sequence[Bundle]) -> TlsFiles:
    """Each file from the nearest source that names it; a certificate and its key are one."""
    pair = next((one.tls for one in sources if one.tls.certificate or one.tls.key), SYSTEM_TLS)
    return TlsFiles(
        ca=next((one.tls.ca for one in sources if one.tls.ca), ""),
        certificate=pair.certificate,
        key=pair.key,
        name=next((one.tls.name for one in sources if one.tls.name), ""),
    )


class _Settings:
    """Reads variables and notes every one that cannot be used."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def first(self, *names: str) -> str:
        """The first of these variables that is set, stripped."""
        return next((text for name in names if (text := self._environ.get(name, "").strip())), "")

    def bundle(self) -> Bundle:
        """What the variables say."""
        return Bundle(
            source="the environment",
            nats_url=self.first("WASMHOST_NATS_URL")
            or self._address(("WASMCLOUD_CTL_HOST", "NATS_HOST"), ("WASMCLOUD_CTL_PORT", "NATS_PORT"), "CTL"),
            lattice=self.first("WASMCLOUD_LATTICE", "WASMCLOUD_LATTICE_PREFIX"),
            ctl_prefix=self.first("WASMCLOUD_CTL_TOPIC_PREFIX"),
            credentials=self.first("WASH_CTL_CREDS", "WASMCLOUD_CTL_CREDS", "WASMHOST_NATS_CREDS", "NATS_CREDS"),
            credentials_source="WASH_CTL_CREDS",
            user_jwt=self.first("WASMCLOUD_CTL_JWT", "WASMCLOUD_NATS_JWT", "NATS_JWT"),
            user_seed=self.first("WASMCLOUD_CTL_SEED", "WASMCLOUD_NATS_SEED", "WASMCOULD_NATS_SEED", "NATS_SEED"),
            cluster_seed=self.first("WASMCLOUD_CLUSTER_SEED"),
            tls=self._tls("CTL", "NATS"),
            inbox_prefix=self.first("WASMHOST_INBOX_PREFIX"),
        )

    def rpc_bundle(self) -> Bundle:
        """What the variables say about the connection for calls alone."""
        return Bundle(
            nats_url=self._address(("WASMCLOUD_RPC_HOST",), ("WASMCLOUD_RPC_PORT",), "RPC"),
            credentials=self.first("WASH_RPC_CREDS", "WASMCLOUD_RPC_CREDS"),
            credentials_source="WASH_RPC_CREDS",
            user_jwt=self.first("WASMCLOUD_RPC_JWT"),
            user_seed=self.first("WASMCLOUD_RPC_SEED"),
            tls=self._tls("RPC"),
        )

    def _tls(self, *kinds: str) -> TlsFiles:
        def path(what: str) -> str:
            return self.first(*(f"WASMHOST_{kind}_TLS_{what}" for kind in kinds))

        return TlsFiles(ca=path("CA"), certificate=path("CERT"), key=path("KEY"), name=path("NAME"))

    def _address(self, hosts: tuple[str, ...], ports: tuple[str, ...], kind: str) -> str:
        host, port = self.first(*hosts), self.first(*ports)
        if not host and not port:
            return ""
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            self.problems.append(f"{ports[0]}: '{port}' is not a port number (example: 4222)")
            port = ""
        scheme = "tls" if self.first(f"WASMCLOUD_{kind}_TLS").lower() in _TRUE else "nats"
        return f"{scheme}://{host or '127.0.0.1'}:{port or 4222}"

    def check_url(self, url: str, source: str) -> None:
        for part in url.split(","):
            try:
                split = urlsplit(part.strip() if "://" in part else f"nats://{part.strip()}")
                usable = bool(split.hostname) and split.scheme in ("nats", "tls", "ws", "wss") and split.port != 0
            except ValueError:
                usable = False
            if not usable:
                self.problems.append(f"'{part}' (from {source}) is no NATS address (example: {DEFAULT_NATS_URL})")

    def check_names(self, lattice: str, prefix: str) -> None:
        try:
            subjects.Control(lattice, prefix)
        except MalformedMessage as error:
            self.problems.append(str(error))

    def seconds(self, name: str) -> float | None:
        text = self.first(name)
        if not text:
            return None
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            self.problems.append(f"{name}: '{text}' is not a number of milliseconds (example: 2000)")
            return None
        return int(text) / 1000

    def login(self, bundle: Bundle) -> Login:
        try:
            return login(bundle)
        except ContextError as error:
            self.problems.append(str(error))
            return Login()


def login(bundle: Bundle) -> Login:
    """User token and seed, from the credentials file or as they stand. Raises ContextError."""
    where = (bundle.credentials and bundle.credentials_source) or bundle.source
    if bundle.credentials:
        try:
            found = read_credentials(Path(bundle.credentials).expanduser())
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise ContextError(f"{where}: {bundle.credentials} is no NATS credentials file ({reason})") from error
    else:
        found = Login(jwt=bundle.user_jwt, seed=bundle.user_seed)
    try:
        found.key()
    except NotAuthorized as error:
        raise ContextError(f"{where}: {error}") from None
    return found
