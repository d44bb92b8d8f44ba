"""May what is signed and trusted run here now? Asked before each start, scale-up, update and new link."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lattice.claims import ActorClaims, ProviderClaims
from lattice.links import LinkDefinition
from wasmhost.policy.revocations import Revocations
from wasmhost.policy.service import PolicyService

KnownClaims = Callable[[str], Mapping[str, str] | None]
"""What the lattice knows of a public key."""


class Gate:
    """First the list of revocations, then the policy service, if there is one."""

    def __init__(
        self,
        revocations: Revocations | None = None,
        service: PolicyService | None = None,
        known_claims: KnownClaims = lambda _key: None,
    ) -> None:
        self.revocations = revocations or Revocations()
        self._service = service
        self._known_claims = known_claims

    async def permit_actor(self, claims: ActorClaims) -> None:
        """Return if instances of this actor may start. Raises NotAuthorized, ClaimsRefused for what was revoked."""
        self.revocations.check(claims)
        if self._service is not None:
            await self._service.permit_actor(claims)

    async def permit_provider(self, claims: ProviderClaims, link_name: str) -> None:
        """As :meth:`permit_actor`, for a provider under a link name."""
        self.revocations.check(claims)
        if self._service is not None:
            await self._service.permit_provider(claims, link_name)

    async def permit_link(self, link: LinkDefinition) -> None:
        """Return if the actor of a link may call its provider. Raises NotAuthorized."""
        if self._service is not None and self._service.config.links:
            await self._service.permit_link(
                link, self._known_claims(link.actor_id) or {}, self._known_claims(link.provider_id) or {}
            )
