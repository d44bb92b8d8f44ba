"""Addresses of NATS servers: read, completed, shown without the login that they may hold."""

from __future__ import annotations

import ipaddress
import random
from typing import Final
from urllib.parse import urlsplit

from lattice.errors import Code, LatticeError

DEFAULT: Final = "nats://127.0.0.1:4222"


def parse(text: str) -> tuple[str, ...]:
    """The addresses in a comma-separated list, each with scheme and port. Raises LatticeError with code INVALID."""
    urls = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        url = part if "://" in part else f"nats://{part}"
        try:
            split = urlsplit(url)
            host, port = split.hostname, split.port
        except ValueError:
            host, port = None, None
        if not host or split.scheme not in ("nats", "tls", "ws", "wss"):
            raise LatticeError(
                f"{without_login(part)!r} is not the address of a NATS server (example: {DEFAULT})",
                code=Code.INVALID,
            )
        urls.append(url if port or split.scheme in ("ws", "wss") else f"{url.rstrip('/').rstrip(':')}:4222")
    return tuple(urls) or (DEFAULT,)


def is_loopback(url: str) -> bool:
    """Whether a server's address is of this machine only."""
    host = urlsplit(url if "://" in url else f"nats://{url}").hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_address(address: str) -> bool:
    """Whether an IP address is of this machine only."""
    try:
        found = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None)
    return (mapped or found).is_loopback


def shown(urls: str) -> str:
    """Addresses as a user gave them, without the user information that they may hold."""
    return ",".join(without_login(url.strip()) for url in urls.split(","))


def without_login(url: str) -> str:
    scheme, separator, rest = url.rpartition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}".rstrip("/")


def with_login(urls: tuple[str, ...], more: tuple[str, ...]) -> list[str]:
    """All addresses in random order; those that a server announced get the user information of the first."""
    known = {without_login(url): url for url in urls}
    login = urls[0].partition("://")[2].rpartition("@")[0]
    for url in more:
        scheme, _, rest = url.partition("://")
        known.setdefault(url, f"{scheme}://{login}@{rest}" if login else url)
    mixed = list(known.values())
    random.shuffle(mixed)
    return mixed
