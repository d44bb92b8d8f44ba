"""The connection of a process to NATS: :func:`connect` dials, and says in words that help what went wrong.

What it returns is a :class:`lattice.session.Connection`; below that are the wires of :mod:`lattice.natswires`. Where
nats-py's internals are not as expected, the slower of them is used and a warning says so.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import ssl
import time
from collections.abc import Callable
from typing import Any

import nats.errors
import structlog

from lattice import addresses, server_errors
from lattice.connectoptions import DEFAULT_INBOX_PREFIX, ConnectOptions
from lattice.errors import Code, LatticeError, NotAuthorized, Unreachable
from lattice.login import Login, load_credentials
from lattice.natswires import DirectWire, PublicWire, internals_problem
from lattice.session import Connection, Limits
from lattice.wires import Wire

__all__ = ["DEFAULT_INBOX_PREFIX", "ConnectOptions", "Connection", "Limits", "connect"]

log = structlog.get_logger(__name__)


async def connect(options: ConnectOptions) -> Connection:
    """Connect, and stay connected until closed.

    Each address is tried once. Raises Unreachable (with what to do) when none answers, NotAuthorized when the server
    refuses the credentials, and LatticeError with code INVALID for an address that is none.
    """
    urls = addresses.parse(options.url)
    login(options)
    if options.tls:
        options.tls.context()
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
    except BaseException as error:
        await connection.close()
        refused = connection.server and isinstance(error, Unreachable | NotAuthorized)
        if refused and (ended := _expiry(login(options))) and ended not in str(error):
            # In its last second a token is let in and put out at once.
            raise NotAuthorized(f"{error}; {ended}") from error
        raise
    return connection


def login(options: ConnectOptions) -> Login:
    """As whom ``options`` would connect now. Raises LatticeError for what is wrong without asking a server.

    The libraries' own errors might hold a word of the seed.
    """
    if options.credentials:
        found = load_credentials(options.credentials)
    else:
        found = Login(jwt=options.user_jwt.strip(), seed=options.seed.strip())
    found.key()
    return found


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
    secure = bool(options.tls) or url.startswith("tls://")
    who = login(options)
    wire = (DirectWire if direct else PublicWire)(url, on_error, secure=secure)
    try:
        arguments = await asyncio.to_thread(_arguments, options, url, who)
        # nats-py bounds each step of the handshake; this bounds their sum.
        async with asyncio.timeout(options.connect_timeout * 2):
            await wire.open(arguments)
        if not options.allow_anonymous:
            _refuse_openness(wire, url, who)
    except BaseException as error:
        await wire.close()
        if isinstance(error, LatticeError) or not isinstance(error, Exception):
            raise
        raise _explain(error, wire, options, url, who) from error
    return wire


def _refuse_openness(wire: Wire, url: str, who: Login) -> None:
    """Raise NotAuthorized where whoever reaches the server may do what we do."""
    if wire.local or (wire.auth_required and (who.seed or _has_user(url))):
        return
    if wire.verifies_clients:
        return
    raise NotAuthorized(
        f"NATS server {wire.server} asks for no credentials, so whoever reaches it controls this lattice; "
        "give the server users, or accept this with --allow-anonymous-nats"
    )


def _has_user(url: str) -> bool:
    return "@" in url.partition("://")[2]


def _arguments(options: ConnectOptions, url: str, who: Login) -> dict[str, Any]:
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
    if options.tls or url.startswith("tls://"):
        arguments["tls"] = options.tls.context()
        if options.tls.name:
            arguments["tls_hostname"] = options.tls.name
    key = who.key()
    if key is not None and who.jwt:
        arguments["user_jwt_cb"] = who.jwt.encode
        arguments["signature_cb"] = lambda nonce: base64.b64encode(key.sign(nonce.encode()))
    elif key is not None:
        arguments["nkeys_seed_str"] = key.seed
    return arguments


def _explain(error: Exception, wire: Wire, options: ConnectOptions, address: str, who: Login) -> LatticeError:
    """What went wrong while connecting, in words that help."""
    url, cause = addresses.without_login(address), wire.last_error
    reason = cause if isinstance(error, nats.errors.NoServersError) and cause is not None else error
    text = str(reason).removeprefix("nats: ").strip("'\" ")
    if server_errors.refuses_user(text):
        said = "the given credentials" if who.seed or _has_user(address) else "no credentials"
        return NotAuthorized(f"the NATS server at {url} refused {said} ({text}); {_next_step(address, who)}")
    if isinstance(reason, ssl.SSLError):
        return _explain_tls(reason, text, url, verifies=wire.verifies_clients)
    if wire.verifies_clients and not isinstance(reason, TimeoutError):
        # TLS 1.3 lets the client believe that it is in; the refusal comes with the end of the connection.
        return _wants_certificate(url, "it ended the connection")
    if isinstance(reason, OSError) and reason.filename is not None:
        return LatticeError(f"{reason.filename}: {reason.strerror}; needed to connect to {url}", code=Code.INVALID)
    if isinstance(reason, ConnectionRefusedError):
        text = "connection refused; start a lattice with: wasmhost up (or a server with: nats-server -js)"
    elif isinstance(reason, TimeoutError):
        text = f"no answer within {options.connect_timeout:g} s"
    elif isinstance(reason, OSError):
        text = reason.strerror or text
    return Unreachable(f"no NATS server at {url}: {text or type(reason).__name__}", code=Code.DISCONNECTED)


def _expiry(who: Login) -> str:
    """When the token of a user ended; empty while it is good."""
    if who.expires is None or who.expires > time.time():
        return ""
    when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(who.expires))
    return f"the user's token expired on {when}: get a new one"


def _next_step(address: str, who: Login) -> str:
    if ended := _expiry(who):
        return ended
    if who.seed or _has_user(address):
        return "check user, seed and token: they may be another server's, or revoked"
    return "name a user with --nats-creds FILE or in a context"


def _explain_tls(error: ssl.SSLError, text: str, url: str, *, verifies: bool) -> LatticeError:
    reason = (getattr(error, "reason", None) or "").upper()
    if isinstance(error, ssl.SSLCertVerificationError):
        return Unreachable(
            f"the certificate of the NATS server at {url} is not trusted: {error.verify_message}; "
            "name its authority with --nats-tls-ca FILE, and the server as its certificate does",
            code=Code.DISCONNECTED,
        )
    if verifies:
        return _wants_certificate(url, reason.lower().replace("_", " "))
    return Unreachable(f"no TLS connection to {url}: {text}", code=Code.DISCONNECTED)


def _wants_certificate(url: str, detail: str) -> NotAuthorized:
    return NotAuthorized(
        f"the NATS server at {url} wants a client certificate that it knows ({detail}); "
        "name one with --nats-tls-cert and --nats-tls-key"
    )
