"""Ends actors that may not run any more: their claims have expired, or somebody has decided so."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from lattice.background import Background
from lattice.claims import ActorClaims, ClaimsRefused, check_times
from wasmhost.actors.entry import ActorEntry
from wasmhost.calls.directory import RunningActor
from wasmhost.policy.expiry import ExpiryWatch
from wasmhost.policy.halted import EXPIRED, HaltedBook

log = structlog.get_logger()


class ActorHalts:
    """For the actors of one host."""

    def __init__(
        self,
        expiry: ExpiryWatch,
        halted: HaltedBook,
        *,
        find: Callable[[str], ActorEntry | None],
        lock: Callable[[str], asyncio.Lock],
        end: Callable[[ActorEntry, bool], Awaitable[None]],
    ) -> None:
        """``find`` and ``lock`` go by the actor's key; ``end`` stops all instances, at once if so told."""
        self._expiry = expiry
        self._halted = halted
        self._find = find
        self._lock = lock
        self._end = end
        self._work = Background()

    def started(self, entry: ActorEntry) -> None:
        """An actor runs, under new claims maybe: from now on their end is its end."""
        claims = entry.actor.claims
        self._halted.forget(claims.subject)

        def expired() -> None:
            try:
                check_times(claims, self._expiry.clock())
            except ClaimsRefused as error:
                self.halt(claims, problem=EXPIRED, error=str(error))

        self._expiry.watch(claims.subject, claims, expired)

    def ended(self, key: str) -> None:
        """An actor does not run any more."""
        self._expiry.forget(key)

    def halt(self, claims: ActorClaims, *, problem: str, error: str, at_once: bool = False) -> None:
        """Let what runs under these claims take no new call from now on, and begin to stop it.

        Calls in flight are finished first, within the drain time; with ``at_once`` they are given up. ``problem`` is
        one of the words of :mod:`wasmhost.policy.halted`, ``error`` tells users why.
        """
        entry = self._find(claims.subject)
        if entry is None or entry.actor.claims is not claims:
            return
        entry.actor.barred = error
        work = self._halt(entry, entry.actor, problem, error, at_once)
        self._work.begin(work, f"halt of {claims.subject}")

    def close(self) -> None:
        """The host ends everything itself."""
        self._work.cancel()

    async def _halt(self, entry: ActorEntry, actor: RunningActor, problem: str, error: str, at_once: bool) -> None:
        async with self._lock(actor.key):
            if self._find(actor.key) is not entry or entry.actor is not actor:
                return  # stopped, or updated to other claims
            log.warning("actor.halted", actor=actor.key, name=actor.claims.name, problem=problem, reason=error)
            self._halted.note(actor.claims, reference=actor.reference, problem=problem, error=error)
            await self._end(entry, at_once)
