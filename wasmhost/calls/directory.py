"""The actors that run on this host, as the data path sees them: dictionary look-ups, nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lattice.claims import ActorClaims
from lattice.invocation import Entity
from wasmhost.guest.pool import ActorPool


@dataclass(eq=False, slots=True)
class RunningActor:
    """One actor of this host: what it may do and the instances that do it."""

    claims: ActorClaims
    reference: str
    """The image reference as typed by whoever started it."""
    digest: str
    pool: ActorPool
    key: str = field(init=False)
    entity: Entity = field(init=False)
    capabilities: frozenset[str] = field(init=False)
    """Contracts granted by the claims; empty texts, which real files hold, grant nothing."""
    barred: str = ""
    """Why it takes no new calls; empty while it does."""

    def __post_init__(self) -> None:
        self.key = self.claims.subject
        self.entity = Entity.actor(self.claims.subject)
        self.capabilities = frozenset(contract for contract in self.claims.capabilities if contract)


class ActorDirectory:
    """Running actors by public key and by call alias. An alias belongs to the first actor that came with it."""

    def __init__(self) -> None:
        self._by_key: dict[str, RunningActor] = {}
        self._by_alias: dict[str, RunningActor] = {}

    def get(self, key: str) -> RunningActor | None:
        return self._by_key.get(key)

    def resolve_alias(self, alias: str) -> RunningActor | None:
        return self._by_alias.get(alias)

    def add(self, actor: RunningActor) -> bool:
        """Make ``actor`` known; False when its call alias already belongs to another actor."""
        self._by_key[actor.key] = actor
        alias = actor.claims.call_alias
        return not alias or self._by_alias.setdefault(alias, actor) is actor

    def replace(self, old: RunningActor, new: RunningActor) -> bool:
        """Put the updated ``new`` into the place of ``old``, in one step; False as for :meth:`add`."""
        alias = new.claims.call_alias
        if alias and self._by_alias.get(alias) is old:
            self._by_key[new.key] = self._by_alias[alias] = new
            return True
        self.remove(old)
        return self.add(new)

    def remove(self, actor: RunningActor) -> None:
        """Forget ``actor``; its alias passes on to the next running actor that has the same one."""
        if self._by_key.get(actor.key) is actor:
            del self._by_key[actor.key]
        alias = actor.claims.call_alias
        if alias and self._by_alias.get(alias) is actor:
            del self._by_alias[alias]
            for other in self._by_key.values():
                if other.claims.call_alias == alias:
                    self._by_alias[alias] = other
                    break

    def __iter__(self) -> Iterator[RunningActor]:
        return iter(tuple(self._by_key.values()))

    def __len__(self) -> int:
        return len(self._by_key)
