"""Link values of the HTTP server, checked.

:mod:`lattice.contracts.httplink` merges settings documents and single keys; here each setting gets its meaning. The
names are those of the classic provider with ``host`` and ``path_prefix`` added.
"""

from __future__ import annotations

import ipaddress
import os
import re
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

from lattice.contracts.httplink import InvalidLinkValues, given, shown, unreadable
from providers.httpserver.cors import Cors
from providers.httpserver.policy import Policy
from providers.httpserver.routes import normal_host, normal_prefix
from providers.httpserver.tls import TlsFiles

__all__ = ["HttpLink", "InvalidLinkValues", "format_address", "parse_address", "read_link"]

DEFAULT_ADDRESS: Final = "127.0.0.1:8000"
"""Where a link without ``address`` and ``port`` listens, as in the classic provider."""
MOST_CONTENT: Final = 1024**3
LONGEST_TIMEOUT: Final = 24 * 3600 * 1000
"""Milliseconds."""

_UNITS: Final = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
_SIZE: Final = re.compile(r"\s*([0-9]{1,12})\s*([kmg]?)\s*\Z", re.ASCII | re.IGNORECASE)
_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_FIELD_VALUE: Final = re.compile(r"[!-~](?:[ -~]*[!-~])?\Z")

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLink:
    """What the values of one link ask for."""

    address: tuple[str, int]
    """IP address and port."""
    tls: TlsFiles | None = None
    """None speaks plain HTTP."""
    host: str = ""
    path_prefix: str = ""
    policy: Policy = field(default_factory=Policy)
    unknown: tuple[str, ...] = ()
    """Settings that were ignored."""


def read_link(values: Mapping[str, str]) -> HttpLink:
    """Raises InvalidLinkValues with every problem at once. Looks at files, so it may block."""
    settings, problems = given(values)
    read: dict[str, Any] = {}
    where: dict[str, str] = {}
    unknown: list[str] = []
    for setting in settings:
        reader = _READERS.get(setting.key)
        if reader is None:
            unknown.append(setting.where)
            continue
        name = "address" if setting.key == "port" else setting.key
        try:
            read[name] = reader(setting.value)
            where[name] = setting.where
        except ValueError as error:
            # The classic provider's words for an address, which operators search for.
            place = setting.where.replace("address", "invalid address") if name == setting.key == "address" else None
            problems.append(f"{place or setting.where}: {error}")
    tls = _tls(read, where, problems)
    if problems:
        raise InvalidLinkValues("invalid parameter: " + "; ".join(problems))
    cors = {name: read[key] for key, name in _CORS_FIELDS.items() if key in read}
    policy = {name: read[key] for key, name in _POLICY_FIELDS.items() if key in read}
    return HttpLink(
        address=read.get("address") or parse_address(DEFAULT_ADDRESS),
        tls=tls,
        host=read.get("host", ""),
        path_prefix=read.get("path_prefix", ""),
        policy=Policy(cors=Cors(**cors), **policy),
        unknown=tuple(unknown),
    )


def _tls(read: Mapping[str, Any], where: Mapping[str, str], problems: list[str]) -> TlsFiles | None:
    """Certificate and key: both or neither, and both must be there."""
    names = ("tls.cert_file", "tls.priv_key_file")
    paths = [read.get(name, "") for name in names]
    for name, path in zip(names, paths, strict=True):
        if path and (reason := _missing(path)):
            problems.append(f"{where[name]}: {path!r}: {reason} (example: {_FILE_EXAMPLES[name]})")
    if all(paths):
        return TlsFiles(certificate=paths[0], key=paths[1])
    for name, other in (names, names[::-1]):
        if read.get(name) and not read.get(other):
            short, missing = name.removeprefix("tls."), other.removeprefix("tls.")
            problems.append(
                f"{missing}: not given, and {where[name]} is {read[name]!r}: "
                f"TLS needs both {short} and {missing} (example: {_FILE_EXAMPLES[other]})"
            )
    return None


_FILE_EXAMPLES: Final = {"tls.cert_file": "/etc/ssl/server.pem", "tls.priv_key_file": "/etc/ssl/server.key"}


def _missing(path: str) -> str:
    """Why ``path`` cannot be used as a file; empty when it can."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "not a file"
        with open(path, "rb"):
            return ""
    except OSError as error:
        return unreadable(path, error)
    except ValueError:
        return "not a path"


def parse_address(text: str) -> tuple[str, int]:
    """``IP:PORT``, with brackets around a v6 address; ``localhost`` is 127.0.0.1. Raises ValueError."""
    host, colon, port = text.strip().rpartition(":")
    if not colon or not host:
        raise ValueError(f"{text!r} is not IP:PORT")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} needs brackets around its IPv6 address")
    if host.lower() == "localhost":
        host = "127.0.0.1"  # one spelling, since links share a listener by address
    return str(ipaddress.ip_address(host)), _port(port)


def format_address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _port(text: str) -> int:
    digits = text.strip()
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 5 or not 1 <= int(digits) <= 65535:
        raise ValueError(f"{text!r} is not a port number")
    return int(digits)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)} is not text")
    return value


def _whole(value: object, what: str, low: int, high: int) -> int:
    """A number, or its digits as text."""
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{shown(value)} is not a number of {what}")
    if not low <= value <= high:
        raise ValueError(f"{value} is not between {low} and {high} {what}")
    return value


def _list(value: object) -> list[str]:
    """A list of texts; as a link value, separated by commas."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return [item.strip() for item in value]
    raise ValueError(f"{shown(value)} is not a list of texts")


def _tokens(value: object, what: str) -> tuple[str, ...]:
    names = _list(value)
    for name in names:
        if not _TOKEN.match(name):
            raise ValueError(f"{shown(name)} is not the name of {what}")
    return tuple(dict.fromkeys(names))


def _origin(text: str) -> str:
    problem = ValueError(f"{shown(text)} is not http(s)://host[:port]")
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as error:
        raise problem from error
    scheme, host = parts.scheme.lower(), parts.hostname
    if scheme not in ("http", "https") or not host or parts.username is not None:
        raise problem
    if parts.path not in ("", "/") or parts.query or parts.fragment:
        raise problem
    if ":" in host:
        host = f"[{host}]"
    standard = {"http": 80, "https": 443}[scheme]  # browsers leave it out
    return f"{scheme}://{host}" if port in (None, standard) else f"{scheme}://{host}:{port}"


def _read_host(value: object) -> str:
    text = _text(value)
    if any(c in "/?#@,*" or c.isspace() for c in text.strip()):
        raise ValueError(f"{shown(text)} is not one host name")
    return normal_host(text)


def _read_origins(value: object) -> frozenset[str]:
    origins = _list(value)
    if "*" in origins:
        raise ValueError(f"{shown(value)}: an empty list allows any origin")
    return frozenset(map(_origin, origins))


def _read_size(value: object) -> int:
    match = _SIZE.match(str(value)) if isinstance(value, str | int) and not isinstance(value, bool) else None
    if match is None:
        raise ValueError(f"{shown(value)} is not a number of bytes with K, M or G behind it or nothing")
    size = int(match[1]) * _UNITS[match[2].lower()]
    if not 1 <= size <= MOST_CONTENT:
        raise ValueError(f"{shown(value)} is not between 1 and 1G")
    return size


def _read_flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        return value.strip().lower() == "true"
    raise ValueError(f"{shown(value)} is neither true nor false")


def _read_cache_control(value: object) -> str:
    text = _text(value).strip()
    if text and not _FIELD_VALUE.match(text):
        raise ValueError(f"{shown(text)} cannot stand in a header")
    return text


def _reader(read: Callable[[object], _Value], example: str) -> Callable[[object], _Value]:
    """``read``, whose complaint ends with an example."""

    def checked(value: object) -> _Value:
        try:
            return read(value)
        except ValueError as error:
            raise ValueError(f"{error} (example: {example})") from error

    return checked


_READERS: Final[Mapping[str, Callable[[object], Any]]] = {
    "address": _reader(lambda value: parse_address(_text(value)), "127.0.0.1:8080"),
    "port": _reader(lambda value: ("127.0.0.1", _port(str(value))), "8080"),
    "host": _reader(_read_host, "shop.example"),
    "path_prefix": _reader(lambda value: normal_prefix(_text(value)), "/api"),
    "timeout_ms": _reader(lambda value: _whole(value, "milliseconds", 1, LONGEST_TIMEOUT) / 1000, "2000"),
    "max_content_len": _reader(_read_size, "10M"),
    "readonly_mode": _reader(_read_flag, "true"),
    "cache_control": _reader(_read_cache_control, "max-age=60"),
    "tls.cert_file": _reader(_text, _FILE_EXAMPLES["tls.cert_file"]),
    "tls.priv_key_file": _reader(_text, _FILE_EXAMPLES["tls.priv_key_file"]),
    "cors.allowed_origins": _reader(_read_origins, "https://shop.example,http://localhost:3000"),
    "cors.allowed_methods": _reader(lambda value: tuple(m.upper() for m in _tokens(value, "a method")), "GET,POST"),
    "cors.allowed_headers": _reader(
        lambda value: tuple(h.lower() for h in _tokens(value, "a header")), "content-type,x-request-id"
    ),
    "cors.exposed_headers": _reader(lambda value: _tokens(value, "a header"), "x-request-id"),
    "cors.max_age_secs": _reader(lambda value: _whole(value, "seconds", 0, 86_400 * 365), "300"),
}
_POLICY_FIELDS: Final = {
    "timeout_ms": "timeout",
    "max_content_len": "max_content",
    "readonly_mode": "read_only",
    "cache_control": "cache_control",
}
_CORS_FIELDS: Final = {
    "cors.allowed_origins": "origins",
    "cors.allowed_methods": "methods",
    "cors.allowed_headers": "headers",
    "cors.exposed_headers": "exposed",
    "cors.max_age_secs": "max_age",
}
