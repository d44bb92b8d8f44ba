"""What outlives one connection to a server: subscriptions, waiting requests and messages not yet sent.

A :class:`Connection` is the :class:`lattice.transport.Transport` of the whole process. Below it is one :class:`Wire`
at a time (:mod:`lattice.succession`); when a wire is lost, every waiting request fails with code DISCONNECTED: nothing
is sent twice. No NATS client is imported here; :mod:`lattice.connection` supplies the wires.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from lattice import headers as header_block
from lattice import server_errors
from lattice.errors import Code, LatticeError, MalformedMessage, NotAuthorized, TooLarge, Unreachable
from lattice.outbox import Outbox
from lattice.standstill import Standstill
from lattice.subscription import Subscription, check_filter
from lattice.subscriptions import Subscriptions
from lattice.succession import Succession
from lattice.transport import Headers, MessageHandler, Reply, State
from lattice.waiters import Waiters
from lattice.wires import Dial, Outgoing, Wire, WireLost

log = structlog.get_logger(__name__)

_PERMIT = "give the user that permission, or connect as another"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How a connection behaves in trouble. Sizes are bytes, durations seconds."""

    retry_min: float = 0.05
    """First pause between two rounds of reconnecting; doubles up to ``retry_max``, each with jitter."""
    retry_max: float = 2.0
    reconnect_buffer: int = 8 * 1024 * 1024
    """Published messages kept while there is no server; requests are never kept, they fail at once."""
    send_buffer: int = 64 * 1024 * 1024
    """Messages kept while the server takes them too slowly."""
    confirm_timeout: float = 10.0
    """For subscribe and unsubscribe, a reconnect in between included."""
    drain_timeout: float = 5.0
    refused_retry: float = 1.0
    """First pause before a subscription that the server no longer permits is tried again; doubles up to 30 s."""


class Connection:
    """The :class:`lattice.transport.Transport` over a succession of wires."""

    def __init__(self, dial: Dial, *, inbox_prefix: str, limits: Limits) -> None:
        self._limits = limits
        self._inbox = f"{inbox_prefix}."
        self._waiters = Waiters(asyncio.get_running_loop())
        self._violations = server_errors.ViolationLog()
        self._violation_watchers: list[Callable[[server_errors.Violation], None]] = []
        self._outbox = Outbox()
        self._connected = asyncio.Event()
        self._subscriptions = Subscriptions(
            self._outbox,
            self._connected,
            confirm_timeout=limits.confirm_timeout,
            refused_retry=limits.refused_retry,
        )
        self._succession = Succession(
            lambda more: dial(more, self._on_error),
            self._outbox,
            self._subscriptions,
            self._violations,
            inbox=f"{self._inbox}*",
            connected=self._connected,
            retry=(limits.retry_min, limits.retry_max),
            confirm_timeout=limits.confirm_timeout,
            on_lost=lambda: self._waiters.fail(self._disconnected),
        )
        self._standstill = Standstill(self.flush)

    async def open(self) -> None:
        """Dial the first wire, once; afterwards the connection keeps itself alive until it is closed."""
        inbox = self._subscriptions.add(f"{self._inbox}*", "", self._on_reply)
        await self._succession.begin()
        if inbox.refused:
            await self.close()
            raise NotAuthorized(
                f"the NATS server at {self.server} does not permit this user to subscribe to {inbox.subject}; "
                "give it that permission, or set the inbox prefix that it has, see docs/security.md"
            )
        inbox.confirmed = True
        self._succession.keep()
        self._standstill.start()

    @property
    def _wire(self) -> Wire | None:
        return self._outbox.wire

    # -- what is seen from outside ------------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        return self._succession.state

    @property
    def max_payload(self) -> int:
        return self._succession.max_payload

    @property
    def server(self) -> str:
        """The URL of the server last connected to, without user information."""
        return self._succession.server

    @property
    def servers(self) -> tuple[str, ...]:
        """As :attr:`server`, with those of its cluster that it told of."""
        return self._succession.servers

    @property
    def auth_required(self) -> bool:
        """Whether the server asks its clients who they are; False also while there is no server."""
        return self._wire is not None and self._wire.auth_required

    @property
    def encrypted(self) -> bool:
        """Whether the connection speaks TLS; False also while there is no server."""
        return self._wire is not None and self._wire.encrypted

    @property
    def local(self) -> bool:
        """Whether the server is on this machine, by the address of the socket."""
        return self._wire is not None and self._wire.local

    @property
    def requests_waiting(self) -> int:
        return len(self._waiters)

    def new_inbox(self) -> str:
        """A subject that nobody can guess, for replies to a subscription of one's own."""
        return f"{self._inbox}s.{secrets.token_hex(8)}"

    async def wait_connected(self, *, pause: float = 0.0) -> None:
        """Return when there is a server, at the earliest after ``pause`` seconds. Raises Unreachable when closed."""
        await asyncio.sleep(pause)
        await self._connected.wait()
        self._check_open("waiting for a server")

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call ``callback(state)`` on the loop at each change from now on; returns a function that ends that."""
        return self._succession.on_state(callback)

    def on_violation(self, callback: Callable[[server_errors.Violation], None]) -> None:
        """Call ``callback`` on the loop for each thing that the server does not permit, as often as that is logged."""
        self._violation_watchers.append(callback)

    def publish(self, subject: str, payload: bytes, *, reply: str = "", headers: Headers = None) -> None:
        """See :meth:`lattice.transport.Transport.publish`. MalformedMessage for a subject with spaces or wildcards."""
        block = header_block.encode(headers)
        self._queue(Outgoing(subject, reply, block, payload, False))

    async def subscribe(self, subject: str, handler: MessageHandler, *, queue: str = "") -> Subscription:
        """See :meth:`lattice.transport.Transport.subscribe`.

        Raises NotAuthorized when the server does not permit it, MalformedMessage for a bad subject or queue, and
        Unreachable when the server cannot confirm it in time. Cancelling it leaves the subject.
        """
        check_filter(subject)
        if not queue.isprintable() or " " in queue:
            raise MalformedMessage(f"queue group {queue!r}: must not hold spaces or control characters")
        self._check_open(subject)
        subscription = self._subscriptions.add(subject, queue, handler)
        try:
            if self._wire is not None:
                self._outbox.write()
                self._wire.subscribe(subscription.sid, subject, queue, handler)
            await self._confirm(f"subscription to {subject}")
        except BaseException:
            self._subscriptions.drop(subscription)
            raise
        if subscription.refused:
            self._subscriptions.drop(subscription)
            raise self._refusal(subscription)
        subscription.confirmed = True
        return subscription

    async def request(self, subject: str, payload: bytes, *, timeout: float, headers: Headers = None) -> Reply:
        """See :meth:`lattice.transport.Transport.request`. While there is no server it fails at once."""
        if self._wire is None:
            raise self._disconnected(subject)
        block = header_block.encode(headers)
        token, future = self._waiters.add(subject, timeout)
        try:
            self._queue(Outgoing(subject, self._inbox + token, block, payload, True))
            return await future
        finally:
            self._waiters.discard(token)

    def abandon(self, subject: str, reason: str) -> int:
        """See :meth:`lattice.transport.Transport.abandon`."""

        def why(asked: str) -> LatticeError:
            return Unreachable(f"no reply from {asked}: {reason}", code=Code.NO_RESPONDERS)

        return self._waiters.fail(why, only=subject.__eq__)

    async def gather(self, subject: str, payload: bytes, *, timeout: float) -> list[Reply]:
        """See :meth:`lattice.transport.Transport.gather`. Raises Unreachable when the server is lost meanwhile."""
        if self._wire is None:
            raise self._disconnected(subject)
        token, gathered = self._waiters.add_gathering(subject)
        try:
            self._queue(Outgoing(subject, self._inbox + token, b"", payload, True))
            async with asyncio.timeout(timeout):
                await gathered.ended
        except TimeoutError:
            pass
        except Unreachable as error:
            if error.code is not Code.NO_RESPONDERS:
                raise
        finally:
            self._waiters.discard(token)
        return gathered.replies

    def behind(self) -> float:
        """See :meth:`lattice.transport.Transport.behind`."""
        return self._standstill.behind()

    async def flush(self, timeout: float = 5.0) -> None:
        """See :meth:`lattice.transport.Transport.flush`. Raises Unreachable when the server is lost meanwhile."""
        await self._outbox.wait_released()
        wire = self._wire
        if wire is None:
            raise self._disconnected("a flush")
        self._outbox.write()
        try:
            await wire.barrier(timeout)
        except WireLost:
            raise self._disconnected("a flush") from None
        except TimeoutError:
            raise Unreachable(f"the NATS server at {wire.server} did not answer within {timeout:g} s") from None

    async def drain(self) -> None:
        """See :meth:`lattice.transport.Transport.drain`: leave all subjects, send what is queued, close."""
        await self._outbox.wait_released()
        wire = self._wire
        if wire is not None and self._succession.state is State.CONNECTED:
            with suppress(WireLost, TimeoutError):
                async with asyncio.timeout(self._limits.drain_timeout):
                    self._outbox.write()
                    for subscription in self._subscriptions:
                        if subscription.subject != f"{self._inbox}*":
                            wire.unsubscribe(subscription.sid)
                    await wire.barrier(self._limits.drain_timeout)
                    # What the last messages caused was queued while the barrier was on its way.
                    self._outbox.write()
                    await wire.barrier(self._limits.drain_timeout)
        await self.close()

    async def close(self) -> None:
        """Close at once; waiting requests fail with code DISCONNECTED. Repeating it does nothing."""
        if self._succession.state is State.CLOSED:
            return
        self._standstill.stop()
        wire = await self._succession.end(self._limits.drain_timeout)
        await self._subscriptions.stop_asking(self._limits.drain_timeout)
        self._waiters.fail(self._disconnected)
        self._waiters.close()
        self._subscriptions.clear()
        messages, size = await self._outbox.close(self._limits.drain_timeout)
        if messages:
            log.warning("connection.messages_dropped", messages=messages, bytes=size)
        if wire is not None:
            await wire.close()

    # -- sending ------------------------------------------------------------------------------------------------------

    def _queue(self, message: Outgoing) -> None:
        subject, reply, headers, payload, _ = message
        if not subject.isprintable() or not subject or " " in subject or "*" in subject or ">" in subject:
            raise MalformedMessage(f"subject {subject!r}: must be non-empty, without spaces, wildcards or controls")
        if reply and (not reply.isprintable() or " " in reply):
            raise MalformedMessage(f"reply subject {reply!r}: must not hold spaces or control characters")
        size = len(headers) + len(payload)
        if size > self._succession.max_payload:
            raise TooLarge(
                f"message to {subject}: {size} bytes; the NATS server takes {self._succession.max_payload} at most"
            )
        if self._outbox.size > self._limits.reconnect_buffer:
            self._refuse_when_full(subject)
        if self._succession.state is State.CLOSED:
            raise self._disconnected(subject)
        self._outbox.put(message, size)

    def _refuse_when_full(self, subject: str) -> None:
        if self._wire is None:
            raise self._disconnected(subject)
        if self._outbox.size > self._limits.send_buffer:
            raise Unreachable(
                f"message to {subject} refused: {self._outbox.size} bytes wait for the NATS server at {self.server}, "
                "which takes them too slowly",
                code=Code.OVERLOADED,
            )

    # -- receiving ----------------------------------------------------------------------------------------------------

    def _on_reply(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self._waiters.deliver(subject[len(self._inbox) :], headers, payload)

    def _on_error(self, text: str) -> None:
        """An error line of the server; ``text`` is in lower case."""
        violation = server_errors.Violation.parse(text)
        if violation is None:
            log.error("connection.error", server=self.server, error=text[:500])
            if server_errors.is_subscription_limit(text):
                self._subscriptions.refuse_unconfirmed(text)
            return
        if self._violations.add(violation):
            for watcher in self._violation_watchers:
                watcher(violation)
        if violation.operation == "subscription":
            self._subscriptions.refuse(violation, text)
            return
        self._waiters.fail(
            lambda subject: NotAuthorized(
                f"the NATS server at {self.server} does not permit this user to publish to {subject}; {_PERMIT}"
            ),
            only=violation.concerns,
        )

    async def _confirm(self, what: str) -> None:
        """Wait until a server knows all present subscriptions."""
        try:
            async with asyncio.timeout(self._limits.confirm_timeout):
                while self._succession.state is not State.CLOSED:
                    await self._connected.wait()
                    wire = self._wire
                    if wire is None:
                        continue
                    with suppress(WireLost):
                        await wire.barrier(self._limits.confirm_timeout)
                        return
                    await asyncio.sleep(0)
        except TimeoutError:
            pass
        code = Code.TIMED_OUT if self._succession.state is State.CONNECTED else Code.DISCONNECTED
        timeout = self._limits.confirm_timeout
        raise Unreachable(f"the NATS server at {self.server} did not confirm {what} within {timeout:g} s", code=code)

    def _check_open(self, subject: str) -> None:
        if self._succession.state is State.CLOSED:
            raise self._disconnected(subject)

    def _refusal(self, subscription: Subscription) -> LatticeError:
        if "permissions" not in subscription.refused:
            return Unreachable(f"subscription to {subscription.subject}: {subscription.refused}", code=Code.OVERLOADED)
        return NotAuthorized(
            f"the NATS server at {self.server} does not permit this user to subscribe to {subscription.subject}; "
            + _PERMIT
        )

    def _disconnected(self, subject: str) -> Unreachable:
        if self._succession.state is State.CLOSED:
            return Unreachable(f"{subject}: the connection to NATS was closed", code=Code.DISCONNECTED)
        return Unreachable(
            f"{subject}: the connection to the NATS server at {self.server} is lost; reconnecting",
            code=Code.DISCONNECTED,
        )
