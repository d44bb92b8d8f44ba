"""The subjects of one provider: calls of linked actors, link changes, health and shutdown."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Collection, Coroutine
from typing import Any, Final

import structlog

from lattice import rpc, subjects
from lattice.antiforgery import Signer
from lattice.authority import Authority
from lattice.chunks import EXTRA_TIME, LARGEST, Chunks, Digest
from lattice.contracts.forms import Form
from lattice.deadlines import Deadlines
from lattice.errors import Code, LatticeError, MalformedMessage, NotLinked, Overloaded, TooLarge, Unreachable
from lattice.health import Condition, HealthQuestion, HealthReply, LinkStatus
from lattice.hostdata import HostData
from lattice.invocation import Invocation, InvocationResponse
from lattice.links import MEANT, LinkDefinition
from lattice.standstill import stood_still
from lattice.transport import Headers, Subscription, Transport
from lattice.verify import ReplayWindow, verify_chunked, verify_invocation
from providers.linkbook import LinkBook
from providers.logs import Sampled
from providers.provider import Call, Provider

log = structlog.get_logger()

MOST_CALLS: Final = 4096
"""Calls that may run at a time; beyond, they are refused as overloaded."""
MOST_SECONDS: Final = 600.0
"""Longest call, whatever its caller would wait."""
MOST_MARGIN: Final = 0.1
"""Seconds before the caller gives up at which it is told that its call was not done; less for short calls."""
MOST_FETCHED: Final = 256 * 1024 * 1024
"""Bytes of arguments from the object store that calls may hold; beyond, they are refused as overloaded."""
PUT_TIMEOUT: Final = 5.0
"""Seconds after which a put is answered with the state so far."""


class Service:
    """Serves one provider on its subjects. ``open``, then ``leave``, then ``finish``."""

    def __init__(
        self,
        provider: Provider,
        host_data: HostData,
        transport: Transport,
        chunks: Chunks,
        links: LinkBook,
        *,
        signer: Signer,
        on_shutdown: Callable[[float], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """``on_shutdown`` is told how many seconds what is under way may take, 0 for as usual."""
        self._provider = provider
        self._host_data = host_data
        self._transport = transport
        self._chunks = chunks
        self._fetched = 0
        self._links = links
        self._signer = signer
        self._on_shutdown = on_shutdown
        self._clock = clock
        self._handlers = provider.handlers()
        self._key = host_data.provider_key
        self._link_name = host_data.link_name
        self._contract = provider.contract_id
        self._authority = Authority(frozenset(host_data.cluster_issuers))
        self._replay = ReplayWindow()
        self._forms: dict[str, Form] = {}
        """By linked actor, how to answer its last call that had an argument."""
        self._timeout = host_data.rpc_timeout
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscriptions: list[Subscription] = []
        self._deadlines = Deadlines()
        self._complaints = Sampled()
        self._traces = log.is_enabled_for(logging.DEBUG)
        self._ready = False
        self._loop = asyncio.get_running_loop()

    def accept(self, issuers: Collection[str]) -> None:
        """Believe these cluster keys and no others, from the next call on."""
        self._authority = Authority(issuers)

    async def open(self) -> None:
        """Apply the links of the host data and subscribe. Health comes last: its first answer means ready."""
        lattice, key, link = self._host_data.lattice_rpc_prefix, self._key, self._link_name
        for definition in self._host_data.link_definitions:
            if self._is_ours(definition):
                self._links.put(definition)
        # Before the first outcome is awaited: a link put meanwhile must not be lost.
        await self._subscribe(subjects.linkdef_put(lattice, key, link), self._on_put)
        await self._subscribe(subjects.linkdef_del(lattice, key, link), self._on_delete)
        await self._subscribe(subjects.shutdown(lattice, key, link), self._on_shutdown_request)
        await self._links.outcomes(PUT_TIMEOUT)
        await self._subscribe(subjects.provider_rpc(lattice, key, link), self._on_call, queue=subjects.PROVIDER_QUEUE)
        self._ready = True
        await self._subscribe(subjects.health(lattice, key, link), self._on_health)

    async def leave(self, timeout: float) -> None:
        """Take no more messages; waits at most ``timeout`` seconds for the server to confirm."""
        self._ready = False
        leaving = [subscription.unsubscribe() for subscription in self._subscriptions]
        self._subscriptions.clear()
        try:
            async with asyncio.timeout(timeout):
                for outcome in await asyncio.gather(*leaving, return_exceptions=True):
                    if isinstance(outcome, Exception):
                        log.debug("provider.unsubscribe_failed", reason=str(outcome))
        except TimeoutError:
            log.info("provider.unsubscribe_unconfirmed")  # without a server there is nobody to tell

    async def finish(self, timeout: float) -> None:
        """Let calls in flight end within ``timeout`` seconds; cancel the rest."""
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                log.warning("provider.calls_abandoned", calls=len(late))
                await asyncio.wait(late)

    async def _subscribe(
        self, subject: str, handler: Callable[[str, str, Headers, bytes], None], *, queue: str = ""
    ) -> None:
        self._subscriptions.append(await self._transport.subscribe(subject, handler, queue=queue))

    def _spawn(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- calls ---

    def _on_call(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation_id = ""
        try:
            invocation = Invocation.decode(payload)
            invocation_id = invocation.id
            if invocation.chunked:
                work = self._begin_chunked(invocation, headers, reply)
            else:
                work = self._begin(invocation, headers, reply)
        except Unreachable:
            return  # the caller gave up already: nobody reads an answer
        except LatticeError as error:
            self._refuse(reply, invocation_id, error)
            return
        self._spawn(self._loop.create_task(work))

    def _refuse(self, reply: str, invocation_id: str, error: LatticeError) -> None:
        if (more := self._complaints.due()) is not None:
            log.warning(
                "call.refused", invocation=invocation_id, code=str(error.code), reason=error.for_log, not_logged=more
            )
        rpc.respond(self._transport, reply, rpc.failure(invocation_id, error))

    def _begin(self, invocation: Invocation, headers: Headers, reply: str) -> Coroutine[Any, Any, None]:
        """Everything that can refuse a call at once; the rest of it."""
        remaining = self._remaining(headers)
        verify_invocation(
            invocation, target_key=self._key, authority=self._authority, replay=self._replay, now=self._clock()
        )
        if (call := self._authorise(invocation, remaining)) is not None:
            return self._answer(call, invocation.msg, reply)
        return self._when_linked(invocation, remaining, reply, lambda call: self._answer(call, invocation.msg, reply))

    async def _when_linked(
        self, invocation: Invocation, remaining: float, reply: str, run: Callable[[Call], Coroutine[Any, Any, None]]
    ) -> None:
        """Run a call whose link is being put into effect, once it is, within the ``remaining`` seconds of the call."""
        begun = self._loop.time()
        try:
            await self._links.outcome(invocation.origin.public_key, remaining - min(MOST_MARGIN, remaining / 10))
            call = self._authorise(invocation, remaining - (self._loop.time() - begun), late=True)
            assert call is not None
        except LatticeError as error:
            self._refuse(reply, invocation.id, error)
        else:
            await run(call)

    def _remaining(self, headers: Headers, more: float = 0.0) -> float:
        """Seconds for this call; ``more`` of them than usual where its caller does not say how long it waits."""
        remaining = min(rpc.remaining(headers, self._timeout + more), MOST_SECONDS)
        if remaining <= 0:
            raise Unreachable("the caller gave up", code=Code.TIMED_OUT)
        if (behind := self._transport.behind()) >= remaining:
            raise stood_still(f"the provider of {self._contract}", behind)
        if len(self._tasks) >= MOST_CALLS:
            raise Overloaded(f"{self._contract}: {MOST_CALLS} calls are running")
        return remaining

    def _authorise(self, invocation: Invocation, remaining: float, *, late: bool = False) -> Call | None:
        """The call; None while its link is being put into effect, unless it is too ``late`` to wait for that."""
        if invocation.target.link_name != self._link_name:
            raise MalformedMessage(f"target link name mismatch: {invocation.target.link_name!r} != {self._link_name!r}")
        actor = invocation.origin.public_key
        link = self._links.in_effect.get(actor)
        if link is None:
            status = self._links.statuses().get(actor)
            if status is None:
                raise NotLinked(f"unlinked actor: '{actor}'; put a link to {self._contract} on {self._link_name}")
            if not late and self._links.is_changing(actor):
                return None
            raise NotLinked(
                f"the link of {actor} to {self._contract} on {self._link_name} is {status.state}"
                + (f": {status.reason}" if status.reason else "")
            )
        if invocation.operation not in self._handlers:
            raise LatticeError(f"method not handled {invocation.operation}", code=Code.UNSUPPORTED)
        seconds = remaining - min(MOST_MARGIN, remaining / 10)
        form = self._forms.get(actor, Form.MSGPACK)
        return Call(link, invocation.operation, invocation.id, self._loop.time() + seconds, seconds, form)

    def _begin_chunked(self, invocation: Invocation, headers: Headers, reply: str) -> Coroutine[Any, Any, None]:
        """Everything that can refuse a call before its argument is fetched; the rest of the call."""
        length = invocation.content_length or 0
        if length > LARGEST:
            raise TooLarge(f"{invocation.operation}: an argument of {length} bytes is above the limit of {LARGEST}")
        remaining = self._remaining(headers, EXTRA_TIME)
        if self._fetched + length > MOST_FETCHED:
            raise Overloaded(f"{self._contract}: large arguments of calls hold {self._fetched} bytes already")
        digest = verify_chunked(
            invocation, target_key=self._key, authority=self._authority, replay=self._replay, now=self._clock()
        )
        call = self._authorise(invocation, remaining)
        self._fetched += length

        async def run(call: Call) -> None:
            await self._run_chunked(call, length, digest, reply)

        return self._counted(length, run(call) if call else self._when_linked(invocation, remaining, reply, run))

    async def _counted(self, length: int, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        finally:
            self._fetched -= length

    async def _run_chunked(self, call: Call, length: int, digest: Digest, reply: str) -> None:
        what = f"the argument of {call.operation}"
        try:
            payload = await self._chunks.receive(
                call.invocation, length, what=what, digest=digest, deadline=call.deadline
            )
        except LatticeError as error:
            self._refuse(reply, call.invocation, error)
        else:
            await self._answer(call, payload, reply)

    async def _answer(self, call: Call, payload: bytes, reply: str) -> None:
        begun, outcome, size = self._loop.time(), "ok", None
        try:
            try:
                with self._deadlines.at(call.deadline):
                    msg = await self._handlers[call.operation].answer(call, payload)
                if payload and self._provider.spoken_in_cbor:
                    self._forms[call.actor] = call.form
            except TimeoutError:
                raise self._provider.late(call) from None
            size = len(msg)
            response = InvocationResponse(msg=msg, invocation_id=call.invocation)
            if self._chunks.is_large(len(msg)) and subjects.is_inbox(reply):
                within = call.deadline - self._loop.time()
                response = await rpc.store_answer(self._chunks, response, call.operation, within=within)
        except LatticeError as error:
            outcome = str(error.code)
            if (more := self._complaints.due()) is not None:
                log.warning(
                    "call.failed",
                    invocation=call.invocation,
                    operation=call.operation,
                    code=outcome,
                    reason=error.for_log,
                    not_logged=more,
                )
            response = rpc.failure(call.invocation, error)
        except Exception:
            outcome = "broke"
            log.exception("call.broke", invocation=call.invocation, operation=call.operation)
            response = InvocationResponse(
                invocation_id=call.invocation,
                error=f"internal error of the provider of {self._contract}, invocation {call.invocation}",
                code=Code.INTERNAL,
            )
        if self._traces:
            log.debug(
                "call.finished",
                outcome=outcome,
                route="nats",
                origin=call.actor,
                operation=call.operation,
                invocation=call.invocation,
                run_s=round(self._loop.time() - begun, 6),
                request_bytes=len(payload),
                reply_bytes=size,
            )
        rpc.respond(self._transport, reply, response)

    # --- links ---

    def _is_ours(self, link: LinkDefinition) -> bool:
        try:
            link.check()
        except LatticeError as error:
            log.warning("link.malformed", reason=str(error))
            return False
        return link.provider_id == self._key and link.link_name == self._link_name

    def _on_put(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        try:
            link = LinkDefinition.decode(payload)
        except MalformedMessage as error:
            log.warning("link.malformed", reason=str(error))
            self._say_link(reply, LinkStatus(Condition.FAILED, str(error)))
            return
        if not self._is_ours(link):
            self._say_link(reply, LinkStatus(Condition.FAILED, "not a link of this provider"))
            return
        self._links.put(link)
        if reply and self._is_meant(headers):
            self._spawn(self._loop.create_task(self._answer_put(link.actor_id, reply)))

    def _on_delete(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        try:
            actor = LinkDefinition.decode(payload).actor_id
        except MalformedMessage as error:
            log.warning("link.malformed", reason=str(error))
            return
        if not self._is_meant(headers):
            return  # another process had not heard of it, and others may have put the link again since
        self._links.delete(actor)
        if reply:
            self._spawn(self._loop.create_task(self._answer_put(actor, reply)))

    def _is_meant(self, headers: Headers) -> bool:
        """All processes of a provider in the lattice hear what hosts say of links; some of it is meant for one."""
        return (headers or {}).get(MEANT, self._host_data.instance_id) == self._host_data.instance_id

    async def _answer_put(self, actor: str, reply: str) -> None:
        outcome = await self._links.outcome(actor, PUT_TIMEOUT)
        self._say_link(reply, self._status(actor, outcome))

    def _say_link(self, reply: str, status: LinkStatus) -> None:
        if reply and subjects.is_inbox(reply):
            self._publish(reply, status.encode())

    # --- health, shutdown ---

    def _status(self, actor: str, status: LinkStatus) -> LinkStatus:
        """The state of a link, also by what stands behind it."""
        link = self._links.in_effect.get(actor)
        if link is None or status.reason or not (trouble := self._provider.link_trouble(link)):
            return status
        return LinkStatus(Condition.DEGRADED, trouble)

    def _on_health(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        # Every process of this provider in the lattice hears the question.
        if subjects.is_inbox(reply) and HealthQuestion.decode(payload).instance_id in ("", self._host_data.instance_id):
            self._publish(reply, self.health().encode())

    def health(self) -> HealthReply:
        """How it is, and whose keys it uses and accepts."""
        statuses = {actor: self._status(actor, status) for actor, status in self._links.statuses().items()}
        troubled = {actor: status for actor, status in statuses.items() if status.reason}
        if not self._ready:
            state = Condition.STARTING
        elif not troubled:
            state = Condition.READY
        elif all(status.state is Condition.FAILED for status in statuses.values()):
            state = Condition.FAILED
        else:
            state = Condition.DEGRADED
        return HealthReply(
            healthy=not troubled,
            message="; ".join(f"link of {actor}: {status.reason}" for actor, status in troubled.items()),
            state=state,
            instance_id=self._host_data.instance_id,
            issuer=self._signer.issuer,
            cluster_issuers=tuple(sorted(self._authority.issuers)),
            links=statuses,
        )

    def _on_shutdown_request(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        seconds = 0.0
        try:
            document = json.loads(payload)
            host = document.get("host_id")
            milliseconds = document.get("drain_ms", 0)  # ours
            if isinstance(milliseconds, int) and milliseconds > 0:
                seconds = min(milliseconds / 1000, MOST_SECONDS)
        except (ValueError, AttributeError):
            host = None
        if host != self._host_data.host_id:
            log.info("provider.shutdown_ignored", reason="not from the host of this provider")
            return
        if subjects.is_inbox(reply):
            self._publish(reply, b"shutting down")
        self._on_shutdown(seconds)

    def _publish(self, reply: str, payload: bytes) -> None:
        try:
            self._transport.publish(reply, payload)
        except LatticeError as error:
            log.warning("provider.reply_failed", reason=str(error))
