"""Telling one provider process of its links, in the way it understands.

Providers on our SDK answer each link message and take other values for a link they know. Classic ones answer nothing,
keep one link per actor, ignore a put for an actor they know, and handle puts and removals in two tasks of their own:
a put on the heels of a removal may overtake it and be lost. Source: wasmCloud/weld ``rpc-rs/src/provider.rs``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Coroutine, Iterable
from typing import Any, Final, Protocol, TypeVar

import structlog

from lattice import subjects
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized, Unreachable
from lattice.health import Condition, LinkStatus
from lattice.links import MEANT, LinkDefinition
from lattice.transport import Transport
from wasmhost.calls.holding import Holding

log = structlog.get_logger(__name__)

T = TypeVar("T")

SETTLE: Final = 0.1
"""Seconds that a classic provider gets to handle a link message before the next one is sent."""
LET_FINISH: Final = 1.0
"""Seconds that calls in flight get before their link is taken away, to be put back with other values."""


class LinkTeller(Protocol):
    """Tells one process, once it is up."""

    async def put(self, link: LinkDefinition) -> LinkStatus | None:
        """Tell of a new or changed link; how that went, None when the process did not say in time."""

    async def delete(self, link: LinkDefinition) -> None:
        """Tell that a link is gone."""

    async def catch_up(self, links: Iterable[LinkDefinition]) -> dict[str, LinkStatus | None]:
        """Make the process, which knows the links of its host data, know these; how that went, by actor."""

    async def repeat(self) -> None:
        """Tell once more of what changed since the process began to start: others may have answered for it."""

    async def make_up_for(self, links: Iterable[LinkDefinition], reported: Collection[str]) -> None:
        """Tell again, while it answers, what it did not hear, its connection having been away for example.

        ``links`` are those that it should know, ``reported`` the actors of which it says that they are linked.
        """

    def close(self) -> None:
        """The process is gone: give up what is being told."""


class OwnLinks:
    """Tells a provider that answers."""

    def __init__(
        self, transport: Transport, lattice: str, *, instance_id: str, known: Iterable[LinkDefinition], timeout: float
    ) -> None:
        """``known``: the links in its host data. ``timeout``: seconds that it may take to answer."""
        self._instance_id = instance_id
        self._transport = transport
        self._lattice = lattice
        self._at_start = {link.actor_id: link for link in known}
        self._timeout = timeout
        self._unanswered: set[str] = set()
        """Actors of whose link the last put brought no answer."""
        self._removed: dict[str, LinkDefinition] = {}
        """By actor, the links that it was told are gone, until it is known to have heard that."""

    async def put(self, link: LinkDefinition) -> LinkStatus | None:
        self._removed.pop(link.actor_id, None)
        status = await request_link(self._transport, self._lattice, link, self._timeout, meant=self._instance_id)
        if status is None:
            self._unanswered.add(link.actor_id)
        else:
            self._unanswered.discard(link.actor_id)
        return status

    async def delete(self, link: LinkDefinition) -> None:
        self._unanswered.discard(link.actor_id)
        self._removed[link.actor_id] = link
        publish_removal(self._transport, self._lattice, link)

    async def make_up_for(self, links: Iterable[LinkDefinition], reported: Collection[str]) -> None:
        wanted = {link.actor_id: link for link in links}
        for actor, link in list(self._removed.items()):
            if actor in reported and actor not in wanted:
                publish_removal(self._transport, self._lattice, link, meant=self._instance_id)
            else:
                del self._removed[actor]
        # Once is enough, as it answers just now: a link that is slow to fail must not be tried again and again.
        unanswered, self._unanswered = self._unanswered, set()
        await asyncio.gather(*(self._tell_again(wanted[actor]) for actor in unanswered if actor in wanted))

    async def _tell_again(self, link: LinkDefinition) -> None:
        try:
            await ask_link(self._transport, self._lattice, link, SETTLE, meant=self._instance_id)
        except Unreachable:
            self._unanswered.add(link.actor_id)

    async def catch_up(self, links: Iterable[LinkDefinition]) -> dict[str, LinkStatus | None]:
        wanted = {link.actor_id: link for link in links}
        for actor, link in self._at_start.items():
            if actor not in wanted:
                await self.delete(link)
        # also those that it knows: the answer is the first that is heard of their state
        answers = await asyncio.gather(*(self.put(link) for link in wanted.values()))
        return dict(zip(wanted, answers, strict=True))

    async def repeat(self) -> None:
        pass  # it answered itself

    def close(self) -> None:
        pass


class ClassicLinks:
    """Tells a provider that says nothing: of each actor one message at a time, each with time to be handled."""

    def __init__(
        self, transport: Transport, lattice: str, *, known: Iterable[LinkDefinition], holding: Holding
    ) -> None:
        self._transport = transport
        self._lattice = lattice
        self._holding = holding
        self._known = {link.actor_id: link for link in known}
        """What it was told last, as far as that was delivered."""
        self._told: dict[str, LinkDefinition] = {}
        """By actor, the links of which it was told since it began to start, also that they are gone."""
        self._missed: dict[str, LinkDefinition] = {}
        """By actor, the links whose last message nobody heard."""
        self._turns: dict[str, asyncio.Lock] = {}
        self._telling: set[asyncio.Task[Any]] = set()

    async def put(self, link: LinkDefinition) -> LinkStatus | None:
        return await self._to_its_end(self._put(link))

    async def delete(self, link: LinkDefinition) -> None:
        await self._to_its_end(self._delete(link))

    async def _to_its_end(self, work: Coroutine[Any, Any, T]) -> T:
        """Do ``work`` in a task of its own: a removal must be followed by its put, whoever gives up waiting here.

        All work takes this way, so that it begins in the order in which it was asked for.
        """
        task = asyncio.create_task(work)
        self._telling.add(task)
        task.add_done_callback(self._telling.discard)
        return await asyncio.shield(task)

    def close(self) -> None:
        for task in self._telling:
            task.cancel()

    def _turn(self, actor_id: str) -> asyncio.Lock:
        return self._turns.setdefault(actor_id, asyncio.Lock())

    async def _put(self, link: LinkDefinition) -> LinkStatus:
        async with self._turn(link.actor_id):
            known = self._known.get(link.actor_id)
            if known == link:
                return LinkStatus(Condition.READY)
            if known is None:
                return await self._tell(link)
            return await self._replace(known, link)

    async def _replace(self, known: LinkDefinition, link: LinkDefinition) -> LinkStatus:
        path = link.actor_id, link.provider_id, link.link_name
        async with self._holding.held(path, patience=LET_FINISH):
            await self._take_away(known)
            return await self._tell(link)

    async def _delete(self, link: LinkDefinition) -> None:
        async with self._turn(link.actor_id):
            if link.actor_id in self._known:
                await self._take_away(link)

    async def repeat(self) -> None:
        await asyncio.gather(*(self._to_its_end(self._repeat(actor_id)) for actor_id in list(self._told)))

    async def _repeat(self, actor_id: str) -> None:
        async with self._turn(actor_id):
            link = self._known.get(actor_id)
            if link is not None:
                await self._replace(link, link)
            else:
                await self._take_away(self._told[actor_id])

    async def make_up_for(self, links: Iterable[LinkDefinition], reported: Collection[str]) -> None:
        wanted = {link.actor_id: link for link in links}
        missed, self._missed = self._missed, {}
        await asyncio.gather(
            *(self.put(wanted[actor]) if actor in wanted else self.delete(link) for actor, link in missed.items())
        )

    async def catch_up(self, links: Iterable[LinkDefinition]) -> dict[str, LinkStatus | None]:
        wanted = {link.actor_id: link for link in links}
        gone = [link for actor, link in self._known.items() if actor not in wanted]
        await asyncio.gather(*(self.delete(link) for link in gone))
        answers = await asyncio.gather(*(self.put(link) for link in wanted.values()))
        return dict(zip(wanted, answers, strict=True))

    async def _tell(self, link: LinkDefinition) -> LinkStatus:
        subject = subjects.linkdef_put(self._lattice, link.provider_id, link.link_name)
        try:
            delivered, answer = await self._send(subject, link)
        except NotAuthorized as error:
            return LinkStatus(Condition.FAILED, str(error))
        if delivered:
            self._known[link.actor_id] = link
        try:
            return LinkStatus.decode(answer) if answer else LinkStatus(Condition.READY)
        except MalformedMessage:
            return LinkStatus(Condition.READY)

    async def _take_away(self, link: LinkDefinition) -> None:
        try:
            delivered, _ = await self._send(subjects.linkdef_del(self._lattice, link.provider_id, link.link_name), link)
        except NotAuthorized:
            return  # of this host, which the connection has told
        if delivered:
            self._known.pop(link.actor_id, None)

    async def _send(self, subject: str, link: LinkDefinition) -> tuple[bool, bytes]:
        """Whether anybody listened, and what was said: nothing, as a rule, so that this takes the whole time."""
        self._told[link.actor_id] = link
        try:
            reply = await self._transport.request(subject, link.encode(), timeout=SETTLE)
        except Unreachable as error:
            if error.code is not Code.TIMED_OUT:
                self._missed[link.actor_id] = link
                return False, b""
            answer = b""
        else:
            answer = reply.payload
        self._missed.pop(link.actor_id, None)
        return True, answer


async def request_link(
    transport: Transport, lattice: str, link: LinkDefinition, timeout: float, *, meant: str = ""
) -> LinkStatus | None:
    """Send a link to its provider, wherever that runs; None when nobody said how it went within ``timeout``.

    ``meant``: the instance ID of the one process that shall answer; without it the first answer counts.
    """
    try:
        return await ask_link(transport, lattice, link, timeout, meant=meant)
    except Unreachable:
        return None


async def ask_link(
    transport: Transport, lattice: str, link: LinkDefinition, timeout: float, *, meant: str = ""
) -> LinkStatus | None:
    """As :func:`request_link`; raises Unreachable when the provider runs nowhere."""
    subject = subjects.linkdef_put(lattice, link.provider_id, link.link_name)
    try:
        headers = {MEANT: meant} if meant else None
        reply = await transport.request(subject, link.encode(), timeout=timeout, headers=headers)
        return LinkStatus.decode(reply.payload)
    except Unreachable as error:
        if error.code is Code.NO_RESPONDERS:
            raise
        return None
    except NotAuthorized as error:  # this host may not tell the provider
        return LinkStatus(Condition.FAILED, str(error))
    except MalformedMessage as error:
        log.warning("link.answer_malformed", provider=link.provider_id, error=str(error))
        return None


def publish_removal(transport: Transport, lattice: str, link: LinkDefinition, *, meant: str = "") -> None:
    """Tell all providers of that key and link name that a link is gone, or the one of an instance ID; never raises."""
    subject = subjects.linkdef_del(lattice, link.provider_id, link.link_name)
    try:
        transport.publish(subject, link.encode(), headers={MEANT: meant} if meant else None)
    except LatticeError as error:
        log.warning("link.delete_not_sent", provider=link.provider_id, actor=link.actor_id, reason=str(error))
