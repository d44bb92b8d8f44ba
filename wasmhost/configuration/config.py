"""What a host needs to know before it starts: one frozen :class:`HostConfig`, built once and passed down.

Nothing else in the host reads the environment. Sizes are bytes and durations are seconds inside, even where a
variable's name says ``_MS``. The names of variables and flags are those of the classic hosts where they exist, so that
an installation can switch without renaming anything.
"""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from lattice.connectoptions import DEFAULT_INBOX_PREFIX
from lattice.errors import Code, LatticeError
from lattice.keys import holds_seed
from wasmhost.configuration.endpoint import NatsEndpoint, endpoint
from wasmhost.configuration.limits import LIMITS, changed
from wasmhost.configuration.policy import PolicyConfig, read_policy
from wasmhost.configuration.readers import PROVIDER
from wasmhost.configuration.settings import SETTINGS, Resolved, SettingsError, resolve
from wasmhost.guest.calls import Limits
from wasmhost.state import StatePaths, locate

__all__ = ["ConfigError", "HostConfig", "ManagerForm", "NatsEndpoint", "ProviderKeys", "detected_labels", "load"]

ProviderKeys = Literal["derived", "cluster"]
ManagerForm = Literal["legacy", "0.82"]


class ConfigError(LatticeError):
    """The configuration cannot be used; ``problems`` holds one sentence for each setting that is wrong."""

    code = Code.INVALID

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """Everything that one host was told. Built by :func:`load`, or directly in tests and by ``up``."""

    paths: StatePaths
    name: str = ""
    """Friendly name; empty means one derived from the host key."""
    lattice: str = "default"
    ctl_prefix: str = "wasmbus.ctl"
    rpc: NatsEndpoint = field(default_factory=NatsEndpoint)
    """Calls to and from actors."""
    control: NatsEndpoint = field(default_factory=NatsEndpoint)
    """Control subjects, events and metadata."""
    providers: NatsEndpoint = field(default_factory=NatsEndpoint)
    """What provider processes are told to connect to."""
    host_seed: str = field(default="", repr=False)
    """``SN…``; empty means the key of the state folder."""
    cluster_seed: str = field(default="", repr=False)
    """``SC…``; empty means the key shared by the hosts of this user."""
    cluster_issuers: tuple[str, ...] = ()
    """Further cluster keys whose invocations are accepted; the own key always is."""
    trusted_issuers: frozenset[str] = frozenset()
    """Accounts whose actors and providers may run here; empty refuses every signed artifact."""
    allow_file_load: bool = False
    js_domain: str | None = None
    rpc_timeout: float = 2.0
    """How long a call may take when its caller names no deadline."""
    provider_shutdown_delay: float = 0.3
    """How long a provider may take to end after it was asked to."""
    local: bool = True
    """Calls to an actor on this host skip NATS and signing."""
    provider_keys: ProviderKeys = "derived"
    """``cluster`` hands the cluster seed itself to providers, for lattices that also hold classic hosts."""
    drain_timeout: float = 10.0
    """How long calls in flight may take to finish when the host stops."""
    allow_anonymous_nats: bool = False
    """Start even when a NATS server that is not on loopback asks for no credentials."""
    manager_form: ManagerForm = "legacy"
    """How heartbeats and the inventory list actors: classic application managers up to 0.9 read ``legacy`` only,
    0.10 counts instances right with ``0.82`` only."""
    refuse_downgrades: bool = False
    """Start no older revision of an actor than this lattice has seen."""
    policy: PolicyConfig | None = None
    """None: nobody is asked."""
    revoked: tuple[str, ...] = ()
    """Keys and token ids that are revoked on this host, whatever the lattice says."""
    rpc_events: bool = False
    """Publish an event for every call, as the Elixir hosts do."""
    probes: tuple[str, int] | None = None
    """Address (empty: all interfaces) and port on which to answer who supervises this process; None: nowhere."""
    config_service: bool = False
    """Ask the lattice's configuration service at the start."""
    restore: bool = True
    """Remember what the host was asked to run, and bring it back at the next start."""
    manager_wait: float = 30.0
    """How long what a manager of applications started waits for that manager before the host brings it back."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """All labels of the host, the detected ones included."""
    limits: Limits = field(default_factory=Limits)
    """Limits of actors whose annotations say nothing else."""
    guest_threads: bool = False
    """Run guests on threads even where they could run on the event loop."""
    log_level: str = "info"
    structured_logging: bool | None = None
    """Log lines as JSON or as text for people; None: text where they go to a terminal, else JSON."""

    @property
    def state_dir(self) -> Path:
        """The folder of this host: its key, its lock, what it keeps between runs."""
        return self.paths.host


def load(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None = None) -> HostConfig:
    """Build the configuration from flags, then the environment, then files, then defaults.

    ``flags`` maps setting names (``lattice``, ``rpc_timeout_ms`` …) to what the user typed; None means not given.
    ``file`` is JSON or YAML with the same names; without it, the file named by ``HOST_CONFIG``, else
    ``host_config.json`` of the working folder over ``wasmhost/host.yaml`` of the user's configuration folder.

    Raises ConfigError with every problem at once.
    """
    try:
        r = resolve(flags, environ, file)
        policy = read_policy(r, environ)
    except SettingsError as exc:
        raise ConfigError(exc.problems) from exc
    paths = locate(environ, state=r.text("state"), name=r.text("name"))
    return HostConfig(
        paths=paths,
        name=r.text("name"),
        lattice=r.text("lattice", "default"),
        ctl_prefix=r.text("ctl_topic_prefix", "wasmbus.ctl"),
        rpc=endpoint(r, "rpc"),
        control=endpoint(r, "ctl"),
        providers=_providers(r, paths),
        host_seed=r.text("host_seed"),
        cluster_seed=r.text("cluster_seed"),
        cluster_issuers=r.list("cluster_issuers"),
        trusted_issuers=frozenset(r.list("trusted_issuers")),
        allow_file_load=r.flag("allow_file_load"),
        js_domain=r.text("js_domain") or None,
        rpc_timeout=r.number("rpc_timeout_ms", 2000) / 1000,
        provider_shutdown_delay=r.number("prov_shutdown_delay_ms", 300) / 1000,
        local=not r.flag("no_local"),
        provider_keys="cluster" if r.text("provider_keys") == "cluster" else "derived",
        drain_timeout=r.number("drain_timeout_ms", 10_000) / 1000,
        allow_anonymous_nats=r.flag("allow_anonymous_nats"),
        manager_form="0.82" if r.text("manager_form") == "0.82" else "legacy",
        refuse_downgrades=r.flag("refuse_downgrades"),
        policy=policy,
        revoked=r.list("revoked"),
        rpc_events=r.flag("rpc_events"),
        probes=_listening(r.text("probes")),
        config_service=r.flag("config_service_enabled"),
        restore=not r.flag("no_restore"),
        manager_wait=r.number("manager_wait_ms", 30_000) / 1000,
        labels=_labels(r, environ),
        limits=_limits(r),
        guest_threads=r.flag("guest_threads"),
        log_level=r.text("log_level", "info"),
        structured_logging=r.choice("structured_logging"),
    )


def _providers(r: Resolved, paths: StatePaths) -> NatsEndpoint:
    """The provider connection. Raises ConfigError where the host should make users and cannot."""
    given = endpoint(r, "prov_rpc")
    key, account = r.text("prov_rpc_signing_key"), r.text("prov_rpc_account")
    if not key and not account:
        return given
    if not key or not account:
        raise ConfigError(
            (
                "prov_rpc_signing_key and prov_rpc_account: one is there without the other; users of providers are "
                "made with a signing key of an account and the public key of that account",
            )
        )
    own = given.credentials if PROVIDER in given.credentials else str(paths.host / "nats-users" / f"{PROVIDER}.creds")
    inbox = given.inbox_prefix if r.given("prov_rpc_inbox_prefix") else f"{DEFAULT_INBOX_PREFIX}_providers.{PROVIDER}"
    return replace(given, jwt="", seed="", credentials=own, inbox_prefix=inbox, signing_key=key, account=account)


def detected_labels() -> dict[str, str]:
    """The reserved labels of this machine, spelled as the classic hosts do."""
    machine = platform.machine().lower()
    arch = {"amd64": "x86_64", "arm64": "aarch64", "i686": "x86", "armv7l": "arm", "armv6l": "arm"}.get(
        machine, machine
    )
    system = {"darwin": "macos", "win32": "windows"}.get(sys.platform, sys.platform)
    return {
        "hostcore.arch": arch,
        "hostcore.os": system,
        "hostcore.osfamily": "windows" if system == "windows" else "unix",
    }


_LABEL_PREFIXES = ("WASMCLOUD_LABEL_", "WASMCLOUD_HOST_", "HOST_")


def _labels(r: Resolved, environ: Mapping[str, str]) -> dict[str, str]:
    """Labels of the environment, then those of flag or file, then what was detected; later ones win.

    The name of a setting never becomes a label: ``WASMCLOUD_HOST_SEED`` would publish the host's seed as label SEED.
    A value with a seed in it is left out whatever its name.
    """
    reserved = {"HOST_CONFIG"} | {variable for setting in SETTINGS for variable in setting.variables}
    labels: dict[str, str] = {}
    for prefix in reversed(_LABEL_PREFIXES):
        for variable, value in environ.items():
            if variable.startswith(prefix) and variable not in reserved and len(variable) > len(prefix):
                label = variable[len(prefix) :]
                labels[label.lower() if prefix == "HOST_" else label] = value
    labels.update(r.pairs("labels"))
    labels.update(detected_labels())
    return {label: value for label, value in labels.items() if not holds_seed(value)}


def _limits(r: Resolved) -> Limits:
    given = {limit.name: int(r.number(limit.setting, limit.default)) for limit in LIMITS}
    return changed(Limits(), given)


def _listening(text: str) -> tuple[str, int] | None:
    address, _, port = text.rpartition(":")
    return (address.strip("[]"), int(port)) if port else None
