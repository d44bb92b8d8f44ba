"""The settings of a host: their names, where each may come from, how its text is read.

One table drives flags, environment and files, so that a setting cannot be known to one source and forgotten by
another, and every problem of every source is reported together, each with an example that would be right.
"""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import yaml

from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role, is_key
from lattice.revocation import Revocation
from wasmhost.limits import LIMITS, Limit

Value = str | float | bool | tuple[str, ...] | Mapping[str, str]
Parser = Callable[[object], Value]

_TRUE = frozenset({"1", "true", "yes", "y", "on", "enabled", "enable"})
_FALSE = frozenset({"", "0", "false", "no", "n", "off", "disabled", "disable"})


class SettingsError(Exception):
    """``problems``: one sentence for each setting that cannot be used."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class _Unusable(Exception):
    """What is wrong with one value, to be completed with the name of its source."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting: its name (in flags and files), its variables, most specific first, and its reader."""

    name: str
    parse: Parser
    example: str
    variables: tuple[str, ...] = ()
    secret: bool = False


def _text(value: object) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise _Unusable(f"{_shown(value)} is not a text")
    return str(value).strip()


def _token(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise _Unusable(f"{text!r} may only hold letters, digits, '_' and '-'")
    return text


def _prefix(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", text):
        raise _Unusable(f"{text!r} is not a subject prefix of letters, digits, '_' and '-' separated by '.'")
    return text


def _subject(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"[^\s.*>]+(\.[^\s.*>]+)*", text):
        raise _Unusable(f"{text!r} is not a NATS subject without wildcards")
    return text


def _boolean(value: object) -> bool:
    if isinstance(value, bool):
        return value
    text = _text(value).lower()
    if text not in _TRUE | _FALSE:
        raise _Unusable(f"{text!r} is neither true nor false")
    return text in _TRUE


def _amount(what: str, *, least: float = 0, most: float = math.inf) -> Parser:
    def parse(value: object) -> float:
        text = _text(value)
        try:
            number = float(text)
        except ValueError:
            raise _Unusable(f"{text!r} is not a number of {what}") from None
        if not math.isfinite(number) or not least <= number <= most:
            raise _Unusable(f"{text} is out of range for a number of {what}")
        return number

    return parse


def _limit(limit: Limit) -> Parser:
    def parse(value: object) -> float:
        text = _text(value)
        if not (text.isascii() and text.isdigit()):
            raise _Unusable(f"{text!r} is not a whole number of {limit.what}")
        if problem := limit.problem(int(text)):
            raise _Unusable(problem)
        return float(text)

    return parse


def _port(value: object) -> float:
    text = _text(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise _Unusable(f"{text!r} is not a port from 1 to 65535")
    return float(text)


def _listening(value: object) -> str:
    """A port, or an address and a port, as ``ADDRESS:PORT``; without an address all interfaces are meant."""
    address, _, port = _text(value).rpartition(":")
    if address:
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            raise _Unusable(f"{address!r} is not an IP address") from None
    return f"{address}:{_port(port):.0f}"


def _url(value: object) -> str:
    text = _text(value)
    if not re.fullmatch(r"((nats|tls|ws|wss)://)?[^\s/]+(:\d+)?/?", text):
        raise _Unusable(f"{text!r} is not the address of a NATS server")
    return text.rstrip("/")


def _seed(role: Role, what: str, start: str) -> Parser:
    def parse(value: object) -> str:
        text = _text(value)
        try:
            KeyPair.from_seed(text, role)
        except MalformedMessage as exc:
            raise _Unusable(f"not a {what} seed; those start with {start} ({exc})") from None
        return text

    return parse


def _items(value: object) -> tuple[str, ...]:
    parts: Sequence[object] = value if isinstance(value, list | tuple) else _text(value).split(",")
    return tuple(item for part in parts for item in (_text(part),) if item)


def _keys(role: Role, what: str) -> Parser:
    def parse(value: object) -> tuple[str, ...]:
        keys = tuple(item for part in _items(value) for item in _items(part))
        for key in keys:
            if not is_key(key, role):
                raise _Unusable(f"{_hidden_if_seed(key)} is not {what}")
        return keys

    return parse


def _revocations(value: object) -> tuple[str, ...]:
    items = tuple(item for part in _items(value) for item in _items(part))
    for item in items:
        try:
            Revocation(id=item).check()
        except MalformedMessage as exc:
            raise _Unusable(f"{_hidden_if_seed(item)} cannot be revoked: {exc}") from None
    return items


def _choice(*choices: str) -> Parser:
    def parse(value: object) -> str:
        text = _text(value).lower()
        if text not in choices:
            near = difflib.get_close_matches(text, choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _Unusable(f"{text!r} is none of {', '.join(choices)}{hint}")
        return text

    return parse


_LOG_LEVELS = {"trace": "debug", "warn": "warning", "critical": "error"}
_read_log_level = _choice("debug", "info", "warning", "error")


def _log_level(value: object) -> Value:
    """A level in our words or in those of the classic hosts."""
    text = _text(value).lower()
    return _read_log_level(_LOG_LEVELS.get(text, text))


def _label_pairs(value: object) -> Mapping[str, str]:
    if isinstance(value, Mapping):
        return {_text(key): _text(item) for key, item in value.items()}
    pairs = {}
    for item in _items(value):
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise _Unusable(f"{item!r} is not a label")
        pairs[key.strip()] = text.strip()
    return pairs


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hidden_if_seed(key: str) -> str:
    return "a seed (value hidden)" if len(key) == 58 and key.startswith("S") else repr(key)


def _path(value: object) -> str:
    text = _text(value)
    return str(Path(text).expanduser()) if text else ""


def _path_of(*, providers: bool) -> Parser:
    """A path; that of a provider's file may hold ``{provider}``, which its public key replaces."""

    def parse(value: object) -> str:
        return _without_strange_placeholder(_path(value), providers)

    return parse


def _inbox_prefix_of(*, providers: bool) -> Parser:
    def parse(value: object) -> str:
        text = _without_strange_placeholder(_text(value), providers)
        if not re.fullmatch(r"_INBOX(_[A-Za-z0-9_-]+)?(\.[A-Za-z0-9_-]+)*", text.replace(PROVIDER, "X")):
            raise _Unusable(f"{text!r} does not begin with _INBOX, which peers insist on, or is no subject prefix")
        return text

    return parse


PROVIDER = "{provider}"
"""In files and inboxes of the provider connection: the public key of the provider, so that each can be its own user."""


def _without_strange_placeholder(text: str, providers: bool) -> str:
    for found in re.findall(r"\{[^}]*\}?", text):
        if not providers or found != PROVIDER:
            raise _Unusable(f"{found!r} in {text!r} means nothing here{f'; {PROVIDER} does' if providers else ''}")
    return text


def _login(kind: str, jwt: tuple[str, ...], seed: tuple[str, ...], creds: tuple[str, ...]) -> tuple[Setting, ...]:
    """As whom to connect and how; ``kind`` is ``nats`` for all connections."""
    providers = kind == "prov_rpc"
    path, inbox = _path_of(providers=providers), _inbox_prefix_of(providers=providers)
    own = f"WASMHOST_{kind.upper()}"
    example = "/etc/wasmhost/{provider}" if providers else f"/etc/wasmhost/{kind}"
    return (
        Setting(f"{kind}_jwt", _text, "eyJ0eXAi…", jwt, secret=True),
        Setting(f"{kind}_seed", _seed(Role.USER, "user", "SU"), "SU…", seed, secret=True),
        Setting(f"{kind}_creds", path, f"{example}.creds", creds),
        Setting(f"{kind}_tls_ca", _path_of(providers=False), "/etc/wasmhost/ca.pem", (f"{own}_TLS_CA",)),
        Setting(f"{kind}_tls_cert", path, f"{example}.pem", (f"{own}_TLS_CERT",)),
        Setting(f"{kind}_tls_key", path, f"{example}.key", (f"{own}_TLS_KEY",)),
        Setting(f"{kind}_tls_name", _text, "nats.example", (f"{own}_TLS_NAME",)),
        Setting(
            f"{kind}_inbox_prefix",
            inbox,
            "_INBOX_{provider}" if providers else "_INBOX_host1",
            (f"{own}_INBOX_PREFIX",),
        ),
    )


def _connection(kind: str, variables: str) -> tuple[Setting, ...]:
    return (
        Setting(f"{kind}_host", _url, "127.0.0.1", (f"{variables}_HOST",)),
        Setting(f"{kind}_port", _port, "4222", (f"{variables}_PORT",)),
        Setting(f"{kind}_tls", _boolean, "true", (f"{variables}_TLS",)),
        *_login(kind, (f"{variables}_JWT",), (f"{variables}_SEED",), (f"{variables}_CREDS",)),
    )


STDIN = Path("-")
"""Named as the file, it means standard input."""

_MS = _amount("milliseconds", least=1, most=86_400_000)

SETTINGS: tuple[Setting, ...] = (
    Setting("state", _text, "/var/lib/wasmhost"),
    Setting("name", _token, "second", ("WASMHOST_NAME",)),
    Setting("lattice", _token, "default", ("WASMCLOUD_LATTICE", "WASMCLOUD_LATTICE_PREFIX")),
    Setting("host_seed", _seed(Role.HOST, "host", "SN"), "SN…", ("WASMCLOUD_HOST_SEED",), secret=True),
    Setting("cluster_seed", _seed(Role.CLUSTER, "cluster", "SC"), "SC…", ("WASMCLOUD_CLUSTER_SEED",), secret=True),
    Setting(
        "cluster_issuers", _keys(Role.CLUSTER, "a cluster's public key"), "CA…,CB…", ("WASMCLOUD_CLUSTER_ISSUERS",)
    ),
    Setting(
        "trusted_issuers", _keys(Role.ACCOUNT, "an account's public key"), "AA…,AB…", ("WASMHOST_TRUSTED_ISSUERS",)
    ),
    Setting("nats_url", _url, "nats://127.0.0.1:4222", ("WASMHOST_NATS_URL",)),
    Setting("nats_host", _url, "127.0.0.1", ("NATS_HOST",)),
    Setting("nats_port", _port, "4222", ("NATS_PORT",)),
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
    Setting("rpc_timeout_ms", _MS, "2000", ("WASMCLOUD_RPC_TIMEOUT_MS",)),
    Setting("ctl_topic_prefix", _prefix, "wasmbus.ctl", ("WASMCLOUD_CTL_TOPIC_PREFIX",)),
    Setting("prov_shutdown_delay_ms", _MS, "300", ("WASMCLOUD_PROV_SHUTDOWN_DELAY_MS",)),
    Setting("drain_timeout_ms", _MS, "10000", ("WASMHOST_DRAIN_TIMEOUT_MS",)),
    Setting("js_domain", _token, "core", ("WASMCLOUD_JS_DOMAIN",)),
    Setting("allow_file_load", _boolean, "true", ("WASMCLOUD_ALLOW_FILE_LOAD",)),
    Setting("allow_anonymous_nats", _boolean, "true", ("WASMHOST_ALLOW_ANONYMOUS_NATS",)),
    Setting("no_local", _boolean, "true", ("WASMHOST_NO_LOCAL",)),
    Setting("provider_keys", _choice("derived", "cluster"), "derived", ("WASMHOST_PROVIDER_KEYS",)),
    Setting("manager_form", _choice("legacy", "0.82"), "legacy", ("WASMHOST_MANAGER_FORM",)),
    Setting("refuse_downgrades", _boolean, "true", ("WASMHOST_REFUSE_DOWNGRADES",)),
    Setting("policy_mode", _choice("off", "enforce"), "enforce", ("WASMHOST_POLICY_MODE",)),
    Setting("policy_topic", _subject, "wasmcloud.policy", ("WASMCLOUD_POLICY_TOPIC",)),
    Setting("policy_changes_topic", _subject, "wasmcloud.policy.changes", ("WASMCLOUD_POLICY_CHANGES_TOPIC",)),
    Setting("policy_timeout_ms", _MS, "1000", ("WASMCLOUD_POLICY_TIMEOUT", "WASMCLOUD_POLICY_TIMEOUT_MS")),
    Setting("policy_calls", _boolean, "true", ("WASMHOST_POLICY_CALLS",)),
    Setting("policy_links", _boolean, "true", ("WASMHOST_POLICY_LINKS",)),
    Setting("policy_cache_ms", _MS, "300000", ("WASMHOST_POLICY_CACHE_MS",)),
    Setting("revoked", _revocations, "MA…,AB…", ("WASMHOST_REVOKED",)),
    Setting("rpc_events", _boolean, "true", ("WASMHOST_RPC_EVENTS",)),
    Setting("probes", _listening, "127.0.0.1:4000", ("WASMHOST_PROBES", "WASMCLOUD_DASHBOARD_PORT")),
    Setting("config_service_enabled", _boolean, "true", ("WASMCLOUD_CONFIG_SERVICE",)),
    Setting("no_restore", _boolean, "true", ("WASMHOST_NO_RESTORE",)),
    Setting("manager_wait_ms", _MS, "30000", ("WASMHOST_MANAGER_WAIT_MS",)),
    Setting("labels", _label_pairs, "zone=eu-1"),
    Setting("guest_threads", _boolean, "true", ("WASMHOST_GUEST_THREADS",)),
    *(
        Setting(limit.setting, _limit(limit), str(limit.example), (f"WASMHOST_{limit.setting.upper()}",))
        for limit in LIMITS
    ),
    Setting(
        "log_level",
        _log_level,
        "info",
        ("WASMCLOUD_LOG_LEVEL", "WASMCLOUD_STRUCTURED_LOG_LEVEL"),
    ),
    Setting("structured_logging", _boolean, "true", ("WASMCLOUD_STRUCTURED_LOGGING_ENABLED",)),
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

    def __init__(self, values: Mapping[str, tuple[int, Value]]) -> None:
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

    def _get(self, name: str) -> Value | None:
        found = self._values.get(name)
        return found[1] if found else None


def _plain(value: Value) -> object:
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
    values: dict[str, tuple[int, Value]] = {}

    def take(rank: int, setting: Setting, source: str, raw: object) -> None:
        try:
            value = setting.parse(raw)
        except _Unusable as exc:
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
        text = sys.stdin.read() if path == STDIN else path.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
    except FileNotFoundError:
        if required:
            problems.append(f"{path}: no such file; name an existing file of settings")
        return {}
    except (OSError, UnicodeDecodeError) as exc:
        problems.append(f"{path}: cannot be read: {exc}")
        return {}
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark is not None else str(path)
        problems.append(f"{where}: neither JSON nor YAML: {getattr(exc, 'problem', None) or exc}")
        return {}
    if content is None:
        return {}
    if not isinstance(content, dict):
        problems.append(f"{path}: must hold settings as `name: value`, not a {type(content).__name__}")
        return {}
    return {str(name): value for name, value in content.items()}
