"""Asks the policy service about calls: which question a call is, and who is behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lattice.invocation import Entity
from lattice.policy import Action, Question, Source, Target
from wasmhost.calls.directory import ActorDirectory, RunningActor
from wasmhost.policy.service import PolicyService

Call = tuple[str, str, str, str, str]
"""Origin's key, link name and contract; target's key and account."""


class CallPolicy:
    """May this origin call this actor? Asked by the host that runs the actor, as on classic hosts."""

    def __init__(
        self,
        service: PolicyService,
        directory: ActorDirectory,
        known_claims: Callable[[str], Mapping[str, str] | None],
    ) -> None:
        """``known_claims`` is what the lattice knows of a public key."""
        self._service = service
        self._directory = directory
        self._known_claims = known_claims

    def decided(self, origin: Entity, actor: RunningActor) -> bool:
        """Whether the call is known to be permitted; False: ask with :meth:`permit`. Raises NotAuthorized.

        A few look-ups for what is known; never waits.
        """
        call = _call(origin, actor)
        return self._service.decided(call, lambda: self._question(origin, actor))

    async def permit(self, origin: Entity, actor: RunningActor) -> None:
        """Return if the call is permitted. Raises NotAuthorized, and Overloaded when too many questions wait."""
        if not self.decided(origin, actor):
            await self._service.permit_call(_call(origin, actor), self._question(origin, actor))

    def _question(self, origin: Entity, actor: RunningActor) -> Question:
        target = Target(public_key=actor.key, issuer=actor.claims.issuer)
        return Question(action=Action.PERFORM_INVOCATION, source=self._source(origin), target=target)

    def _source(self, origin: Entity) -> Source:
        key = origin.public_key
        running = self._directory.get(key)
        if running is not None:
            claims = running.claims
            return Source(
                public_key=key,
                capabilities=claims.capabilities,
                issuer=claims.issuer,
                issued_at=claims.issued_at,
                expires_at=claims.expires,
            )
        known = self._known_claims(key) or {}
        return Source(
            public_key=key,
            contract_id=origin.contract_id or None,
            link_name=origin.link_name or None,
            capabilities=tuple(item for item in known.get("caps", "").split(",") if item),
            issuer=known.get("iss", ""),
        )


def _call(origin: Entity, actor: RunningActor) -> Call:
    return origin.public_key, origin.link_name, origin.contract_id, actor.key, actor.claims.issuer
