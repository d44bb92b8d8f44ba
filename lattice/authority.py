"""Which key may sign calls of which origin.

A cluster key in the list of issuers signs for anybody. All other keys stand for one origin: those derived from a
cluster key whose seed this process holds, and those that another cluster has delegated (:mod:`lattice.delegation`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Final

from lattice.invocation import Entity
from lattice.keys import KeyPair, derive

_LONGEST_ORIGIN: Final = 512
_MOST_DERIVED: Final = 4096
_MOST_EARLIER: Final = 16
"""Revoked keys of one provider that are looked at to say why a call was refused."""


@dataclass(frozen=True, slots=True)
class Delegation:
    """A key of another cluster that may sign for one provider only."""

    provider: str
    link_name: str
    expires: float | None = None
    """Unix time after which it no longer may."""


class DerivedKeys:
    """The keys that stand for one origin each, derived from cluster keys that are known with their seeds."""

    def __init__(
        self, clusters: Collection[KeyPair], lattice: str, generation: Callable[[str, str], int] | None = None
    ) -> None:
        """``generation(provider, link name)`` is the current generation of a provider's key, 0 without it."""
        self._clusters = tuple(clusters)
        self._lattice = lattice
        self._generation = generation or (lambda _provider, _link_name: 0)
        self._known: dict[tuple[str, str, str, int], frozenset[str]] = {}
        self._owners: dict[str, tuple[str, str]] = {}

    def permit(self, issuer: str, origin: Entity) -> bool:
        """Whether ``issuer`` is a key of ``origin``.

        The next generation of a provider's key is accepted, too: nobody has it before the present one is revoked, and
        then it may be in use before this host has heard of that.
        """
        if not origin.is_provider:
            return issuer in self._keys("client", origin.public_key, "", 0)
        provider, link_name = origin.public_key, origin.link_name
        now = self._generation(provider, link_name)
        return issuer in self._keys("provider", provider, link_name, now) or issuer in self._keys(
            "provider", provider, link_name, now + 1
        )

    def is_revoked(self, issuer: str, origin: Entity) -> bool:
        """Whether ``issuer`` once was the key of this provider."""
        if not origin.is_provider:
            return False
        provider, link_name = origin.public_key, origin.link_name
        now = self._generation(provider, link_name)
        earlier = range(max(0, now - _MOST_EARLIER), now)
        return any(issuer in self._keys("provider", provider, link_name, number) for number in earlier)

    def owner(self, issuer: str) -> tuple[str, str] | None:
        """Subject and link name of a derived key, as far as it was derived here lately."""
        return self._owners.get(issuer)

    def _keys(self, purpose: str, subject: str, link_name: str, number: int) -> frozenset[str]:
        wanted = (purpose, subject, link_name, number)
        found = self._known.get(wanted)
        if found is None:
            if len(self._known) >= _MOST_DERIVED:
                self._known.clear()
                self._owners.clear()
            found = self._known[wanted] = frozenset(
                derive(
                    cluster,
                    lattice=self._lattice,
                    purpose=purpose,
                    subject=subject,
                    link_name=link_name,
                    generation=number,
                ).public
                for cluster in self._clusters
            )
            self._owners |= dict.fromkeys(found, (subject, link_name))
        return found


class Authority:
    """Which issuers may sign for which origin. Immutable: who learns or forgets an issuer makes a new one.

    A static issuer signs for anybody. A provider's derived key signs only for that provider and link name, a client's
    only for an origin that claims to be neither an actor nor a provider.
    """

    def __init__(
        self,
        issuers: Collection[str],
        delegated: Mapping[str, Delegation] | None = None,
        *,
        derived: DerivedKeys | None = None,
        removed: Collection[str] = (),
    ) -> None:
        """``removed`` were issuers once; refusals say so."""
        self.issuers = frozenset(issuers)
        self.delegated: Mapping[str, Delegation] = delegated or {}
        self._derived = derived
        self._removed = frozenset(removed) - self.issuers

    @classmethod
    def for_host(
        cls,
        cluster: KeyPair,
        issuers: Collection[str] = (),
        lattice: str = "default",
        *,
        further: Collection[KeyPair] = (),
        delegated: Mapping[str, Delegation] | None = None,
        generation: Callable[[str, str], int] | None = None,
        removed: Collection[str] = (),
    ) -> Authority:
        """The authority of a host of this cluster: it recognises every key derived from the cluster seed.

        ``further`` are cluster keys that are coming or going, whose derived keys are recognised as well.
        ``generation(provider, link name)`` is the current generation of a provider's key (0 without it); raising it
        revokes the key that was handed out before.
        """
        own = {key.public: key for key in (cluster, *further)}
        derived = DerivedKeys(own.values(), lattice, generation)
        return cls({*own, *issuers}, delegated, derived=derived, removed=removed)

    def permits(self, issuer: str, origin: Entity, now: float = 0.0) -> bool:
        """Whether ``issuer`` may sign calls of ``origin`` at Unix time ``now``; says nothing about the signature."""
        if issuer in self.issuers:
            return True
        delegation = self.delegated.get(issuer)
        if delegation is not None:
            return (
                delegation.provider == origin.public_key
                and delegation.link_name == origin.link_name
                and (delegation.expires is None or now <= delegation.expires)
            )
        # an actor never signs for itself; long texts are not worth a derivation
        if self._derived is None or origin.is_actor or len(origin.packed) > _LONGEST_ORIGIN:
            return False
        return self._derived.permit(issuer, origin)

    def objection(self, issuer: str, origin: Entity) -> str:
        """Why a key that is known here may not sign for ``origin``; empty for one that nobody here knows."""
        if issuer in self._removed:
            return "this cluster key was removed from the issuers"
        delegation = self.delegated.get(issuer)
        if delegation is not None:
            if (delegation.provider, delegation.link_name) == (origin.public_key, origin.link_name):
                return "the delegation of this key has expired"
            return _signs_for(delegation.provider, delegation.link_name)
        if self._derived is None or len(origin.packed) > _LONGEST_ORIGIN:
            return ""
        if self._derived.is_revoked(issuer, origin):
            return "this key of the provider was revoked"
        owner = self._derived.owner(issuer)
        return _signs_for(*owner) if owner else ""


def _signs_for(subject: str, link_name: str) -> str:
    return f"this key signs for {subject[:60]}{f' on {link_name[:60]}' if link_name else ''} only"
