"""Users of a NATS server in operator mode for the providers of a host: made here, one for each, renewed in time.

The host holds a scoped signing key of an account, never the account's own or the operator's. Each provider's user is
in a credentials file for this user of the machine only, which providers of ours read again when they reconnect.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

import structlog

from lattice import nats_user
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.keys import KeyPair, Role
from lattice.login import Login
from wasmhost.private_files import make_private_folder, replace_file

log = structlog.get_logger(__name__)

LIFETIME: Final = 86_400.0
"""Seconds for which the user of a provider of ours is valid; one that cannot renew it gets it for its whole life."""
LOOK_AGAIN: Final = 600.0
"""Seconds between two looks at whose user is to be renewed."""


class ProviderUsers:
    """Makes and renews the users of one host's providers."""

    def __init__(
        self,
        signing_key: Path,
        account: str,
        files: Callable[[str], Path],
        *,
        lifetime: float = LIFETIME,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``signing_key``: the file with the seed; ``files``: where the credentials of a provider's key go."""
        self._signing_key = signing_key
        self._account = account
        self._files = files
        self._lifetime = lifetime
        self._clock = clock
        self._renew_at: dict[str, float] = {}

    def ensure(self, provider: str, *, renews: bool) -> None:
        """See to it that the provider has a user that is good for a while. ``renews``: it reads the file again.

        Blocks for a moment on files. Raises LatticeError.
        """
        due = self._renew_at.get(provider)
        if due is not None and self._clock() < due:
            return
        lifetime = self._lifetime if renews else 0.0
        token, seed = nats_user.mint(self._signer(), account=self._account, name=provider, lifetime=lifetime)
        path = self._files(provider)
        try:
            make_private_folder(path.parent)
            replace_file(path, nats_user.credentials(token, seed).encode())
        except OSError as error:
            raise LatticeError(f"{path} cannot be written: {error.strerror}; free some space there") from error
        self._renew_at[provider] = self._clock() + lifetime / 2 if renews else float("inf")
        log.info("provider.nats_user", provider=provider, user=Login(seed=seed).user, seconds=lifetime or None)

    def renew(self, running: Collection[str]) -> None:
        """Give each of these providers a new user whose present one has lived half of its time. Blocks on files."""
        for provider, due in list(self._renew_at.items()):
            if provider in running and due <= self._clock():
                try:
                    self.ensure(provider, renews=True)
                except LatticeError as error:
                    log.warning("provider.nats_user_not_renewed", provider=provider, reason=str(error))

    def _signer(self) -> KeyPair:
        try:
            with self._signing_key.open("rb") as file:
                return KeyPair.from_seed(file.read(256).decode("ascii", "replace").strip(), Role.ACCOUNT)
        except OSError as error:
            raise LatticeError(
                f"{self._signing_key}: {error.strerror}; it should hold a signing key of the account (SA…)",
                code=Code.INVALID,
            ) from error
        except MalformedMessage:
            raise LatticeError(
                f"{self._signing_key} holds no signing key of an account; those begin with SA (value hidden)",
                code=Code.INVALID,
            ) from None
