"""What a host knows of its own defences: users, inboxes, keys, trust, files. It says nothing secret.

Told on a control subject only: whoever may ask there may command the host anyway.
"""

from __future__ import annotations

import asyncio
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

from lattice.addresses import is_loopback, without_login
from lattice.claims import ActorClaims, ProviderClaims
from lattice.connection import Connection, login
from lattice.errors import LatticeError
from lattice.security_report import Ending, Route, SecurityReport
from wasmhost.configuration.config import HostConfig
from wasmhost.configuration.endpoint import NatsEndpoint
from wasmhost.configuration.settings import SECRET_VARIABLES
from wasmhost.keys.identity import Identity
from wasmhost.keys.key_files import key_files, read_key_file
from wasmhost.state import StatePaths

Claims = ActorClaims | ProviderClaims


class HostSecurity:
    """Describes one host."""

    def __init__(
        self,
        config: HostConfig,
        identity: Identity,
        *,
        control: Connection,
        rpc: Connection,
        running: Callable[[], Iterable[Claims]],
    ) -> None:
        """``running``: the claims of all that runs."""
        self._config = config
        self._identity = identity
        self._control = control
        self._rpc = rpc
        self._running = running

    async def report(self) -> SecurityReport:
        """As things are now."""
        config = self._config
        endpoints = (config.control, config.rpc, config.providers)
        exposed = await asyncio.to_thread(exposed_files, config.paths, endpoints)
        shown, wiped = secret_variables()
        account = read_key_file(config.paths.shared / "account.nk", "account").public
        return SecurityReport(
            host_id=self._identity.host_id,
            friendly_name=self._identity.friendly_name,
            control=_route(config.control, self._control),
            rpc=_route(config.rpc, self._rpc),
            providers=_route(config.providers, None),
            provider_keys=config.provider_keys,
            trusted=tuple(sorted(config.trusted_issuers)),
            development_account=account if account in config.trusted_issuers else "",
            allow_file_load=config.allow_file_load,
            allow_anonymous_nats=config.allow_anonymous_nats,
            policy=config.policy.topic if config.policy is not None else "",
            policy_calls=config.policy is not None and config.policy.calls,
            environment=shown,
            wiped_environment=wiped,
            exposed=tuple(map(str, exposed)),
            endings=tuple(
                Ending(id=claims.subject, name=claims.name, expires=int(claims.expires))
                for claims in self._running()
                if claims.expires is not None
            ),
        )


def _route(endpoint: NatsEndpoint, connection: Connection | None) -> Route:
    user, expires = user_of(endpoint)
    url = endpoint.url.partition(",")[0]
    return Route(
        server=connection.server if connection is not None else without_login(url),
        local=connection.local if connection is not None else is_loopback(url),
        encrypted=connection.encrypted if connection is not None else bool(endpoint.tls) or url.startswith("tls://"),
        asks=connection.auth_required if connection is not None else bool(user),
        user=user,
        expires=expires,
        inbox=endpoint.inbox_prefix,
    )


def user_of(endpoint: NatsEndpoint) -> tuple[str, int]:
    """Who connects there, and until when (0: without end). One user per provider is shown as the path of its file."""
    if endpoint.credentials and endpoint.names_provider:
        return endpoint.credentials, 0
    try:
        who = login(endpoint.options("", allow_anonymous=True))
        name = endpoint.url.partition("://")[2].rpartition("@")[0].partition(":")[0]
        return who.user or name, who.expires or 0
    except LatticeError:
        return endpoint.credentials, 0


def secret_variables() -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Variables with secrets that this process was started with: those it still shows, and those it has wiped."""
    try:
        words = Path("/proc/self/environ").read_bytes().split(b"\0")
    except OSError:
        return (), ()
    given = {name.decode(errors="replace"): value for name, _, value in (word.partition(b"=") for word in words)}
    names = sorted(name for name in SECRET_VARIABLES & given.keys() if given[name])
    return (
        tuple(name for name in names if given[name].strip(b"x")),
        tuple(name for name in names if not given[name].strip(b"x")),
    )


def exposed_files(paths: StatePaths, endpoints: Iterable[NatsEndpoint]) -> list[Path]:
    """Folders and files with secrets that others than their user may look into."""
    found = [path for path in (paths.shared, paths.host) if _is_open(path)]
    found += [file.path for file in key_files(paths) if file.exposed]
    for endpoint in endpoints:
        named = (endpoint.credentials, endpoint.tls.key, endpoint.signing_key)
        found += [path for text in named if text for path in files_named(text) if _is_open(path)]
    return list(dict.fromkeys(found))


def files_named(text: str) -> list[Path]:
    """The files that a setting stands for: several where it holds ``{provider}``."""
    path = Path(text).expanduser()
    if "{provider}" not in text:
        return [path]
    try:
        return sorted(path.parent.glob(path.name.replace("{provider}", "V*")))[:100]
    except (OSError, ValueError):
        return []


def _is_open(path: Path) -> bool:
    try:
        return bool(stat.S_IMODE(path.stat().st_mode) & 0o077)
    except OSError:
        return False
