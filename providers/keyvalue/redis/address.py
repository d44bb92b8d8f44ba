"""Addresses of Redis servers, as links and start configurations name them.

``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for TLS (``#insecure`` at the end accepts any
certificate) and ``unix:///path/to/socket[?db=number]``: the forms of the classic provider's client. Nothing here ever
repeats a URL, not even in an error, as it may hold a password, and one that is written wrongly may hold it anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qs, unquote, urlsplit

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection, UnixDomainSocketConnection

DEFAULT_URL: Final = "redis://127.0.0.1:6379/"
CONNECT_TIMEOUT: Final = 2.0
"""Seconds for one attempt, login included."""

_EXAMPLE: Final = f"(example: {DEFAULT_URL})"


@dataclass(frozen=True, slots=True)
class Address:
    """One server, one database on it, and who we are there. ``str()`` and ``repr()`` hold no password."""

    host: str = "127.0.0.1"
    port: int = 6379
    path: str = ""
    """Of a Unix socket; host and port mean nothing then."""
    database: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    tls: bool = False
    verified: bool = True
    """With TLS: the certificate has to be trusted by this machine, and made out to ``host``."""

    def __str__(self) -> str:
        if self.path:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, url: str) -> Address:
        """Raises ValueError with a text for the operator."""
        try:
            parts = urlsplit(url.strip())
            host, port = parts.hostname or "", parts.port or 6379
            username, password = unquote(parts.username or ""), unquote(parts.password or "")
        except ValueError:  # not chained: it quotes parts of the URL
            raise ValueError(
                f"the URL is malformed; special characters of a password are written as %XX {_EXAMPLE}"
            ) from None
        options = parse_qs(parts.query)
        if unknown := set(options) - {"db"}:
            raise ValueError(f"the URL has {len(unknown)} unknown option(s) after '?'; db is known {_EXAMPLE}")
        if parts.fragment not in ("", "insecure") or (parts.fragment and parts.scheme != "rediss"):
            raise ValueError("the URL has a '#', which is for rediss://…#insecure only; in a password it is %23")
        match parts.scheme:
            case "redis" | "rediss":
                if not host:
                    raise ValueError(f"the URL names no host {_EXAMPLE}")
                database = parts.path.strip("/") or options.get("db", [""])[-1]
                return cls(
                    host,
                    port,
                    database=_database(database),
                    username=username,
                    password=password,
                    tls=parts.scheme == "rediss",
                    verified=not parts.fragment,
                )
            case "unix" | "redis+unix":
                if not parts.path.strip("/"):
                    raise ValueError("the URL names no socket (example: unix:///run/redis/redis.sock)")
                database = options.get("db", [""])[-1]
                return cls(path=unquote(parts.path), database=_database(database), username=username, password=password)
        raise ValueError(f"the URL begins with none of redis://, rediss:// and unix:// {_EXAMPLE}")

    def connection(self) -> AbstractConnection:
        """A connection that is not open yet; it never connects again, and never repeats a command, by itself."""
        login: dict[str, Any] = {
            "db": self.database,
            "username": self.username or None,
            "password": self.password or None,
            "socket_timeout": None,
            "socket_connect_timeout": CONNECT_TIMEOUT,
            "protocol": 2,
            "driver_info": None,
        }
        if self.path:
            return UnixDomainSocketConnection(path=self.path, **login)
        if not self.tls:
            return Connection(host=self.host, port=self.port, **login)
        return SSLConnection(
            host=self.host,
            port=self.port,
            ssl_cert_reqs="required" if self.verified else "none",
            ssl_check_hostname=self.verified,
            **login,
        )


def _database(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ValueError(f"what follows the host in the URL is not the number of a database {_EXAMPLE}")
    return int(text)
