"""Link values of the HTTP server, read and checked.

The keys are those of the classic provider (``address``, ``port``, ``timeout_ms``) with ``host`` and ``path_prefix``
added. Key names are case-insensitive, as there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from lattice.errors import Code, LatticeError
from providers.httpserver.routes import normal_host, normal_prefix

DEFAULT_ADDRESS: Final = "127.0.0.1:8000"
"""Where a link without ``address`` and ``port`` listens, as in the classic provider."""

KNOWN: Final = frozenset({"address", "port", "host", "path_prefix", "timeout_ms"})


class InvalidLinkValues(LatticeError):
    """The values of a link make no sense; putting the link again with other values helps."""

    code = Code.INVALID


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpLink:
    """What the values of one link ask for."""

    address: tuple[str, int]
    """IP address and port."""
    host: str = ""
    path_prefix: str = ""
    timeout: float | None = None
    """Seconds an actor has for its answer; None takes the host's RPC timeout."""
    unknown: tuple[str, ...] = ()
    """Keys that were ignored."""


def read_link(values: Mapping[str, str]) -> HttpLink:
    """Raises InvalidLinkValues with every problem at once."""
    problems: list[str] = []
    known: dict[str, str] = {}
    for key, value in values.items():
        if key.lower() in known:
            problems.append(f"{key!r} is given twice, in different case")
        known[key.lower()] = value

    def read_address() -> tuple[str, int]:
        if (text := known.get("address")) is not None:
            return parse_address(text)
        if (text := known.get("port")) is not None:
            return ("127.0.0.1", _port(text))
        return parse_address(DEFAULT_ADDRESS)

    address, host, path_prefix, timeout = ("", 0), "", "", None
    try:
        address = read_address()
    except ValueError as error:
        # The classic provider's words, which operators search for.
        problems.append(f"invalid address: {error} (example: 127.0.0.1:8080)")
    try:
        path_prefix = normal_prefix(known.get("path_prefix", ""))
    except ValueError as error:
        problems.append(f"path_prefix: {error} (example: /api)")
    host = normal_host(known.get("host", ""))
    if (text := known.get("timeout_ms")) is not None:
        if text.strip().isascii() and text.strip().isdigit() and int(text) > 0:
            timeout = int(text) / 1000
        else:
            problems.append(f"timeout_ms: {text!r} is not a number of milliseconds (example: 2000)")
    if problems:
        raise InvalidLinkValues("invalid parameter: " + "; ".join(problems))
    return HttpLink(
        address=address,
        host=host,
        path_prefix=path_prefix,
        timeout=timeout,
        unknown=tuple(sorted(set(known) - KNOWN)),
    )


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
    if not (digits.isascii() and digits.isdigit()) or not 1 <= int(digits) <= 65535:
        raise ValueError(f"{text!r} is not a port number")
    return int(digits)
