"""What is done about what runs already when it may not run any more: revoked, or denied by the policy service."""

from __future__ import annotations

from lattice.policy import Action
from lattice.revocation import Revocation
from wasmhost.actors.registry import ActorRegistry
from wasmhost.policy.halted import DENIED, REVOKED
from wasmhost.policy.revocations import refusal
from wasmhost.supervision.supervisor import ProviderSupervisor


class Enforcement:
    """Stops what runs on one host."""

    def __init__(self, actors: ActorRegistry, providers: ProviderSupervisor) -> None:
        self._actors = actors
        self._providers = providers

    def revoked(self, entry: Revocation) -> None:
        """Stop everything that a new revocation covers, at once: calls in flight are given up."""
        for claims in self._actors.running_claims():
            if entry.covers(claims):
                self._actors.halts.halt(claims, problem=REVOKED, error=str(refusal(entry, claims)), at_once=True)
        for provider in list(self._providers):
            if entry.covers(provider.image.claims):
                self._providers.halt(provider, problem=REVOKED, error=str(refusal(entry, provider.image.claims)))

    def withdrawn(self, action: Action, key: str, why: str) -> None:
        """Stop what the policy service permits no more; calls in flight are finished."""
        if action is Action.START_ACTOR:
            for claims in self._actors.running_claims():
                if claims.subject == key:
                    self._actors.halts.halt(claims, problem=DENIED, error=f"Starting actor denied: {why}")
        elif action is Action.START_PROVIDER:
            for provider in list(self._providers):
                if provider.key[0] == key:
                    self._providers.halt(provider, problem=DENIED, error=f"Starting provider {key} denied: {why}")
