"""Hop 1 of a call: a message on an actor's subject becomes a verified guest call, and its outcome the answer.

The usual call is decoded, verified, run and answered inside the transport's callback, without a task: the guest
finishes in one poll. Only a call that waits, for a host call, for a free instance or for a payload in the object store,
gets a task.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, Final

import structlog

from lattice import subjects
from lattice.chunks import EXTRA_TIME, Chunks, Digest
from lattice.errors import Code, LatticeError, MalformedMessage, Overloaded, TooLarge, Unreachable
from lattice.invocation import Invocation, InvocationResponse
from lattice.rpc import failure, remaining, respond, store_answer
from lattice.standstill import stood_still
from lattice.transport import Headers, Subscription, Transport
from wasmhost.budget import Budget
from wasmhost.calls import call_log
from wasmhost.calls.admission import Admission
from wasmhost.calls.call_events import CallEvents
from wasmhost.calls.directory import RunningActor
from wasmhost.calls.spies import Spies
from wasmhost.guest.calls import CallContext, GuestCall
from wasmhost.policy.calls import CallPolicy

log = structlog.get_logger()

MOST_FETCHED: Final = 256 * 1024 * 1024
"""Bytes of arguments from the object store that the calls of one actor may hold; beyond, calls are refused."""
_LAST_ANSWERS: Final = 0.5
UNKNOWN_ID: Final = "UNKNOWN"
"""Stands for the id of an invocation that could not be read. Source: classic Rust hosts."""


class Inbound:
    """Serves the subject of one actor, in the queue group that all hosts with this actor share."""

    def __init__(
        self,
        actor: RunningActor,
        *,
        transport: Transport,
        chunks: Chunks,
        lattice: str,
        admission: Admission,
        default_timeout: float,
        longest_timeout: float,
        refusals: Budget | None = None,
        spies: Spies | None = None,
        call_events: CallEvents | None = None,
        policy: CallPolicy | None = None,
        trace: bool = False,
    ) -> None:
        """Durations in seconds: ``default_timeout`` for a call that names no deadline, ``longest_timeout`` whatever it
        names. ``call_events`` are told of every call, ``policy`` is asked about it, if given; ``trace``: log every call
        at debug level.
        """
        self._policy = policy
        self._call_events = call_events
        self._actor = actor
        self._transport = transport
        self._chunks = chunks
        self._fetched = 0
        self._subject = subjects.actor_rpc(lattice, actor.key)
        self._admission = admission
        self._default_timeout = default_timeout
        self._longest_timeout = longest_timeout
        self._refusals = refusals or Budget(per_second=10, burst=20)
        self._spies = spies or Spies()
        self._trace = trace
        self._subscription: Subscription | None = None
        self._calls: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def active(self) -> int:
        """Calls that were let in and are not answered yet."""
        return len(self._calls)

    def serve(self, actor: RunningActor) -> None:
        """Hand calls to ``actor``, an update of the one before, from the next message on."""
        self._actor = actor

    async def start(self) -> None:
        """Join the queue group; returns when the server knows it."""
        # the queue group is named like the subject in every classic host: that is what balances between them
        self._subscription = await self._transport.subscribe(self._subject, self.on_message, queue=self._subject)

    async def drain(self) -> None:
        """Leave the queue group, then return when every call that had been let in is answered."""
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            try:
                await subscription.unsubscribe()
            except LatticeError as exc:
                # without a connection nothing arrives any more; the calls in flight still count
                log.warning("inbound.unsubscribe_failed", actor=self._actor.key, error=str(exc))
        while self._calls:
            await asyncio.wait(self._calls)

    async def close(self) -> None:
        """Leave the queue group and give up the calls in flight; those that have ended are still answered."""
        if self._calls:
            await asyncio.wait(self._calls, timeout=_LAST_ANSWERS)
        for task in self._calls:
            task.cancel()
        await self.drain()

    def on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        """Called by the transport for each message; never raises, never waits."""
        if reply and not subjects.is_inbox(reply):
            # answering would let a sender without any right to it publish on that subject through us
            self._note_refusal("the reply subject is no inbox", reply=reply[:200])
            return
        invocation: Invocation | None = None
        call: GuestCall | None = None
        try:
            invocation = self._read(payload)
            if self._spies.active and not invocation.chunked:
                self._mirror(invocation, invocation.msg)
            if self._call_events is not None:
                self._call_events.begin(invocation)
            if invocation.chunked:
                self._spawn(self._begin_chunked(invocation, headers, reply))
                return
            if self._policy is None:
                call = self._begin(invocation, headers)
            elif (call := self._begin_permitted(self._policy, invocation, headers, reply)) is None:
                return
            if call.done:
                self._succeed(reply, invocation, call, call.result(), self._until(headers))
                return
        except Exception as exc:
            if self._spies.active and invocation is not None and invocation.chunked:
                self._mirror(invocation, b"")  # refused unread
            self._fail(reply, invocation, exc, call)
            return
        self._spawn(self._finish(call, reply, invocation, self._until(headers)))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    @staticmethod
    def _read(payload: bytes) -> Invocation:
        try:
            return Invocation.decode(payload)
        except MalformedMessage as exc:
            raise MalformedMessage(f"Failed to deserialize invocation: {exc}") from exc

    def _begin(self, invocation: Invocation, headers: Headers) -> GuestCall:
        allowed = self._allowed(headers, len(invocation.msg))
        self._admission.admit(invocation, self._actor)
        context = CallContext(deadline=self._loop.time() + allowed, invocation_id=invocation.id)
        return self._actor.pool.begin(invocation.operation, invocation.msg, context)

    def _begin_permitted(
        self, policy: CallPolicy, invocation: Invocation, headers: Headers, reply: str
    ) -> GuestCall | None:
        """As :meth:`_begin` where calls need a permission; None while it is asked for.

        Only for calls that are sound, so that nobody else can have us ask.
        """
        deadline = self._loop.time() + self._allowed(headers, len(invocation.msg))
        self._admission.admit(invocation, self._actor)
        if not policy.decided(invocation.origin, self._actor):
            self._spawn(self._ask_and_run(policy, invocation, deadline, self._until(headers), reply))
            return None
        context = CallContext(deadline=deadline, invocation_id=invocation.id)
        return self._actor.pool.begin(invocation.operation, invocation.msg, context)

    async def _ask_and_run(
        self, policy: CallPolicy, invocation: Invocation, deadline: float, until: float, reply: str
    ) -> None:
        try:
            await self._ask(policy, invocation, deadline)
            actor = self._actor  # maybe an update of the one that the call was let in for
            self._admission.authorise(invocation, actor)
            context = CallContext(deadline=deadline, invocation_id=invocation.id)
            call = actor.pool.begin(invocation.operation, invocation.msg, context)
        except Exception as exc:
            self._fail(reply, invocation, exc)
        else:
            await self._finish(call, reply, invocation, until)

    async def _ask(self, policy: CallPolicy, invocation: Invocation, deadline: float) -> None:
        try:
            async with asyncio.timeout_at(deadline):
                await policy.permit(invocation.origin, self._actor)
        except TimeoutError:
            raise Unreachable(
                "the call's time ran out before the policy service answered", code=Code.TIMED_OUT
            ) from None

    def _allowed(self, headers: Headers, size: int, more: float = 0.0) -> float:
        """Seconds for a call of ``size`` bytes, ``more`` than usual where its caller does not say how long it waits.

        Raises Unreachable and Overloaded: said before the signature is looked at, which costs more than all the rest.
        """
        allowed = min(remaining(headers, self._default_timeout + more), self._longest_timeout + more)
        if allowed <= 0:
            raise Unreachable("the caller had given up before the call began", code=Code.TIMED_OUT)
        if (behind := self._transport.behind()) >= allowed:
            raise stood_still("this host", behind)
        if (refusal := self._actor.pool.refusal(size, allowed)) is not None:
            raise refusal  # under overload most calls end here
        return allowed

    def _until(self, headers: Headers) -> float:
        """The ``loop.time()`` at which the caller of a message that came just now gives up; infinite if not told."""
        return self._loop.time() + remaining(headers, math.inf)

    def _begin_chunked(self, invocation: Invocation, headers: Headers, reply: str) -> Coroutine[Any, Any, None]:
        """Everything that can refuse a call before its argument is fetched; the rest of the call."""
        length = invocation.content_length or 0
        limit = self._actor.pool.limits.request
        if length > limit:
            raise TooLarge(
                f"{invocation.operation}: a request of {length} bytes is above this actor's limit of {limit} bytes"
            )
        deadline = self._loop.time() + self._allowed(headers, length, EXTRA_TIME)
        if self._fetched + length > MOST_FETCHED:
            raise Overloaded(f"large requests to the actor {self._actor.key} hold {self._fetched} bytes already")
        digest = self._admission.admit_chunked(invocation, self._actor)
        self._fetched += length
        return self._run_chunked(invocation, length, digest, deadline, reply, until=self._until(headers))

    async def _run_chunked(
        self, invocation: Invocation, length: int, digest: Digest, deadline: float, reply: str, *, until: float
    ) -> None:
        arrived, msg = time.time_ns() // 1000, b""
        try:
            if self._policy is not None:
                await self._ask(self._policy, invocation, deadline)
            msg = await self._chunks.receive(
                invocation.id,
                length,
                what=f"the argument of {invocation.operation}",
                digest=digest,
                deadline=deadline,
            )
            if self._spies.active:
                self._mirror(invocation, msg, arrived)
            actor = self._actor  # maybe an update of the one that the call was let in for
            self._admission.authorise(invocation, actor)
            context = CallContext(deadline=deadline, invocation_id=invocation.id)
            call = actor.pool.begin(invocation.operation, msg, context)
        except Exception as exc:
            if self._spies.active and not msg:
                self._mirror(invocation, b"", arrived)
            self._fail(reply, invocation, exc)
        else:
            await self._finish(call, reply, invocation, until)
        finally:
            self._fetched -= length

    async def _finish(self, call: GuestCall, reply: str, invocation: Invocation, until: float) -> None:
        try:
            msg = call.result() if call.done else await call.wait()
            self._succeed(reply, invocation, call, msg, until)
        except Exception as exc:
            self._fail(reply, invocation, exc, call)

    def _succeed(self, reply: str, invocation: Invocation, call: GuestCall, msg: bytes, until: float) -> None:
        """``until``: when the caller gives up, as :meth:`_until` tells it."""
        if self._spies.active:
            self._spies.reply(self._actor.key, call=invocation.id, msg=msg)
        if self._chunks.is_large(len(msg)):
            self._spawn(self._succeed_large(reply, invocation, call, msg, until))
            return
        self._note_success(invocation, call, msg)
        respond(self._transport, reply, InvocationResponse(msg=msg, invocation_id=invocation.id))

    async def _succeed_large(
        self, reply: str, invocation: Invocation, call: GuestCall, msg: bytes, until: float
    ) -> None:
        response = InvocationResponse(msg=msg, invocation_id=invocation.id)
        try:
            if reply:
                response = await store_answer(
                    self._chunks, response, invocation.operation, within=until - self._loop.time()
                )
        except Exception as exc:
            self._fail(reply, invocation, exc, call)
        else:
            self._note_success(invocation, call, msg)
            if reply:
                respond(self._transport, reply, response)

    def _note_success(self, invocation: Invocation, call: GuestCall, msg: bytes) -> None:
        if self._call_events is not None:
            self._call_events.end(invocation.id)
        if self._trace:
            self._log_call(invocation, call, reply=len(msg))

    def _fail(self, reply: str, invocation: Invocation | None, error: Exception, call: GuestCall | None = None) -> None:
        invocation_id = invocation.id if invocation is not None else UNKNOWN_ID
        if self._trace:
            self._log_call(invocation, call, error=error)
        if not isinstance(error, LatticeError):
            log.error("call.broke", actor=self._actor.key, invocation=invocation_id, exc_info=error)
        elif error.code is not Code.GUEST_ERROR:
            self._note_refusal(error.for_log, code=error.code.value, invocation=invocation_id)
        if self._spies.active:
            self._spies.reply(self._actor.key, call=invocation_id, error=error)
        if self._call_events is not None:
            self._call_events.end(invocation_id, error)
        respond(self._transport, reply, failure(invocation_id, error))

    def _log_call(
        self,
        invocation: Invocation | None,
        call: GuestCall | None,
        *,
        reply: int | None = None,
        error: Exception | None = None,
    ) -> None:
        call_log.served(
            route="nats",
            actor=self._actor.key,
            origin=invocation.origin.public_key if invocation is not None else "",
            operation=invocation.operation if invocation is not None else "",
            invocation=invocation.id if invocation is not None else UNKNOWN_ID,
            call=call,
            request=(invocation.content_length or len(invocation.msg)) if invocation is not None else 0,
            reply=reply,
            error=error,
        )

    def _mirror(self, invocation: Invocation, msg: bytes, arrived: int | None = None) -> None:
        """Show a spy what arrived, also when it is going to be refused; a stored argument once it was fetched.

        ``arrived``: when, if not now, in microseconds since 1970.
        """
        self._spies.request(
            self._actor.key,
            call=invocation.id,
            invocation_id=invocation.id,
            route="nats",
            origin=invocation.origin,
            target=invocation.target,
            operation=invocation.operation,
            msg=msg,
            size=invocation.content_length,
            time_us=arrived,
        )

    def _note_refusal(self, reason: str, **fields: str) -> None:
        if self._refusals.take():
            suppressed = self._refusals.refused()
            log.warning("call.failed", actor=self._actor.key, reason=reason, suppressed=suppressed, **fields)
