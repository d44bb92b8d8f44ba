"""Asks a policy service, remembers what it says, and hears when it changes its mind.

Whatever is no clear permission is a refusal: no service, silence, an answer that cannot be read. Such refusals are not
remembered, so that the next attempt asks again. Source of subjects and texts: wasmcloud-otp
``host_core/lib/host_core/policy/manager.ex``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Final, TypeVar

import structlog

from lattice import subjects
from lattice.claims import ActorClaims, ProviderClaims
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized, Overloaded, Unreachable
from lattice.links import LinkDefinition
from lattice.policy import Action, Asker, Question, Source, Target, Verdict, encode_outcome
from lattice.transport import Headers, Subscription, Transport
from wasmhost.configuration.policy import PolicyConfig
from wasmhost.policy.decisions import Decision, DecisionBook

log = structlog.get_logger(__name__)

MOST_QUESTIONS: Final = 1000
"""Different questions that may wait for the service at one time."""
UNKNOWN_DELAY: Final = 0.25
"""Seconds after which a host that does not know a changed request says so: another one may know it."""

REJECTED: Final = "Policy evaluation rejected invocation attempt"
"""Classic words in front of the refusal of a call."""

K = TypeVar("K", bound=Hashable)

OnWithdrawn = Callable[[Action, str, str], None]
"""``(start action, public key, why)``: what was permitted to run is so no more."""


class PolicyService:
    """The questions of one host. :meth:`open` before asking."""

    def __init__(
        self,
        transport: Transport,
        config: PolicyConfig,
        asker: Callable[[], Asker],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``asker`` describes this host at the moment of its call; ``clock`` in seconds, never set back."""
        self.on_withdrawn: OnWithdrawn = lambda _action, _key, _why: None
        """Called when the service takes back the permission of something to run. Must not wait."""
        self.config = config
        self._transport = transport
        self._asker = asker
        self._clock = clock
        self._starts: DecisionBook[Question] = DecisionBook(config.lifetime)
        self._calls: DecisionBook[Hashable] = DecisionBook(config.lifetime)
        self._asking: dict[Hashable, asyncio.Task[Decision]] = {}
        self._changes: Subscription | None = None
        self._late: set[asyncio.TimerHandle] = set()

    async def open(self) -> None:
        """Listen for changes, if there is a subject for them."""
        if self.config.changes_topic:
            self._changes = await self._transport.subscribe(self.config.changes_topic, self._on_change)
        log.info(
            "policy.enforced",
            topic=self.config.topic,
            timeout_ms=round(self.config.timeout * 1000),
            calls=self.config.calls,
        )

    async def close(self) -> None:
        """Give up what is still asked for."""
        if self._changes is not None:
            with contextlib.suppress(LatticeError):
                await self._changes.unsubscribe()
        for handle in self._late:
            handle.cancel()
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def permit_actor(self, claims: ActorClaims) -> None:
        """Return if instances of this actor may start. Raises NotAuthorized."""
        target = Target(public_key=claims.subject, issuer=claims.issuer)
        await self._permit(Question(action=Action.START_ACTOR, target=target), "Starting actor denied")

    async def permit_provider(self, claims: ProviderClaims, link_name: str) -> None:
        """Return if this provider may start under this link name. Raises NotAuthorized."""
        target = Target(
            public_key=claims.subject, issuer=claims.issuer, contract_id=claims.contract_id, link_name=link_name
        )
        question = Question(action=Action.START_PROVIDER, target=target)
        await self._permit(question, f"Starting provider {claims.subject} denied")

    async def permit_link(self, link: LinkDefinition, actor: Mapping[str, str], provider: Mapping[str, str]) -> None:
        """Return if this actor may call this provider, whose claims as the lattice knows them are given.

        Raises NotAuthorized. The action is that of a call, since classic services know none for links.
        """
        source = Source(
            public_key=link.actor_id,
            capabilities=tuple(item for item in actor.get("caps", "").split(",") if item),
            issuer=actor.get("iss", ""),
        )
        target = Target(
            public_key=link.provider_id,
            issuer=provider.get("iss", ""),
            contract_id=link.contract_id,
            link_name=link.link_name,
        )
        question = Question(action=Action.PERFORM_INVOCATION, source=source, target=target)
        await self._permit(question, "Putting link denied")

    async def _permit(self, question: Question, words: str) -> None:
        decision = self._starts.find(question, self._clock())
        try:
            decision = decision or await self._answered(question, question, self._starts)
        except NotAuthorized as error:
            raise NotAuthorized(f"{words}: {error}") from error
        if not decision.permitted:
            raise NotAuthorized(f"{words}: {self._reason(decision)}")

    def decided(self, call: Hashable, question: Callable[[], Question]) -> bool:
        """Whether calls of this kind are known to be permitted; False: nothing is known. Never waits.

        ``call`` names the kind, ``question`` makes what the service is asked about it: only where the decision is about
        to age, so that nobody has to wait when it has. Raises NotAuthorized when they are known to be denied.
        """
        now = self._clock()
        found = self._calls.find(call, now)
        if found is None:
            return False
        if self._calls.is_ageing(found, now) and call not in self._asking:
            with contextlib.suppress(Overloaded):
                self._begin(call, question(), self._calls)
        if not found.permitted:
            raise NotAuthorized(f"{REJECTED}: {self._reason(found)}")
        return True

    async def permit_call(self, call: Hashable, question: Question) -> None:
        """Ask about calls of this kind, and return if they are permitted. Raises NotAuthorized and Overloaded."""
        try:
            decision = await self._answered(call, question, self._calls)
        except NotAuthorized as error:
            raise NotAuthorized(f"{REJECTED}: {error}") from error
        if not decision.permitted:
            raise NotAuthorized(f"{REJECTED}: {self._reason(decision)}")

    def _reason(self, decision: Decision) -> str:
        return decision.message or f"the policy service on {self.config.topic} gave no reason"

    async def _answered(self, key: K, question: Question, book: DecisionBook[K]) -> Decision:
        """What the service says now; those who ask the same meanwhile get the same answer."""
        return await asyncio.shield(self._asking.get(key) or self._begin(key, question, book))

    def _begin(self, key: K, question: Question, book: DecisionBook[K]) -> asyncio.Task[Decision]:
        if len(self._asking) >= MOST_QUESTIONS:
            raise Overloaded(f"{MOST_QUESTIONS} questions wait for the policy service on {self.config.topic} already")

        async def ask() -> Decision:
            decision = await self._ask(question)
            book.note(key, decision)
            return decision

        def end(task: asyncio.Task[Decision]) -> None:
            del self._asking[key]
            if not task.cancelled():
                task.exception()  # whoever asked has it; nobody may have waited

        task = self._asking[key] = asyncio.create_task(ask(), name="policy question")
        task.add_done_callback(end)
        return task

    async def _ask(self, question: Question) -> Decision:
        config, request_id = self.config, str(uuid.uuid4())
        waited = f"{round(config.timeout * 1000)} ms"
        try:
            payload = question.encode(request_id, self._asker(), time.time())
            reply = await self._transport.request(config.topic, payload, timeout=config.timeout)
            verdict = Verdict.decode(reply.payload)
            if verdict.request_id != request_id:
                raise MalformedMessage("policy decision: requestId is that of another request")
        except Unreachable as error:
            if error.code is Code.NO_RESPONDERS:
                text = "No responders to policy request (policy server not listening?): nobody listens on"
            elif error.code is Code.TIMED_OUT:
                text = "Policy request timed out: no answer from"
            else:
                text = "Policy request failed: there is no connection to"
            raise self._unanswered(question, f"{text} {config.topic} (waits {waited})") from error
        except MalformedMessage as error:
            text = f"Policy response failed to decode: {error} (from {config.topic})"
            raise self._unanswered(question, text) from error
        if not verdict.permitted:
            self._log_denial(question, verdict.message)
        return Decision(request_id, verdict.permitted, verdict.message, self._clock())

    def _unanswered(self, question: Question, text: str) -> NotAuthorized:
        self._log_denial(question, text)
        return NotAuthorized(f"{text}; see whether the policy service runs, nothing is permitted without it")

    def _log_denial(self, question: Question, reason: str) -> None:
        source = question.source.public_key if question.source is not None else ""
        log.warning(
            "policy.denied",
            action=question.action.value,
            source=source,
            target=question.target.public_key,
            reason=reason,
        )

    def _on_change(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        if reply and not subjects.is_inbox(reply):
            log.warning("policy.reply_refused", reply=reply[:200])
            return
        try:
            verdict = Verdict.decode(payload)
        except MalformedMessage as error:
            log.warning("policy.change_malformed", reason=str(error))
            self._answer(reply, success=False)
            return
        if self._change(verdict):
            self._answer(reply, success=True)
        elif reply:
            self._answer_late(reply)

    def _change(self, verdict: Verdict) -> bool:
        """Replace the decision of a request that this host made; False when it made none of that id."""
        said: dict[str, Any] = {"permitted": verdict.permitted, "message": verdict.message}
        now = self._clock()
        question = self._starts.override(verdict.request_id, now=now, **said)
        if question is not None:
            log.warning("policy.changed", target=question.target.public_key, action=question.action.value, **said)
            if not verdict.permitted and question.action is not Action.PERFORM_INVOCATION:
                why = verdict.message or "the policy service took its permission back"
                self.on_withdrawn(question.action, question.target.public_key, why)
            return True
        call = self._calls.override(verdict.request_id, now=now, **said)
        if call is not None:
            log.warning("policy.changed", call=str(call), action=Action.PERFORM_INVOCATION.value, **said)
        return call is not None

    def _answer_late(self, reply: str) -> None:
        """Say that the request is none of this host's, unless another host has said before that it is one of its."""

        def answer() -> None:
            self._late.discard(handle)
            self._answer(reply, success=False)

        handle: asyncio.TimerHandle = asyncio.get_running_loop().call_later(UNKNOWN_DELAY, answer)
        self._late.add(handle)

    def _answer(self, reply: str, *, success: bool) -> None:
        if reply:
            with contextlib.suppress(LatticeError):
                self._transport.publish(reply, encode_outcome(success))
