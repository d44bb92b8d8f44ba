"""Puts together, for one host, everything that says what may run and be called on it, and opens and closes it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack

from lattice.events import Publish
from lattice.policy import Asker
from lattice.revocation import Revocation
from lattice.transport import Transport
from wasmhost.actors.registry import ActorRegistry
from wasmhost.calls.directory import ActorDirectory
from wasmhost.configuration.config import HostConfig
from wasmhost.keys.identity import Identity
from wasmhost.knowledge.lattice_state import LatticeState
from wasmhost.policy.calls import CallPolicy
from wasmhost.policy.enforcement import Enforcement
from wasmhost.policy.expiry import ClaimsClock, ExpiryWatch
from wasmhost.policy.gate import Gate, KnownClaims
from wasmhost.policy.halted import HaltedBook
from wasmhost.policy.revocations import Revocations
from wasmhost.policy.service import PolicyService
from wasmhost.supervision.supervisor import ProviderSupervisor

REMEMBERED = "revoked.json"
"""File of the state folder with the revocations that were heard of."""


class PolicyRoom:
    """The parts that the rest of a host uses. :meth:`open` it before anything is started."""

    def __init__(
        self,
        config: HostConfig,
        identity: Identity,
        transport: Transport,
        publish: Publish,
        *,
        labels: Callable[[], Mapping[str, str]],
        known_claims: KnownClaims,
    ) -> None:
        """``transport`` carries the questions; ``labels`` are those of the host at the moment of a question."""
        self._known_claims = known_claims
        self._config = config
        self.revocations = Revocations(
            [Revocation(id=each, reason="setting of this host") for each in config.revoked],
            config.state_dir / REMEMBERED,
        )
        self.expiry = ExpiryWatch(ClaimsClock(), publish, identity.host_id)
        self.halted = HaltedBook(publish, identity.host_id)
        self.service: PolicyService | None = None
        if config.policy is not None:

            def asker() -> Asker:
                return Asker(
                    public_key=identity.host_id,
                    issuer=identity.cluster.public,
                    lattice=config.lattice,
                    labels=labels(),
                    cluster_issuers=identity.issuers,
                )

            self.service = PolicyService(transport, config.policy, asker)
        self.gate = Gate(self.revocations, self.service, known_claims)

    def calls(self, directory: ActorDirectory) -> CallPolicy | None:
        """What is asked about calls of the actors in ``directory``; None where nobody is."""
        if self.service is None or not self.service.config.calls:
            return None
        return CallPolicy(self.service, directory, self._known_claims)

    async def open(self, parts: AsyncExitStack, state: LatticeState) -> None:
        """Know what is revoked, and listen for what changes; ``parts`` closes it again."""
        parts.callback(self.expiry.close)
        parts.push_async_callback(self.revocations.close)
        self.revocations.open(state)
        if self.service is not None:
            parts.push_async_callback(self.service.close)
            await self.service.open()

    def enforce(self, actors: ActorRegistry, providers: ProviderSupervisor) -> None:
        """From now on stop what runs and may not."""
        enforcement = Enforcement(actors, providers)
        self.revocations.on_revoked = enforcement.revoked
        if self.service is not None:
            self.service.on_withdrawn = enforcement.withdrawn
