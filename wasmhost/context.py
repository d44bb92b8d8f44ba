"""Where the commands find their lattice: flag, then environment, then a running ``wasmhost up``, then the defaults."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

from lattice import subjects
from lattice.errors import Code, LatticeError, MalformedMessage

DEFAULT_NATS_URL = "nats://127.0.0.1:4222"
DEFAULT_TIMEOUT = 2.0
"""Seconds for one request; what the classic command line used."""

RECORD_NAME = "up.json"

_TRUE = {"1", "true", "yes", "y", "enabled", "enable"}


@dataclass(frozen=True, slots=True, kw_only=True)
class UpRecord:
    """What a running ``wasmhost up`` tells the other commands. It lies in the state folder and holds no secret."""

    pid: int
    nats_url: str
    lattice: str
    host_id: str = ""
    hosts: int = 1
    """So many hosts in all."""
    own_server: bool = True
    """It brought the NATS server along."""
    log: str = ""
    """Its log file, when it runs in the background."""
    started_ticks: int = 0
    """Start time of the process, in clock ticks since boot: tells it from a later process of the same number."""

    def write(self, folder: Path) -> None:
        """Put the record into ``folder``, whole or not at all. Raises OSError."""
        target = folder / RECORD_NAME
        draft = target.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(asdict(self)))
        draft.replace(target)

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """The record in ``folder`` if the process that wrote it still runs, else None."""
        try:
            value = json.loads((folder / RECORD_NAME).read_text())
            record = cls(
                pid=int(value["pid"]),
                nats_url=str(value["nats_url"]),
                lattice=str(value["lattice"]),
                host_id=str(value.get("host_id", "")),
                hosts=int(value.get("hosts", 1)),
                own_server=bool(value.get("own_server", True)),
                log=str(value.get("log", "")),
                started_ticks=int(value.get("started_ticks", 0)),
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
        return record if record._runs() else None

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
    cluster_seed: str = field(default="", repr=False)
    timeout: float = DEFAULT_TIMEOUT
    rpc_timeout: float = DEFAULT_TIMEOUT
    patience: float | None = None
    """What the user said with --timeout; None leaves it to the command."""
    source: str = "default"
    """Where the NATS address comes from, for messages."""


class ContextError(LatticeError):
    """Settings that cannot be used; the message lists every one of them."""

    code = Code.INVALID


def resolve(
    *,
    environ: Mapping[str, str],
    record: UpRecord | None = None,
    nats_url: str | None = None,
    lattice: str | None = None,
    cluster_seed: str | None = None,
    timeout: float | None = None,
) -> Context:
    """The context from flags (the keyword arguments), ``environ`` and the record of a running ``up``.

    The record gives address and lattice together: with an address from elsewhere its lattice name means nothing.
    Raises ContextError.
    """
    settings = _Settings(environ)
    running = None
    if nats_url is not None:
        url, source = nats_url, "--nats-url"
    elif found := settings.nats_url():
        url, source = found, "the environment"
    elif record is not None:
        running = record
        url, source = record.nats_url, f"the running `wasmhost up`, pid {record.pid}"
    else:
        url, source = DEFAULT_NATS_URL, "default"
    settings.check_url(url, source)
    jwt, seed = settings.credentials()
    name = lattice or settings.first("WASMCLOUD_LATTICE", "WASMCLOUD_LATTICE_PREFIX")
    prefix = settings.first("WASMCLOUD_CTL_TOPIC_PREFIX") or subjects.DEFAULT_CONTROL_PREFIX
    settings.check_names(name or subjects.DEFAULT_LATTICE, prefix)
    context = Context(
        nats_url=url,
        lattice=name or (running.lattice if running else subjects.DEFAULT_LATTICE),
        control_prefix=prefix,
        user_jwt=jwt,
        user_seed=seed,
        cluster_seed=cluster_seed or settings.first("WASMCLOUD_CLUSTER_SEED"),
        timeout=settings.seconds("WASMCLOUD_CTL_TIMEOUT_MS"),
        rpc_timeout=timeout or settings.seconds("WASMCLOUD_RPC_TIMEOUT_MS"),
        patience=timeout,
        source=source,
    )
    if settings.problems:
        raise ContextError("\n".join(settings.problems))
    return context


class _Settings:
    """Reads variables and notes every one that cannot be used."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.problems: list[str] = []

    def first(self, *names: str) -> str:
        """The first of these variables that is set, stripped."""
        return next((text for name in names if (text := self._environ.get(name, "").strip())), "")

    def nats_url(self) -> str | None:
        if url := self.first("WASMHOST_NATS_URL"):
            return url
        host, port = self.first("WASMCLOUD_CTL_HOST", "NATS_HOST"), self.first("WASMCLOUD_CTL_PORT", "NATS_PORT")
        if not host and not port:
            return None
        if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            self.problems.append(f"WASMCLOUD_CTL_PORT: '{port}' is not a port number (example: 4222)")
            port = ""
        scheme = "tls" if self.first("WASMCLOUD_CTL_TLS").lower() in _TRUE else "nats"
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

    def seconds(self, name: str) -> float:
        text = self.first(name)
        if not text:
            return DEFAULT_TIMEOUT
        if not (text.isascii() and text.isdigit() and int(text) > 0):
            self.problems.append(f"{name}: '{text}' is not a number of milliseconds (example: 2000)")
            return DEFAULT_TIMEOUT
        return int(text) / 1000

    def credentials(self) -> tuple[str, str]:
        """User token and seed, from the credentials file or the two variables."""
        if path := self.first("WASH_CTL_CREDS", "WASMCLOUD_CTL_CREDS"):
            try:
                return _read_credentials(Path(path).expanduser().read_text())
            except (OSError, ValueError) as error:
                self.problems.append(f"WASH_CTL_CREDS: {path} is no NATS credentials file ({error})")
                return "", ""
        return self.first("WASMCLOUD_CTL_JWT", "WASMCLOUD_NATS_JWT"), self.first("WASMCLOUD_CTL_SEED")


def _read_credentials(text: str) -> tuple[str, str]:
    """Token and seed of a NATS credentials file: one base64 line below each of two ``-----BEGIN`` lines."""
    found: list[str] = []
    lines = iter(text.splitlines())
    for line in lines:
        if line.startswith("-----BEGIN"):
            found.append(next(lines, "").strip())
    if len(found) != 2 or not all(found):
        raise ValueError("it needs a user token and a seed")
    return found[0], found[1]
