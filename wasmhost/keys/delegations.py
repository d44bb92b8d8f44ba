"""Delegation tokens of this host's providers, told to the hosts of other clusters; and theirs, learnt from them.

They are entries of the lattice state, ``delegation.{cluster key}.{provider}.{link name}``: one per provider, so that
the token of a new generation takes the place of the one before. Without JetStream hosts of different clusters do not
learn of each other's providers.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from lattice import delegation
from lattice.authority import Delegation
from lattice.delegation import DelegationToken
from lattice.errors import LatticeError
from lattice.keys import KeyPair
from wasmhost.keys.cluster_keys import ClusterKeys
from wasmhost.keys.generations import key_of as generation_key
from wasmhost.knowledge.lattice_state import LatticeState

log = structlog.get_logger(__name__)

PREFIX: Final = "delegation."
RENEW_EVERY: Final = 3600.0
"""Seconds between two tokens for the same key."""
_TELL_TIMEOUT: Final = 2.0


class Delegations:
    """The delegations that this host makes and knows."""

    def __init__(
        self,
        state: LatticeState,
        keys: ClusterKeys,
        lattice: str,
        *,
        generation: Callable[[str, str], int],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``generation(provider, link name)``: tokens of an earlier one do not count, whoever puts them back."""
        self.on_change: Callable[[], None] = lambda: None
        """Called after :attr:`known` has changed."""
        self._state = state
        self._keys = keys
        self._lattice = lattice
        self._clock = clock
        self._generation = generation
        self._tokens: dict[str, str] = {}
        self.known: Mapping[str, Delegation] = {}
        """Which keys of other clusters sign for which provider."""

    def open(self) -> None:
        """Follow the lattice from now on."""
        self._state.on_change(PREFIX, self._on_entry)

    def read_again(self) -> None:
        """Look at all tokens anew, as the accepted issuers or a generation have changed."""
        held = {key.public for key in self._keys.held}
        issuers = self._keys.accepted - held  # what our own keys stand for is derived, also its revocation
        known: dict[str, Delegation] = {}
        for entry, text in self._tokens.items():
            if entry.removeprefix(PREFIX).partition(".")[0] not in issuers:
                continue  # of this cluster itself, or of one that is none of ours
            try:
                token = DelegationToken.read(text, issuers=issuers, lattice=self._lattice, now=self._clock())
            except LatticeError as error:
                log.debug("delegation.unused", entry=entry[:200], reason=str(error))
                continue
            if entry != _key_of(token.issuer, token.provider, token.link_name):
                log.warning("delegation.misplaced", entry=entry[:200])
            elif token.generation >= self._generation(token.provider, token.link_name):
                known[token.key] = Delegation(token.provider, token.link_name, token.expires)
        if known != self.known:
            self.known = known
            self.on_change()

    async def tell(self, cluster: KeyPair, provider: str, link_name: str, *, key: str, generation: int) -> None:
        """Let the hosts of other clusters know whom ``key`` signs for; a failure is logged, as most have none."""
        token = delegation.sign(
            cluster,
            key=key,
            lattice=self._lattice,
            provider=provider,
            link_name=link_name,
            generation=generation,
            now=self._clock(),
        )
        try:
            async with asyncio.timeout(_TELL_TIMEOUT):
                await self._state.put(_key_of(cluster.public, provider, link_name), token.encode())
        except (LatticeError, TimeoutError) as error:
            log.warning("delegation.not_told", provider_id=provider, link_name=link_name, reason=str(error))

    def _on_entry(self, entry: str, value: bytes | None) -> None:
        if value is None:
            self._tokens.pop(entry, None)
        else:
            self._tokens[entry] = value.decode("ascii", "replace")
        self.read_again()


def _key_of(cluster: str, provider: str, link_name: str) -> str:
    return f"{PREFIX}{cluster}.{generation_key(provider, link_name).partition('.')[2]}"
