"""Where and as whom a process connects to NATS, said without loading a NATS client.

Commands that only read settings or files should not wait for one to load: it takes longer than all the rest.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lattice import addresses
from lattice.login import SYSTEM_TLS, TlsFiles
from lattice.session import Limits

DEFAULT_INBOX_PREFIX: Final = "_INBOX"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """Where and as whom to connect. Durations are seconds."""

    url: str = field(default=addresses.DEFAULT, repr=False)
    """One address or several separated by commas; ``host:port`` without a scheme will do."""
    name: str = "wasmhost"
    """Shown in the server's monitoring."""
    user_jwt: str = field(default="", repr=False)
    seed: str = field(default="", repr=False)
    """User seed ``SU…``: together with ``user_jwt``, or alone as a static nkey."""
    credentials: str = ""
    """Path of a credentials file, read again at each reconnect; goes before ``user_jwt`` and ``seed``."""
    tls: TlsFiles = SYSTEM_TLS
    """Read again at each reconnect, too. Where it says anything, or the address is ``tls://``, TLS is demanded."""
    allow_anonymous: bool = True
    """False: take no server beyond this machine that lets anybody in, neither now nor at a reconnect."""
    inbox_prefix: str = DEFAULT_INBOX_PREFIX
    """Replies arrive below ``{inbox_prefix}.{random}``; give each principal its own where users share an account."""
    connect_timeout: float = 2.0
    """For one attempt at one address."""
    ping_interval: float = 3.0
    """A server that leaves two pings in a row unanswered, and sends nothing else, counts as gone: after three intervals
    at most. TCP itself would wait a quarter of an hour for a peer that fell silent."""
    limits: Limits = field(default_factory=Limits)
    internals: bool = True
    """False: use nats-py's documented interface only."""
