"""From a server that announced its end to another one of its cluster, with no message lost or handed over twice.

The order matters. (1) Subscribe on the new server. (2) Send there, and no longer to the old one. (3) Wait until the old
server knows of the new subscriptions: a message sent to ourselves through the old one comes back over the new one, and
the servers tell each other of subscriptions in order. (4) Only then leave the old server's subjects: nobody ever meets
a queue group without us in it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

from lattice.overlap import Overlap
from lattice.subscription import Subscription
from lattice.transport import Headers, MessageHandler
from lattice.wires import Outgoing, Wire, WireLost

PROBE_TIMEOUT: Final = 2.0
"""Seconds to wait for our own message; it does not come where the servers are no cluster, or may not be sent."""
GRACE: Final = 0.3
"""Seconds for further servers of the cluster to learn of the subscriptions, after the old one has."""
STEP_TIMEOUT: Final = 5.0


class Move:
    """One change of server, both connections open."""

    def __init__(self, old: Wire, new: Wire, *, inbox: str) -> None:
        """``inbox``: the subject of all replies, with its wildcard; one of the subscriptions."""
        self.old = old
        self.new = new
        self.probe = f"{inbox.removesuffix('*')}{secrets.token_hex(16)}"
        """The subject of our message to ourselves."""
        self._inbox = inbox
        self._overlap = Overlap()
        self._moved: dict[int, Subscription] = {}
        self._heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def subscribe(self, subscriptions: Iterable[Subscription]) -> None:
        """Subscribe on the new server as well. Raises WireLost and TimeoutError when that one is no better."""
        self.catch_up(subscriptions)
        await self.new.barrier(STEP_TIMEOUT)

    def catch_up(self, subscriptions: Iterable[Subscription]) -> None:
        """Make the subscriptions on the new server those that there are now."""
        wanted = {subscription.sid: subscription for subscription in subscriptions}
        for sid in [sid for sid in self._moved if sid not in wanted]:
            del self._moved[sid]
            self.new.unsubscribe(sid)
            self.new.forget(sid)
        for sid, each in wanted.items():
            if sid not in self._moved:
                self._moved[sid] = each
                handler = each.handler
                if not each.queue:
                    self.old.hand_to(sid, self._overlap.old(sid, handler))
                    handler = self._overlap.new(sid, handler)
                self.new.subscribe(sid, each.subject, each.queue, self._listening(each, handler))

    def _listening(self, subscription: Subscription, handler: MessageHandler) -> MessageHandler:
        if subscription.subject != self._inbox:
            return handler

        def take(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            if subject != self.probe:
                handler(subject, reply, headers, payload)
            elif not self._heard.done():
                self._heard.set_result(None)

        return take

    async def leave_old(self) -> None:
        """Leave the old server once the others know where we are now, and hand over what it had sent before."""
        with suppress(WireLost, TimeoutError):
            self.old.write([Outgoing(self.probe, "", b"", b"", False)])
            await self._wait_heard()
            for sid in list(self._moved):
                self.old.unsubscribe(sid)
            await self.old.barrier(STEP_TIMEOUT)
        for sid, subscription in self._moved.items():
            self.new.hand_to(sid, subscription.handler)

    async def _wait_heard(self) -> None:
        lost: set[asyncio.Future[Any]] = {self.old.lost, self.new.lost}
        await asyncio.wait({self._heard, *lost}, timeout=PROBE_TIMEOUT, return_when=asyncio.FIRST_COMPLETED)
        if self._heard.done():
            await asyncio.wait(lost, timeout=GRACE, return_when=asyncio.FIRST_COMPLETED)
