"""One wire after another, for as long as a connection is open: dialled, lost, dialled again.

While there is a wire that knows all subscriptions, the state is *connected*; when it is lost, a new one is dialled for
ever, and all subscriptions are made again on it before the state says *connected*. A server that announces its end is
left before it ends (:mod:`lattice.moving`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final

import structlog

from lattice import server_errors
from lattice.background import begin
from lattice.errors import Code, LatticeError, NotAuthorized, Unreachable
from lattice.moving import Move
from lattice.outbox import Outbox
from lattice.subscriptions import Subscriptions
from lattice.transport import State
from lattice.wires import Wire, WireLost

log = structlog.get_logger(__name__)

_REMIND: Final = 60.0
"""Seconds between two warnings of the same refusal while reconnecting."""
_LAME_DUCK: Final = "the server is about to end and asks its clients to leave; give them another one of its cluster"


class Succession:
    """Keeps :attr:`lattice.outbox.Outbox.wire` that of the moment, and says when there is one."""

    def __init__(
        self,
        dial: Callable[[tuple[str, ...]], Awaitable[Wire]],
        outbox: Outbox,
        subscriptions: Subscriptions,
        violations: server_errors.ViolationLog,
        *,
        inbox: str,
        connected: asyncio.Event,
        retry: tuple[float, float],
        confirm_timeout: float,
        on_lost: Callable[[], int],
    ) -> None:
        """``dial`` is told of more addresses; ``inbox`` is the subject of all replies, one of the subscriptions;
        ``connected`` is set while there is a server, and for good at the end. ``retry``: first and longest pause
        between two rounds of dialling, ``confirm_timeout``: for a new server's word, in seconds. ``on_lost`` fails the
        requests that wait, and says how many those were.
        """
        self.state = State.RECONNECTING
        self.known: tuple[str, ...] = ()
        """Addresses of the server last connected to, its own first, and of those of its cluster that it told of."""
        self.max_payload = 1024 * 1024
        self._dial = dial
        self._outbox = outbox
        self._subscriptions = subscriptions
        self._violations = violations
        self._inbox = inbox
        self._connected = connected
        self._shortest, self._longest = retry
        self._confirm_timeout = confirm_timeout
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._watchers: list[Callable[[State], None]] = []
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def server(self) -> str:
        """The URL of the server last connected to, without user information."""
        return self.known[0] if self.known else ""

    @property
    def servers(self) -> tuple[str, ...]:
        """As :attr:`known`, with what the server has told since."""
        wire = self._outbox.wire
        return self.known if wire is None else _servers(wire)

    def on_state(self, callback: Callable[[State], None]) -> Callable[[], None]:
        """Call ``callback(state)`` on the loop at each change from now on; returns a function that ends that."""
        self._watchers.append(callback)

        def stop() -> None:
            with suppress(ValueError):
                self._watchers.remove(callback)

        return stop

    async def begin(self) -> None:
        """Dial the first wire, once. Raises what dialling raises, NotAuthorized or Unreachable."""
        await self._attach(await self._dial(()))

    def keep(self) -> None:
        """From now on there is always a wire, or one is being dialled, until :meth:`end`."""
        self._supervisor = begin(self._supervise(), "nats connection")

    async def end(self, timeout: float) -> Wire | None:
        """No more wires; the present one, which is the caller's to close."""
        wire, self._outbox.wire = self._outbox.wire, None
        self._set_state(State.CLOSED)
        self._connected.set()  # wakes whoever waits for it; they look at the state
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait({self._supervisor}, timeout=timeout)
        return wire

    async def _attach(self, wire: Wire) -> None:
        self._adopt(wire)
        try:
            self._subscriptions.make_on(wire)
            await wire.barrier(self._confirm_timeout)
        except BaseException as error:
            self._outbox.wire = None
            await wire.close()
            if isinstance(error, WireLost) and server_errors.refuses_user(str(error)):
                raise NotAuthorized(f"the NATS server at {wire.server} does not keep this user: {error}") from error
            if isinstance(error, WireLost | TimeoutError):
                raise Unreachable(
                    f"the NATS server at {wire.server} went away while subscribing: {error}", code=Code.DISCONNECTED
                ) from error
            raise
        self._set_state(State.CONNECTED)
        self._connected.set()
        self._outbox.flush()

    def _adopt(self, wire: Wire) -> None:
        self.known = _servers(wire)
        self.max_payload = wire.max_payload
        self._outbox.wire = wire

    async def _supervise(self) -> None:
        while (wire := self._outbox.wire) is not None:
            news: set[asyncio.Future[Any]] = {wire.lost, wire.leaving}
            await asyncio.wait(news, return_when=asyncio.FIRST_COMPLETED)
            if not wire.lost.done() and await self._move(wire):
                continue
            reason = await asyncio.shield(wire.lost)
            self._lose(wire, reason)
            since = self._loop.time()
            await wire.close()
            rounds = await self._reattach()
            log.info(
                "connection.restored",
                server=self.server,
                seconds=round(self._loop.time() - since, 3),
                rounds=rounds,
                subscriptions=len(self._subscriptions),
            )

    async def _move(self, wire: Wire) -> bool:
        """Go elsewhere before this server ends. False when it ended while there was nowhere to go."""
        others = tuple(url for url in _servers(wire) if url != wire.server)
        log.warning("connection.lame_duck", server=wire.server, others=len(others), hint=_LAME_DUCK)
        # The jitter keeps the clients of a server from arriving at the next one all at once.
        pause = random.uniform(0.0, self._shortest * 4)
        alone = False
        while True:
            await asyncio.wait({wire.lost}, timeout=pause)
            if wire.lost.done():
                return False
            try:
                if await self._hand_over(wire, await self._dial(others)):
                    return True
            except LatticeError as error:
                if not alone:
                    log.warning("connection.no_other_server", server=wire.server, reason=str(error))
                alone = True
            pause = self._longest

    async def _hand_over(self, old: Wire, new: Wire) -> bool:
        """From one wire to the other. False, and all is as it was, when the new one is none."""
        since = self._loop.time()
        move = Move(old, new, inbox=self._inbox)
        self._violations.ignore(move.probe)
        try:
            await move.subscribe(self._subscriptions)
            # What was sent over the old wire has arrived before anything leaves over the new one.
            self._outbox.hold()
            with suppress(WireLost, TimeoutError):
                await old.barrier(self._longest)
            move.catch_up(self._subscriptions)
            self._subscriptions.leaving = old
            self._adopt(new)
        except (WireLost, TimeoutError) as error:
            log.info("connection.not_moved", server=new.server, reason=str(error) or "it does not answer")
            return False
        finally:
            self._outbox.release()
            if self._outbox.wire is not new:
                await new.close()
        try:
            await move.leave_old()
        finally:
            self._subscriptions.leaving = None
            await old.close()
        log.info(
            "connection.moved",
            server=new.server,
            left=old.server,
            seconds=round(self._loop.time() - since, 3),
            subscriptions=len(self._subscriptions),
        )
        return True

    def _lose(self, wire: Wire, reason: str) -> None:
        self.known = _servers(wire)  # some may have joined since
        self._outbox.wire = None
        self._connected.clear()
        self._set_state(State.RECONNECTING)
        # A request that was never written is dropped like those in flight: its caller hears of a failure now.
        self._outbox.drop_requests()
        failed = self._on_lost()
        log.warning("connection.lost", server=wire.server, reason=reason, requests_failed=failed)

    async def _reattach(self) -> int:
        """Dial until it works; returns the number of rounds that took."""
        pause = self._shortest
        rounds = 0
        told: dict[str, float] = {}
        while True:
            rounds += 1
            # The jitter keeps the clients of a restarted server from arriving all at once.
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            try:
                await self._attach(await self._dial(self.known))
            except LatticeError as error:
                # What somebody has to mend is said when it is new, and now and then again. A server may put the same
                # refusal in several words by turns.
                reason, now = str(error), self._loop.time()
                if not isinstance(error, Unreachable) and now - told.get(reason, -_REMIND) >= _REMIND:
                    told[reason] = now
                    log.warning("connection.retry", round=rounds, error=reason)
                else:
                    log.debug("connection.retry", round=rounds, error=reason)
            else:
                return rounds
            pause = min(pause * 2, self._longest)

    def _set_state(self, state: State) -> None:
        if state is self.state:
            return
        self.state = state
        for watcher in list(self._watchers):
            try:
                watcher(state)
            except Exception:
                log.exception("connection.watcher_failed", state=state)


def _servers(wire: Wire) -> tuple[str, ...]:
    """The addresses that a wire knows of, its own first."""
    return tuple(dict.fromkeys((wire.server, *wire.servers)))
