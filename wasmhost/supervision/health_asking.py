"""Asking one process of a provider for its health, on a subject that all processes of that provider hear.

Those on our SDK answer only when they are meant. Classic ones answer whatever they hear, so that a new process seems to
be up as long as another host runs the same provider: then the answers are counted. Source: wasmCloud/weld
``rpc-rs/src/provider.rs``, which subscribes to ``health`` without a queue group, and does not read the question.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from enum import Enum, auto
from typing import Final

import structlog

from lattice import subjects
from lattice.errors import Code, MalformedMessage, NotAuthorized, Unreachable
from lattice.health import HealthQuestion, HealthReply
from lattice.transport import Transport

log = structlog.get_logger(__name__)

_ANSWER_WITHIN: Final = 0.3
"""Seconds in which processes answer that are counted."""
_LONGEST_START: Final = 6
"""Times the usual one."""


class Silence(Enum):
    """Why a question got no answer."""

    ABSENT = auto()
    """Nobody listens, or there is no connection."""
    MUTE = auto()
    """The question was delivered."""
    FORBIDDEN = auto()
    """The NATS user of this host may not ask, which the connection has told."""


class HealthAsking:
    """The questions to one process."""

    def __init__(
        self, transport: Transport, lattice: str, *, provider_id: str, link_name: str, instance_id: str
    ) -> None:
        self._transport = transport
        self._subject = subjects.health(lattice, provider_id, link_name)
        self._instance_id = instance_id
        self._question = HealthQuestion(instance_id).encode()
        self._company = False
        self._others = 0

    async def count_others(self) -> None:
        """Before a process in an archive is started: who of its kind answers already. At once when nobody listens."""
        answers = await self._answers()
        self._company = bool(answers)
        self._others = len(_nameless(answers))

    async def has_company(self) -> bool:
        """Whether several classic processes answer, so that nobody can say which of them heard what."""
        return len(_nameless(await self._answers())) > 1

    async def is_heard_elsewhere(self) -> bool:
        """Whether a process of another host answers, which keeps silent where this one is meant."""
        return any(health.instance_id not in ("", self._instance_id) for health in await self._answers())

    async def ask_newcomer(self, timeout: float) -> HealthReply | Silence:
        """As :meth:`ask`, of a process that may not be up yet: answers of those counted before are not its own."""
        if not self._company:
            return await self.ask(timeout)
        answers = await self._answers()
        if own := [health for health in answers if health.instance_id == self._instance_id]:
            return own[0]
        nameless = _nameless(answers)
        return nameless[-1] if len(nameless) > self._others else Silence.ABSENT

    async def ask(self, timeout: float) -> HealthReply | Silence:
        """One question, and what this very process said, as far as that can be told."""
        try:
            reply = await self._transport.request(self._subject, self._question, timeout=timeout)
        except Unreachable as error:
            return Silence.MUTE if error.code is Code.TIMED_OUT else Silence.ABSENT
        except NotAuthorized:
            return Silence.FORBIDDEN
        health = self._read(reply.payload)
        return Silence.ABSENT if health.instance_id not in ("", self._instance_id) else health

    async def anybody(self, timeout: float) -> Silence | None:
        """None when any process of this provider in the lattice answers, meant or not."""
        try:
            await self._transport.request(self._subject, b"", timeout=timeout)
        except Unreachable as error:
            return Silence.ABSENT if error.code is Code.NO_RESPONDERS else Silence.MUTE
        except NotAuthorized:
            return Silence.FORBIDDEN
        return None

    async def _answers(self) -> list[HealthReply]:
        """What all processes of this provider in the lattice say."""
        try:
            replies = await self._transport.gather(self._subject, b"", timeout=_ANSWER_WITHIN)
        except (Unreachable, NotAuthorized):
            return []
        return [self._read(reply.payload) for reply in replies]

    def _read(self, payload: bytes) -> HealthReply:
        try:
            return HealthReply.decode(payload)
        except MalformedMessage as error:
            log.warning("provider.health_malformed", subject=self._subject, error=str(error))
            return HealthReply(healthy=True)  # a classic host, too, counts any answer as a sign of life


def _nameless(answers: list[HealthReply]) -> list[HealthReply]:
    """Those of classic processes."""
    return [health for health in answers if not health.instance_id]


class Doubt:
    """Whether a classic process that seems to be up is: where two hosts start one of a kind at the same moment, the
    answers of the quicker one pass for those of the other."""

    def __init__(self, asking: HealthAsking, *, patience: float, over: bool) -> None:
        """``patience``: seconds that a process may usually take to come up. ``over``: there is no doubt."""
        self._asking = asking
        self._patience = patience
        self._begun = asyncio.get_running_loop().time()
        self._over = over

    def pause(self, seconds: float) -> float:
        """How long to wait for the next look: ``seconds``, unless there still is doubt."""
        return seconds if self._over else min(seconds, self._patience)

    async def look(self, repeat: Callable[[], Awaitable[None]]) -> None:
        """Await ``repeat()``, once, when there are several processes and all had time to come up."""
        age = asyncio.get_running_loop().time() - self._begun
        if self._over or age < self._patience:
            return
        if await self._asking.has_company():
            self._over = True
            await repeat()
        elif age > _LONGEST_START * self._patience:
            self._over = True
