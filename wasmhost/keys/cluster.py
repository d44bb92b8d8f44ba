"""Whose calls this host accepts, and what it and its providers sign with: one place that changes them all together."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Final

import structlog

from lattice.antiforgery import Signer
from lattice.authority import Authority
from lattice.background import Background
from lattice.errors import LatticeError
from lattice.invocation import Entity
from lattice.keys import KeyPair, derive
from lattice.providerkeys import ProviderKeys
from wasmhost.configuration.config import ProviderKeys as KeyKind
from wasmhost.keys.cluster_keys import ClusterKeys
from wasmhost.keys.delegations import RENEW_EVERY, Delegations
from wasmhost.keys.generations import Generations
from wasmhost.knowledge.lattice_state import LatticeState

log = structlog.get_logger(__name__)

_RENEW_TIMEOUT: Final = 20.0
"""Seconds that a change of keys waits for the providers of this host."""

Which = tuple[str, str]
"""Public key and link name of a provider."""


class Cluster:
    """The keys in use. Without ``state`` nothing is revoked and nothing delegated."""

    def __init__(
        self,
        keys: ClusterKeys,
        lattice: str,
        *,
        host_id: str,
        provider_keys: KeyKind = "derived",
        state: LatticeState | None = None,
        generations: Generations | None = None,
    ) -> None:
        """``provider_keys``: ``cluster`` hands the cluster seed itself to providers."""
        self.keys = keys
        self.signer = Signer(keys.signing, host_id)
        """Signs the calls of this host's actors."""
        self.on_authority: Callable[[Authority], None] = lambda _authority: None
        """Called with each new authority."""
        self.on_keys_changed: Callable[[], None] = lambda: None
        """Called when keys are removed or revoked, here or on another host."""
        self.running: Callable[[], Iterable[Which]] = tuple
        """The providers of this host."""
        self.renew_providers: Callable[[], Awaitable[object]] = _nothing
        """Has every provider of this host use the keys that it should have now."""
        self.generations = generations
        self._lattice = lattice
        self._provider_keys = provider_keys
        self._delegations = (
            Delegations(state, keys, lattice, generation=self._generation) if state is not None else None
        )
        self._work = Background()
        self.authority = self._new_authority()
        """Whose calls are accepted now; replaced as a whole."""

    async def open(self) -> None:
        """Follow what the lattice says about generations and delegations. Raises StateError."""
        if self.generations is not None:
            self.generations.on_raised = self._on_raised
            await self.generations.open()
        if self._delegations is not None:
            self._delegations.on_change = self._replace_authority
            self._delegations.open()
            self._work.begin(self._announce_again(), "announce delegations")

    async def close(self) -> None:
        await self._work.end()

    def keys_of(self, provider: str, link_name: str) -> ProviderKeys:
        """What a provider of this host signs with, and whom it believes, from now on."""
        return ProviderKeys(key=self._key_of(provider, link_name), issuers=tuple(sorted(self.keys.accepted)))

    def permits(self, issuer: str, provider: str, link_name: str) -> bool:
        """Whether calls of this provider are let in that ``issuer`` signed."""
        return self.authority.permits(issuer, Entity.provider(provider, "", link_name))

    async def change(self, action: str, wanted: str) -> str:
        """``add``, ``use`` or ``remove`` a cluster key; returns its public key once the providers here have followed.

        Raises LatticeError; nothing has changed then.
        """
        public = {"add": self.keys.add, "use": self.keys.use, "remove": self.keys.remove}[action](wanted)
        log.warning("cluster.keys_changed", action=action, key=public, signing=self.keys.signing.public)
        self.on_keys_changed()
        self.signer.use(self.keys.signing)
        if self._delegations is not None:
            self._delegations.read_again()
        self._replace_authority()
        await self._follow()
        return public

    async def revoke(self, provider: str, link_name: str) -> int:
        """Revoke a provider's present key on every host; the new generation once the provider here has followed.

        Raises LatticeError.
        """
        if self.generations is None:
            raise LatticeError("this host keeps no generations of provider keys")
        number = await self.generations.raise_for(provider, link_name)
        await self._follow()
        return number

    async def announce(self, provider: str, link_name: str) -> None:
        """Let the hosts of other clusters know the key of a provider that runs here."""
        if self._delegations is None or self._provider_keys == "cluster":
            return
        await self._delegations.tell(
            self.keys.signing,
            provider,
            link_name,
            key=self._key_of(provider, link_name).public,
            generation=self._generation(provider, link_name),
        )

    def _key_of(self, provider: str, link_name: str) -> KeyPair:
        if self._provider_keys == "cluster":
            return self.keys.signing
        return derive(
            self.keys.signing,
            lattice=self._lattice,
            purpose="provider",
            subject=provider,
            link_name=link_name,
            generation=self._generation(provider, link_name),
        )

    def _generation(self, provider: str, link_name: str) -> int:
        return self.generations.of(provider, link_name) if self.generations is not None else 0

    def _new_authority(self) -> Authority:
        keys = self.keys
        return Authority.for_host(
            keys.signing,
            keys.accepted,
            self._lattice,
            further=keys.held,
            delegated=self._delegations.known if self._delegations is not None else None,
            generation=self._generation,
            removed=keys.removed,
        )

    def _replace_authority(self) -> None:
        self.authority = self._new_authority()
        self.on_authority(self.authority)

    def _on_raised(self, _provider: str, _link_name: str) -> None:
        self.on_keys_changed()
        # The authority looks the generation up; what was signed with the old key is refused from now on.
        if self._delegations is not None:
            self._delegations.read_again()
        self._work.begin(self._follow(), "follow the keys")

    async def _follow(self) -> None:
        """Have the providers here use the present keys, and tell other clusters of them first."""
        await self._announce_all()
        with suppress(TimeoutError):
            await asyncio.wait_for(self.renew_providers(), _RENEW_TIMEOUT)

    async def _announce_again(self) -> None:
        while True:
            await asyncio.sleep(RENEW_EVERY)
            await self._announce_all()

    async def _announce_all(self) -> None:
        await asyncio.gather(*(self.announce(provider, link_name) for provider, link_name in self.running()))


async def _nothing() -> None:
    """Where no providers are."""
