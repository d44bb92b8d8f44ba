"""The connection of a process to NATS: :func:`connect` dials, and says in words that help what went wrong.

What it returns is a :class:`lattice.session.Connection`; below that are the wires of :mod:`lattice.natswires`. Where
nats-py's internals are not as expected, the slower of them is used and a warning says so.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nats.errors
import nkeys
import structlog

from lattice import addresses
from lattice.errors import Code, LatticeError, NotAuthorized, Unreachable
from lattice.natswires import DirectWire, PublicWire, internals_problem
from lattice.session import Connection, Limits
from lattice.wires import Wire

__all__ = ["ConnectOptions", "Connection", "Limits", "connect"]

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Where and as whom to connect. Durations are seconds."""

    url: str = field(default=addresses.DEFAULT, repr=False)
    """One address or several separated by commas; ``host:port`` without a scheme will do."""
    name: str = "wasmhost"
    """Shown in the server's monitoring."""
    user_jwt: str = ""
    seed: str = field(default="", repr=False)
    """User seed ``SU…``: together with ``user_jwt``, or alone as a static nkey."""
    credentials: str = ""
    """Path of a credentials file, read again at each reconnect; goes before ``user_jwt`` and ``seed``."""
    tls_ca: str = ""
    """Path of the certificate authorities to trust instead of the system's, for servers that require TLS."""
    inbox_prefix: str = "_INBOX"
    """Replies arrive below ``{inbox_prefix}.{random}``; give each principal its own where users share an account."""
    connect_timeout: float = 2.0
    """For one attempt at one address."""
    ping_interval: float = 10.0
    """A server that leaves two pings in a row unanswered counts as gone."""
    limits: Limits = field(default_factory=Limits)
    internals: bool = True
    """False: use nats-py's documented interface only."""


async def connect(options: ConnectOptions) -> Connection:
    """Connect, and stay connected until closed.

    Each address is tried once. Raises Unreachable (with what to do) when none answers, NotAuthorized when the server
    refuses the credentials, and LatticeError with code INVALID for an address that is none.
    """
    urls = addresses.parse(options.url)
    _check(options)
    if options.internals and (problem := await internals_problem()) is not None:
        log.warning("connection.slow_path", reason=problem)
        direct = False
    else:
        direct = options.internals

    async def dial(more: tuple[str, ...], on_error: Callable[[str], None]) -> Wire:
        return await _dial_any(options, addresses.with_login(urls, more), on_error, direct=direct)

    # 16 random bytes: whoever can guess an inbox can answer in another's name.
    inbox = f"{options.inbox_prefix.rstrip('.')}.{secrets.token_hex(16)}"
    connection = Connection(dial, inbox_prefix=inbox, limits=options.limits)
    try:
        await connection.open()
    except BaseException:
        await connection.close()
        raise
    return connection


def _check(options: ConnectOptions) -> None:
    """What can be found wrong before anything is sent. The libraries' own errors might hold a word of the seed."""
    if options.tls_ca and not Path(options.tls_ca).is_file():
        raise LatticeError(f"{options.tls_ca}: no such file; it should hold certificates to trust", code=Code.INVALID)
    seed = options.seed.strip()
    if not seed:
        return
    try:
        pair = nkeys.from_seed(bytearray(seed.encode()))
        if not pair.public_key.startswith(b"U"):
            raise ValueError
    except Exception:
        raise NotAuthorized("the NATS user seed is none: it must begin with SU (value hidden)") from None


async def _dial_any(options: ConnectOptions, urls: list[str], on_error: Callable[[str], None], *, direct: bool) -> Wire:
    failures: list[LatticeError] = []
    for url in urls:
        try:
            return await _dial(options, url, on_error, direct=direct and not url.startswith("ws"))
        except LatticeError as error:
            failures.append(error)
    # A refusal is what somebody must act on; that another server is down as well is not.
    failures.sort(key=lambda error: not isinstance(error, NotAuthorized))
    if len(failures) > 1 and not isinstance(failures[0], NotAuthorized):
        raise Unreachable("; ".join(str(failure) for failure in failures), code=Code.DISCONNECTED)
    raise failures[0]


async def _dial(options: ConnectOptions, url: str, on_error: Callable[[str], None], *, direct: bool) -> Wire:
    wire = DirectWire(url, on_error) if direct else PublicWire(url, on_error)
    try:
        # nats-py bounds each step of the handshake; this bounds their sum.
        async with asyncio.timeout(options.connect_timeout * 2):
            await wire.open(_arguments(options, url))
    except BaseException as error:
        await wire.close()
        if isinstance(error, Exception):
            raise _explain(error, wire.last_error, options, addresses.without_login(url)) from error
        raise
    return wire


def _arguments(options: ConnectOptions, url: str) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "servers": url,
        "name": options.name,
        "connect_timeout": options.connect_timeout,
        "ping_interval": options.ping_interval,
        "max_outstanding_pings": 2,
        "allow_reconnect": False,
        # One repetition, at once: nats-py knows no single attempt.
        "max_reconnect_attempts": 1,
        "reconnect_time_wait": 0.01,
    }
    if options.tls_ca:
        arguments["tls"] = ssl.create_default_context(cafile=options.tls_ca)
    if options.credentials:
        arguments["user_credentials"] = options.credentials
    elif options.user_jwt.strip():
        jwt, seed = options.user_jwt.strip(), options.seed.strip()
        arguments["user_jwt_cb"] = jwt.encode
        arguments["signature_cb"] = lambda nonce: base64.b64encode(
            nkeys.from_seed(bytearray(seed.encode())).sign(nonce.encode())
        )
    elif options.seed.strip():
        arguments["nkeys_seed_str"] = options.seed.strip()
    return arguments


def _explain(error: Exception, cause: Exception | None, options: ConnectOptions, url: str) -> LatticeError:
    """What went wrong while connecting, in words that help."""
    reason = cause if isinstance(error, nats.errors.NoServersError) and cause is not None else error
    text = str(reason).removeprefix("nats: ").strip("'\" ")
    lowered = text.lower()
    if "authori" in lowered or "authentication" in lowered:
        who = "the given credentials" if options.seed or options.credentials or "@" in options.url else "no credentials"
        return NotAuthorized(f"the NATS server at {url} refused {who} ({text}); check user, seed and token")
    if isinstance(reason, OSError) and reason.filename is not None:
        return LatticeError(f"{reason.filename}: {reason.strerror}; needed to connect to {url}", code=Code.INVALID)
    if isinstance(reason, ssl.SSLError):
        return Unreachable(f"no TLS connection to {url}: {text}", code=Code.DISCONNECTED)
    if isinstance(reason, ConnectionRefusedError):
        text = "connection refused; start a lattice with: wasmhost up (or a server with: nats-server -js)"
    elif isinstance(reason, TimeoutError):
        text = f"no answer within {options.connect_timeout:g} s"
    elif isinstance(reason, OSError):
        text = reason.strerror or text
    return Unreachable(f"no NATS server at {url}: {text or type(reason).__name__}", code=Code.DISCONNECTED)
