"""Answers the control subjects of ours that let somebody watch: log lines, mirrored calls, past events.

They lie below the control prefix, so the right to control is what it takes. Payloads go to the inbox of who asked and
nowhere else, and stop when the lease was not renewed.
"""

from __future__ import annotations

import contextlib
from typing import Final

import structlog

from lattice import subjects
from lattice.control import Ack, Encoding, decode_body, encoding_of
from lattice.errors import LatticeError
from lattice.observation import EventsRequest, ObserveRequest
from lattice.subscribing import subscribe_all, unsubscribe_all
from lattice.transport import Headers, Subscription, Transport
from wasmhost.budget import Budget
from wasmhost.calls.spies import Spies
from wasmhost.control.event_book import EventBook
from wasmhost.control.log_book import LogBook
from wasmhost.leases import Watcher

log = structlog.get_logger(__name__)

_PER_SECOND: Final = 100
"""Requests; beyond it they are dropped, and whoever watches asks again."""


class ObservationServer:
    """Serves who watches this host's actors and providers."""

    def __init__(
        self,
        transport: Transport,
        control: subjects.Control,
        *,
        host_id: str,
        host_name: str,
        spies: Spies,
        book: LogBook,
        events: EventBook,
    ) -> None:
        self._transport = transport
        self._control = control
        self._spies = spies
        self._book = book
        self._events = events
        self._host_id = host_id
        self._budget = Budget(per_second=_PER_SECOND, burst=2 * _PER_SECOND)
        self._subscriptions: list[Subscription] = []
        for part in (spies, book):
            part.report_to(transport.publish, host_id=host_id, host_name=host_name)

    async def start(self) -> None:
        """Subscribe; returns when the server knows it."""
        control = self._control
        wanted = [(s, "") for s in (control.observe_calls(), control.observe_logs(), control.observe_events())]
        self._subscriptions += await subscribe_all(self._transport, wanted, self._on_message)

    async def close(self) -> None:
        """Serve nobody any more."""
        await unsubscribe_all(self._subscriptions)
        self._subscriptions.clear()
        self._spies.close()
        self._book.close()

    def _on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        if not subjects.is_inbox(reply):
            log.warning("control.reply_refused", subject=subject, reply=reply[:200])
            return
        if not self._budget.take():
            return
        encoding = encoding_of(payload, headers)
        watcher = Watcher(reply, encoding)
        try:
            body, _ = decode_body(payload, headers, "observation request")
            if subject == self._control.observe_events():
                self._tell_events(EventsRequest.from_dict(body), reply, encoding)
                return
            request = ObserveRequest.from_dict(body)
            if subject == self._control.observe_calls():
                self._spies.grant(request.key, watcher, request.lease)
                if request.lease:
                    self._spies.welcome(watcher)
            else:
                self._book.watch(request, watcher)
        except LatticeError as error:
            log.warning("control.refused", subject=subject, reason=str(error), code=error.code.value)
            refusal = Ack(accepted=False, error=str(error), code=error.code).to_dict()
            with contextlib.suppress(LatticeError):
                self._transport.publish(reply, encoding.encode(refusal))

    def _tell_events(self, request: EventsRequest, reply: str, encoding: Encoding) -> None:
        portions = list(self._events.since(request.age)) or [[]]
        for number, portion in enumerate(portions, 1):
            answer = {"host_id": self._host_id, "events": portion, "more": number < len(portions)}
            self._transport.publish(reply, encoding.encode(answer))
