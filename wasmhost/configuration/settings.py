"""The settings of a host: their names, where each may come from, how its text is read.

One table drives flags, environment and files, so that a setting cannot be known to one source and forgotten by
another, and every problem of every source is reported together, each with an example that would be right.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lattice.keys import Role
from wasmhost.configuration import readers, small_yaml
from wasmhost.configuration.limits import LIMITS


class SettingsError(Exception):
    """``problems``: one sentence for each setting that cannot be used."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name (in flags and files), its variables, most specific first, and its reader."""

    name: str
    parse: readers.Parser
    example: str
    variables: tuple[str, ...] = ()
    secret: bool = False


def _login(kind: str, jwt: tuple[str, ...], seed: tuple[str, ...], creds: tuple[str, ...]) -> tuple[Setting, ...]:
    """As whom to connect and how; ``kind`` is ``nats`` for all connections."""
    providers = kind == "prov_rpc"
    path, inbox = readers.as_path_of(providers=providers), readers.as_inbox_prefix_of(providers=providers)
    own = f"WASMHOST_{kind.upper()}"
    example = "/etc/wasmhost/{provider}" if providers else f"/etc/wasmhost/{kind}"
    return (
        Setting(f"{kind}_jwt", readers.as_text, "eyJ0eXAi…", jwt, secret=True),
        Setting(f"{kind}_seed", readers.as_seed(Role.USER, "user", "SU"), "SU…", seed, secret=True),
        Setting(f"{kind}_creds", path, f"{example}.creds", creds),
        Setting(f"{kind}_tls_ca", readers.as_path_of(providers=False), "/etc/wasmhost/ca.pem", (f"{own}_TLS_CA",)),
        Setting(f"{kind}_tls_cert", path, f"{example}.pem", (f"{own}_TLS_CERT",)),
        Setting(f"{kind}_tls_key", path, f"{example}.key", (f"{own}_TLS_KEY",)),
        Setting(f"{kind}_tls_name", readers.as_text, "nats.example", (f"{own}_TLS_NAME",)),
        Setting(
            f"{kind}_inbox_prefix",
            inbox,
            "_INBOX_{provider}" if providers else "_INBOX_host1",
            (f"{own}_INBOX_PREFIX",),
        ),
    )


def _connection(kind: str, variables: str) -> tuple[Setting, ...]:
    return (
        Setting(f"{kind}_host", readers.as_url, "127.0.0.1", (f"{variables}_HOST",)),
        Setting(f"{kind}_port", readers.as_port, "4222", (f"{variables}_PORT",)),
        Setting(f"{kind}_tls", readers.as_boolean, "true", (f"{variables}_TLS",)),
        *_login(kind, (f"{variables}_JWT",), (f"{variables}_SEED",), (f"{variables}_CREDS",)),
    )


STDIN = Path("-")
"""Named as the file, it means standard input."""

_MS = readers.as_amount("milliseconds", least=1, most=86_400_000)

SETTINGS: tuple[Setting, ...] = (
    Setting("state", readers.as_text, "/var/lib/wasmhost"),
    Setting("name", readers.as_token, "second", ("WASMHOST_NAME",)),
    Setting("lattice", readers.as_token, "default", ("WASMCLOUD_LATTICE", "WASMCLOUD_LATTICE_PREFIX")),
    Setting("host_seed", readers.as_seed(Role.HOST, "host", "SN"), "SN…", ("WASMCLOUD_HOST_SEED",), secret=True),
    Setting(
        "cluster_seed", readers.as_seed(Role.CLUSTER, "cluster", "SC"), "SC…", ("WASMCLOUD_CLUSTER_SEED",), secret=True
    ),
    Setting(
        "cluster_issuers",
        readers.as_keys(Role.CLUSTER, "a cluster's public key"),
        "CA…,CB…",
        ("WASMCLOUD_CLUSTER_ISSUERS",),
    ),
    Setting(
        "trusted_issuers",
        readers.as_keys(Role.ACCOUNT, "an account's public key"),
        "AA…,AB…",
        ("WASMHOST_TRUSTED_ISSUERS",),
    ),
    Setting("nats_url", readers.as_url, "nats://127.0.0.1:4222", ("WASMHOST_NATS_URL",)),
    Setting("nats_host", readers.as_url, "127.0.0.1", ("NATS_HOST",)),
    Setting("nats_port", readers.as_port, "4222", ("NATS_PORT",)),
    *_login(
        "nats",
        jwt=("WASMCLOUD_NATS_JWT", "NATS_JWT"),
        # the second spelling is the one that the classic Rust hosts really read
        seed=("WASMCLOUD_NATS_SEED", "WASMCOULD_NATS_SEED", "NATS_SEED"),
        creds=("WASMHOST_NATS_CREDS", "NATS_CREDS"),
    ),
    *_connection("rpc", "WASMCLOUD_RPC"),
    *_connection("ctl", "WASMCLOUD_CTL"),
    *_connection("prov_rpc", "WASMCLOUD_PROV_RPC"),
    Setting(
        "prov_rpc_signing_key",
        readers.as_path_of(providers=False),
        "/etc/wasmhost/providers.nk",
        ("WASMHOST_PROV_RPC_SIGNING_KEY",),
    ),
    Setting(
        "prov_rpc_account",
        readers.as_key(Role.ACCOUNT, "an account's public key"),
        "AA…",
        ("WASMHOST_PROV_RPC_ACCOUNT",),
    ),
    Setting("rpc_timeout_ms", _MS, "2000", ("WASMCLOUD_RPC_TIMEOUT_MS",)),
    Setting("ctl_topic_prefix", readers.as_prefix, "wasmbus.ctl", ("WASMCLOUD_CTL_TOPIC_PREFIX",)),
    Setting("prov_shutdown_delay_ms", _MS, "300", ("WASMCLOUD_PROV_SHUTDOWN_DELAY_MS",)),
    Setting("drain_timeout_ms", _MS, "10000", ("WASMHOST_DRAIN_TIMEOUT_MS",)),
    Setting("js_domain", readers.as_token, "core", ("WASMCLOUD_JS_DOMAIN",)),
    Setting("allow_file_load", readers.as_boolean, "true", ("WASMCLOUD_ALLOW_FILE_LOAD",)),
    Setting("allow_anonymous_nats", readers.as_boolean, "true", ("WASMHOST_ALLOW_ANONYMOUS_NATS",)),
    Setting("no_local", readers.as_boolean, "true", ("WASMHOST_NO_LOCAL",)),
    Setting("provider_keys", readers.as_choice("derived", "cluster"), "derived", ("WASMHOST_PROVIDER_KEYS",)),
    Setting("manager_form", readers.as_choice("legacy", "0.82"), "legacy", ("WASMHOST_MANAGER_FORM",)),
    Setting("refuse_downgrades", readers.as_boolean, "true", ("WASMHOST_REFUSE_DOWNGRADES",)),
    Setting("policy_mode", readers.as_choice("off", "enforce"), "enforce", ("WASMHOST_POLICY_MODE",)),
    Setting("policy_topic", readers.as_subject, "wasmcloud.policy", ("WASMCLOUD_POLICY_TOPIC",)),
    Setting(
        "policy_changes_topic", readers.as_subject, "wasmcloud.policy.changes", ("WASMCLOUD_POLICY_CHANGES_TOPIC",)
    ),
    Setting("policy_timeout_ms", _MS, "1000", ("WASMCLOUD_POLICY_TIMEOUT", "WASMCLOUD_POLICY_TIMEOUT_MS")),
    Setting("policy_calls", readers.as_boolean, "true", ("WASMHOST_POLICY_CALLS",)),
    Setting("policy_links", readers.as_boolean, "true", ("WASMHOST_POLICY_LINKS",)),
    Setting("policy_cache_ms", _MS, "300000", ("WASMHOST_POLICY_CACHE_MS",)),
    Setting("revoked", readers.as_revocations, "MA…,AB…", ("WASMHOST_REVOKED",)),
    Setting("rpc_events", readers.as_boolean, "true", ("WASMHOST_RPC_EVENTS",)),
    Setting("probes", readers.as_listening, "127.0.0.1:4000", ("WASMHOST_PROBES", "WASMCLOUD_DASHBOARD_PORT")),
    Setting("config_service_enabled", readers.as_boolean, "true", ("WASMCLOUD_CONFIG_SERVICE",)),
    Setting("no_restore", readers.as_boolean, "true", ("WASMHOST_NO_RESTORE",)),
    Setting("manager_wait_ms", _MS, "30000", ("WASMHOST_MANAGER_WAIT_MS",)),
    Setting("labels", readers.as_label_pairs, "zone=eu-1"),
    Setting("guest_threads", readers.as_boolean, "true", ("WASMHOST_GUEST_THREADS",)),
    *(
        Setting(limit.setting, readers.as_limit(limit), str(limit.example), (f"WASMHOST_{limit.setting.upper()}",))
        for limit in LIMITS
    ),
    Setting(
        "log_level",
        readers.as_log_level,
        "info",
        ("WASMCLOUD_LOG_LEVEL", "WASMCLOUD_STRUCTURED_LOG_LEVEL"),
    ),
    Setting("structured_logging", readers.as_boolean, "true", ("WASMCLOUD_STRUCTURED_LOGGING_ENABLED",)),
)

SECRET_VARIABLES: frozenset[str] = frozenset(v for s in SETTINGS if s.secret for v in s.variables)
"""Variables whose values must not reach a child process or a log."""

_BY_NAME = {setting.name: setting for setting in SETTINGS}
_ALIASES = {
    "lattice_prefix": "lattice",
    "trust": "trusted_issuers",
    "label": "labels",
    "log": "log_level",
    "provider_shutdown_delay": "prov_shutdown_delay_ms",
    "enable_structured_logging": "structured_logging",
}
# members of a classic host_config.json that mean nothing here, or that we do not offer
_IGNORED = frozenset({"dashboard_port", "enable_ipv6", "lattice_id", "ctl_timeout_ms"})


class Resolved:
    """The settings that were given, each already read and checked, with how near to the command line it came from."""

    def __init__(self, values: Mapping[str, tuple[int, readers.Value]]) -> None:
        self._values = values

    def text(self, name: str, default: str = "") -> str:
        value = self._get(name)
        return default if value is None else cast(str, value)

    def number(self, name: str, default: float) -> float:
        value = self._get(name)
        return default if value is None else cast(float, value)

    def flag(self, name: str) -> bool:
        return bool(self._get(name))

    def choice(self, name: str) -> bool | None:
        """Yes, no, or nothing said."""
        return cast("bool | None", self._get(name))

    def list(self, name: str) -> tuple[str, ...]:
        return cast("tuple[str, ...]", self._get(name) or ())

    def given(self, name: str) -> bool:
        """Whether any source has it."""
        return name in self._values

    def pairs(self, name: str) -> Mapping[str, str]:
        return cast("Mapping[str, str]", self._get(name) or {})

    def closest(self, *names: str) -> str:
        """The name that came from the nearest source; among equals the first; the last when none was given."""
        given = [(self._values[name][0], position, name) for position, name in enumerate(names) if name in self._values]
        return min(given)[2] if given else names[-1]

    def document(self) -> dict[str, object]:
        """Every setting that was given, as a settings file would hold it."""
        return {name: _plain(value) for name, (_, value) in self._values.items()}

    def _get(self, name: str) -> readers.Value | None:
        found = self._values.get(name)
        return found[1] if found else None


def _plain(value: readers.Value) -> object:
    match value:
        case tuple():
            return list(value)
        case float() if value.is_integer():
            return int(value)
        case Mapping():
            return dict(value)
    return value


def resolve(flags: Mapping[str, object], environ: Mapping[str, str], file: Path | None) -> Resolved:
    """Read every setting from its nearest source. Raises SettingsError with every problem found in any source."""
    problems: list[str] = []
    values: dict[str, tuple[int, readers.Value]] = {}

    def take(rank: int, setting: Setting, source: str, raw: object) -> None:
        try:
            value = setting.parse(raw)
        except readers.Unusable as exc:
            hidden = "; value hidden" if setting.secret else ""
            problems.append(f"{source}: {exc} (example: {setting.example}{hidden})")
        else:
            if setting.name not in values:
                values[setting.name] = (rank, value)

    for name, raw in flags.items():
        if raw is None or raw == () or raw is False:
            continue
        take(0, _BY_NAME[_ALIASES.get(name, name)], "--" + name.replace("_", "-"), raw)
    for setting in SETTINGS:
        for variable in setting.variables:
            if environ.get(variable, "").strip():
                take(1, setting, variable, environ[variable])
    for rank, path, required in _files(environ, file):
        for name, raw in _read(path, required, problems).items():
            known = _ALIASES.get(name, name)
            if known in _BY_NAME:
                if raw is not None and raw != "":
                    take(rank, _BY_NAME[known], f"{path}: {name}", raw)
            elif name not in _IGNORED:
                near = difflib.get_close_matches(name, [*_BY_NAME, *_ALIASES], 1)
                hint = f"did you mean {near[0]}?" if near else "remove it"
                problems.append(f"{path}: no setting is called {name!r}; {hint}")
    if problems:
        raise SettingsError(tuple(problems))
    return Resolved(values)


def _files(environ: Mapping[str, str], file: Path | None) -> list[tuple[int, Path, bool]]:
    if file is not None:
        return [(2, file, True)]
    if environ.get("HOST_CONFIG"):
        return [(2, Path(environ["HOST_CONFIG"]), True)]
    base = environ.get("XDG_CONFIG_HOME") or str(Path(environ.get("HOME", "/")) / ".config")
    return [(2, Path("host_config.json"), False), (3, Path(base) / "wasmhost" / "host.yaml", False)]


def _read(path: Path, required: bool, problems: list[str]) -> Mapping[str, object]:
    try:
        content = small_yaml.parse(sys.stdin.read()) if path == STDIN else small_yaml.read(path)
    except FileNotFoundError:
        if required:
            problems.append(f"{path}: no such file; name an existing file of settings")
        return {}
    except small_yaml.BadYaml as exc:
        problems.append(f"{path}{exc.where}: neither JSON nor YAML: {exc}")
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(f"{path}: cannot be read: {exc}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: must hold settings as `name: value`, not a {type(content).__name__}")
        return {}
    return {str(name): value for name, value in content.items()}
