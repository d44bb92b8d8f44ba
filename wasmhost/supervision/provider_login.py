"""As whom a provider process connects to NATS, and whether it can."""

from __future__ import annotations

import asyncio
from pathlib import Path

from lattice.connection import DEFAULT_INBOX_PREFIX, connect, login
from lattice.errors import Code, LatticeError
from lattice.hostdata import NatsExtras
from lattice.login import Login
from wasmhost.configuration.endpoint import NatsEndpoint
from wasmhost.supervision.provider_users import ProviderUsers


class ProviderLogin:
    """The provider connection of one host, divided among its providers."""

    def __init__(self, endpoint: NatsEndpoint, *, allow_anonymous: bool) -> None:
        """``allow_anonymous``: also beyond this machine."""
        self._endpoint = endpoint
        self._allow_anonymous = allow_anonymous
        self.users: ProviderUsers | None = None
        """Where the host makes the users itself."""
        if endpoint.signing_key:
            self.users = ProviderUsers(Path(endpoint.signing_key).expanduser(), endpoint.account, self._file)

    def _file(self, key: str) -> Path:
        return Path(self._endpoint.of_provider(key).credentials).expanduser()

    def of(self, key: str, *, ours: bool) -> tuple[NatsEndpoint, Login]:
        """Where and as whom this provider connects now. Reads files, and may write one. Raises LatticeError."""
        if self.users is not None:
            self.users.ensure(key, renews=ours)
        endpoint = self._endpoint.of_provider(key)
        return endpoint, login(endpoint.options("", allow_anonymous=True))

    def extras(self, endpoint: NatsEndpoint) -> NatsExtras:
        """What only our own SDK understands."""
        return NatsExtras(
            credentials=endpoint.credentials,
            tls_ca=endpoint.tls.ca,
            tls_cert=endpoint.tls.certificate,
            tls_key=endpoint.tls.key,
            tls_name=endpoint.tls.name,
            inbox_prefix="" if endpoint.inbox_prefix == DEFAULT_INBOX_PREFIX else endpoint.inbox_prefix,
            refuse_anonymous=not self._allow_anonymous,
        )

    async def check(self, key: str, *, ours: bool) -> None:
        """Raise LatticeError where a provider cannot be admitted, before its process is started.

        One of another maker takes a user token together with its seed, or nothing, and replies below ``_INBOX``.
        What it cannot say itself is tried here: it would only wait for a server that never admits it.
        """
        endpoint, who = await asyncio.to_thread(self.of, key, ours=ours)
        if ours:
            return
        if who.seed and not who.jwt:
            raise _unfit("knows no bare nkey: it takes a user token and its seed together", "prov_rpc_creds")
        if endpoint.tls.certificate:
            raise _unfit("cannot show a client certificate", "prov_rpc_tls_cert")
        if endpoint.inbox_prefix != DEFAULT_INBOX_PREFIX:
            raise _unfit(f"replies to _INBOX only, not to {endpoint.inbox_prefix}", "prov_rpc_inbox_prefix")
        options = endpoint.options("wasmhost provider check", allow_anonymous=self._allow_anonymous)
        connection = await connect(options)
        await connection.close()


def _unfit(what: str, setting: str) -> LatticeError:
    return LatticeError(
        f"a provider of another maker {what}; change {setting} of this host, see docs/security.md",
        code=Code.UNSUPPORTED,
    )
