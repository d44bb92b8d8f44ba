"""All subscriptions of one connection: made, made again on every new wire, ended."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import structlog

from lattice.background import begin
from lattice.errors import Unreachable
from lattice.outbox import Outbox
from lattice.server_errors import Violation
from lattice.subscription import Subscription
from lattice.transport import MessageHandler
from lattice.wires import Wire, WireLost

log = structlog.get_logger(__name__)

_LONGEST_RETRY: Final = 30.0


class Subscriptions:
    """Those that there are now, whichever server they are on; iterating yields each of them."""

    def __init__(
        self, outbox: Outbox, connected: asyncio.Event, *, confirm_timeout: float, refused_retry: float
    ) -> None:
        """``connected`` is set while there is a server. Durations in seconds: ``confirm_timeout`` for a server's word,
        ``refused_retry`` the first pause before one that it no longer permits is tried again.
        """
        self.leaving: Wire | None = None
        """The wire that was left for the present one, as long as messages may still arrive over it."""
        self._outbox = outbox
        self._connected = connected
        self._confirm_timeout = confirm_timeout
        self._refused_retry = refused_retry
        self._present: dict[int, Subscription] = {}
        self._last_sid = 0
        self._asking_again: asyncio.Task[None] | None = None

    def __iter__(self) -> Iterator[Subscription]:
        return iter(self._present.values())

    def __len__(self) -> int:
        return len(self._present)

    def add(self, subject: str, queue: str, handler: MessageHandler) -> Subscription:
        """One more, not made on any wire yet."""
        self._last_sid += 1
        subscription = Subscription(self._leave, self._last_sid, subject, queue, handler)
        self._present[subscription.sid] = subscription
        return subscription

    def make_on(self, wire: Wire) -> None:
        """Make all of them on a new wire, whatever an earlier one refused."""
        for each in self:
            each.refused = ""
            wire.subscribe(each.sid, each.subject, each.queue, each.handler)

    def drop(self, subscription: Subscription) -> None:
        """Forget one at once."""
        if self._present.pop(subscription.sid, None) is not None:
            for wire in (self._outbox.wire, self.leaving):
                if wire is not None:
                    wire.unsubscribe(subscription.sid)
                    wire.forget(subscription.sid)

    def refuse(self, violation: Violation, text: str) -> None:
        """The server does not permit what ``violation`` names, or no longer: then it is asked again, now and then."""
        for each in self:
            if violation.concerns(each.subject, each.queue):
                each.refused = text
                if each.confirmed and self._asking_again is None:
                    self._asking_again = begin(self._ask_again(), "nats subscriptions")

    def refuse_unconfirmed(self, text: str) -> None:
        """The server takes no more of them."""
        for each in self:
            if not each.confirmed:
                each.refused = text

    async def stop_asking(self, timeout: float) -> None:
        """Ask no more for what was refused."""
        if self._asking_again is not None:
            self._asking_again.cancel()
            await asyncio.wait({self._asking_again}, timeout=timeout)

    def clear(self) -> None:
        """Forget all of them, as the connection has ended."""
        self._present.clear()

    async def _leave(self, subscription: Subscription) -> None:
        if self._present.pop(subscription.sid, None) is None:
            return
        if self._outbox.wire is not None:
            self._outbox.write()
        wires = [wire for wire in (self.leaving, self._outbox.wire) if wire is not None]
        for wire in wires:
            wire.unsubscribe(subscription.sid)
        for wire in wires:
            await self._await_end(wire, subscription)

    async def _await_end(self, wire: Wire, subscription: Subscription) -> None:
        try:
            await wire.barrier(self._confirm_timeout)
        except WireLost:
            pass
        except TimeoutError:
            raise Unreachable(
                f"the NATS server at {wire.server} did not confirm the end of the subscription to "
                f"{subscription.subject} within {self._confirm_timeout:g} s"
            ) from None
        finally:
            wire.forget(subscription.sid)

    async def _ask_again(self) -> None:
        """Subscribe again to what the server permitted once and refuses now: permissions change while it runs."""
        pause = self._refused_retry
        try:
            while refused := [each for each in self if each.confirmed and each.refused]:
                await asyncio.sleep(pause)
                pause = min(pause * 2, _LONGEST_RETRY)
                await self._connected.wait()
                wire = self._outbox.wire
                if wire is None:
                    continue
                for each in refused:
                    if each.sid in self._present:
                        each.refused = ""
                        wire.subscribe(each.sid, each.subject, each.queue, each.handler)
                with suppress(WireLost, TimeoutError):
                    await wire.barrier(self._confirm_timeout)
                    for each in refused:
                        if not each.refused:
                            log.info("connection.permitted_again", server=wire.server, subject=each.subject)
        finally:
            self._asking_again = None
