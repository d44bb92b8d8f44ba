"""Puts and removes links so that no request fails: the new provider is ready before anybody uses it.

The order for a changed link is: the new provider is told and says ready (for a bounded time), every host switches its
snapshot, calls in flight end, the old provider is told that its link is gone. Source: the architecture's promise on
relinking; the messages are those of classic hosts, which tell every provider of each change they see.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from lattice import bundled
from lattice.background import Background
from lattice.errors import LatticeError, Unreachable
from lattice.health import Condition
from lattice.links import LinkDefinition, LinkKey
from wasmhost.calls.holding import Holding
from wasmhost.knowledge.metadata import Metadata
from wasmhost.policy.gate import Gate
from wasmhost.supervision.link_telling import SETTLE
from wasmhost.supervision.supervisor import ProviderSupervisor

log = structlog.get_logger(__name__)

READY_TIMEOUT: Final = 1.5
"""How long the new provider of a changed link may take, in seconds: control clients wait 2 s for their answer."""
_STRANGER_TIMEOUT: Final = 0.8
"""The same for a provider that may not mean to answer: being told anew takes its time, too."""
_STRANGER_PATIENCE: Final = 0.5


class Linking:
    """Changes links and tells those who must know, whoever made the change."""

    def __init__(
        self,
        metadata: Metadata,
        supervisor: ProviderSupervisor,
        *,
        holding: Holding | None = None,
        gate: Gate | None = None,
        grace: float,
    ) -> None:
        """``holding``: the calls of this host's actors.

        ``grace``: seconds that calls in flight on the old provider of a changed link have to finish.
        """
        self._metadata = metadata
        self._supervisor = supervisor
        self._gate = gate or Gate()
        self._holding = holding or Holding()
        self._grace = grace
        self._turns: dict[LinkKey, _Turn] = {}
        self._leaving = Background()
        metadata.on_link_set = self._on_set
        metadata.on_link_deleted = self._on_deleted

    async def put(self, link: LinkDefinition) -> None:
        """Put a link, or change the one that it replaces.

        Raises LatticeError when it is malformed, not permitted or not stored.
        """
        link.check().check_size()
        async with self._turn(link.key):
            present = await self._metadata.stored_link(link.key)
            if present == link:
                return
            await self._gate.permit_link(link)
            stored = False
            try:
                answered = present is None or await self._prepare(link, present)
                async with contextlib.nullcontext() if answered else self._told_anew(link):
                    await self._metadata.put_link(link)
                    stored = True
            except (LatticeError, asyncio.CancelledError):
                if not stored:
                    self._undo(link, present)
                raise

    async def delete(self, key: LinkKey) -> None:
        """Remove a link; one that is not there is no error."""
        async with self._turn(key):
            await self._metadata.delete_link(key)

    async def close(self) -> None:
        """Stop waiting for calls on replaced links; other hosts, and the end of this one, tell those providers too."""
        await self._leaving.end()

    async def _prepare(self, link: LinkDefinition, present: LinkDefinition) -> bool:
        """Have the provider of ``link`` ready before it replaces ``present``; it has no veto.

        False when it knows the link with the values of ``present`` and may never answer: a classic provider, run by a
        host that is none of ours.
        """
        ours = self._supervisor.find(link.provider_id, link.link_name) or bundled.by_key(link.provider_id)
        try:
            async with asyncio.timeout(READY_TIMEOUT if ours else _STRANGER_TIMEOUT):
                status = await self._supervisor.put_link(link)
        except TimeoutError:
            status = None
        except Unreachable:
            if link.provider_id != present.provider_id:  # else the link that it replaces served nobody either
                _warn(link, "the provider runs nowhere")
            return True
        if status is None and not ours and link.provider_id == present.provider_id:
            return False
        if status is None or status.state is not Condition.READY:
            _warn(link, "no answer" if status is None else f"{status.state}: {status.reason}")
        return True

    @contextlib.asynccontextmanager
    async def _told_anew(self, link: LinkDefinition) -> AsyncIterator[None]:
        """Take a link from a provider that ignores other values for it; storing them tells it the link again."""
        path = link.actor_id, link.provider_id, link.link_name
        async with self._holding.held(path, patience=_STRANGER_PATIENCE):
            self._supervisor.delete_link(link)
            await asyncio.sleep(SETTLE)
            yield
            await asyncio.sleep(SETTLE)

    def _undo(self, link: LinkDefinition, present: LinkDefinition | None) -> None:
        """The change could not be stored: what the provider was told of it is taken back."""
        if present is None:
            return
        if link.provider_id == present.provider_id:
            self._supervisor.push_link(present)
        else:
            self._supervisor.delete_link(link)

    def _on_set(self, link: LinkDefinition, previous: LinkDefinition | None) -> None:
        self._supervisor.push_link(link)
        if previous is not None and previous.provider_id != link.provider_id:
            self._leaving.begin(self._let_go(link, previous), "link grace")

    def _on_deleted(self, link: LinkDefinition) -> None:
        self._supervisor.delete_link(link)

    async def _let_go(self, link: LinkDefinition, previous: LinkDefinition) -> None:
        """Delete a replaced link at its old provider once its calls had time to end, unless it came back meanwhile."""
        await asyncio.sleep(self._grace)
        current = self._metadata.links.resolve(*previous.key)
        if current is not None and current.provider_id == previous.provider_id:
            return
        self._supervisor.delete_link(previous)
        if current == link:
            self._supervisor.push_link(link)  # it may have waited for what the old one held, a port for example

    @contextlib.asynccontextmanager
    async def _turn(self, key: LinkKey) -> AsyncIterator[None]:
        """Changes of one link happen one after another, in the order in which they were asked for."""
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if not turn.users:
                self._turns.pop(key, None)


def _warn(link: LinkDefinition, reason: str) -> None:
    log.warning(
        "link.replaced_before_ready",
        actor=link.actor_id,
        provider=link.provider_id,
        contract=link.contract_id,
        link_name=link.link_name,
        reason=reason,
    )


@dataclass(slots=True)
class _Turn:
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
