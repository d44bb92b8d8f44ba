"""Mirrors the calls of an actor to whoever spies on it: those it gets and those it makes, local ones too.

While nobody spies a call costs one look at :attr:`Spies.active`.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from lattice.encoding import Encoding
from lattice.errors import LatticeError
from lattice.invocation import Entity
from lattice.observation import MOST_MIRRORED, CallPart, MirroredCall
from wasmhost.budget import Budget
from wasmhost.leases import Leases, Watcher

log = structlog.get_logger(__name__)

_PER_SECOND: Final = 2000
"""Mirrored messages: more than a person reads, and little beside what a host can send."""


class Spies(Leases):
    """Who spies on which actor of this host; silent until :meth:`report_to` was called."""

    def __init__(self) -> None:
        super().__init__()
        self._publish: Callable[[str, bytes], None] = lambda inbox, payload: None
        self._host_id = ""
        self._host_name = ""
        self._budget = Budget(per_second=_PER_SECOND, burst=2 * _PER_SECOND)
        self._numbers = itertools.count(1)

    def report_to(self, publish: Callable[[str, bytes], None], *, host_id: str, host_name: str) -> None:
        """Send what is mirrored through ``publish(inbox, payload)``, in the name of this host."""
        self._publish, self._host_id, self._host_name = publish, host_id, host_name

    def welcome(self, watcher: Watcher) -> None:
        """Tell a spy that this host mirrors for it."""
        self._send([watcher], self._record(CallPart.WATCHING))

    def request(
        self, actor: str, *, call: str, invocation_id: str, route: str, origin: Entity, target: Entity, operation: str,
        msg: bytes, size: int | None = None, time_us: int | None = None,
    ) -> None:  # fmt: skip
        """Mirror the beginning of a call of ``actor``; ``size`` where the payload has more bytes than ``msg``.

        ``time_us``: when that was, where it is not now.
        """
        if (watchers := self.watchers(actor)) and self._budget.take():
            self._send(
                watchers,
                self._record(
                    CallPart.REQUEST,
                    call=call,
                    invocation_id=invocation_id,
                    route=route,
                    origin=origin,
                    target=target,
                    operation=operation,
                    msg=msg,
                    size=size,
                    time_us=time_us,
                ),
            )

    def reply(self, actor: str, *, call: str, msg: bytes = b"", error: Exception | None = None) -> None:
        """Mirror the outcome of a call of ``actor``."""
        if (watchers := self.watchers(actor)) and self._budget.take():
            told = isinstance(error, LatticeError)  # anything else is a bug of ours: its text is for our log
            self._send(
                watchers,
                self._record(
                    CallPart.REPLY,
                    call=call,
                    msg=msg,
                    error=str(error) if told else "internal error" if error is not None else None,
                    code=error.code.value if isinstance(error, LatticeError) else "",
                ),
            )

    async def mirrored(
        self, actor: str, work: Awaitable[bytes], *, invocation_id: str, route: str, origin: Entity, target: Entity,
        operation: str, msg: bytes,
    ) -> bytes:  # fmt: skip
        """Await ``work``, a call of ``actor``, with its request and its outcome mirrored."""
        call = f"{invocation_id}/{next(self._numbers)}"
        self.request(
            actor,
            call=call,
            invocation_id=invocation_id,
            route=route,
            origin=origin,
            target=target,
            operation=operation,
            msg=msg,
        )
        try:
            answer = await work
        except Exception as error:
            self.reply(actor, call=call, error=error)
            raise
        self.reply(actor, call=call, msg=answer)
        return answer

    def _record(
        self,
        part: CallPart,
        *,
        call: str = "",
        invocation_id: str = "",
        route: str = "",
        origin: Entity | None = None,
        target: Entity | None = None,
        operation: str = "",
        msg: bytes = b"",
        size: int | None = None,
        time_us: int | None = None,
        error: str | None = None,
        code: str = "",
    ) -> MirroredCall:
        nobody = Entity("")
        return MirroredCall(
            part=part,
            host_id=self._host_id,
            host_name=self._host_name,
            time_us=time.time_ns() // 1000 if time_us is None else time_us,
            call=call,
            invocation_id=invocation_id,
            route=route,
            origin=origin or nobody,
            target=target or nobody,
            operation=operation,
            msg=msg[:MOST_MIRRORED],
            size=max(len(msg), size or 0),
            error=error,
            code=code,
            dropped=self._budget.refused(),
        )

    def _send(self, watchers: list[Watcher], record: MirroredCall) -> None:
        """Never raises: a spy must not change the call it looks at."""
        encoded: dict[Encoding, bytes] = {}
        for watcher in watchers:
            try:
                payload = encoded.get(watcher.encoding) or record.encode(watcher.encoding)
                encoded[watcher.encoding] = payload
                self._publish(watcher.inbox, payload)
            except LatticeError as error:
                log.warning("spy.not_sent", reason=str(error))
            except Exception:
                log.exception("spy.failed")
