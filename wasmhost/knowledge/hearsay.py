"""What hosts of a lattice without JetStream learn from each other: links and claims, from answers and from events.

A host that starts asks one of the others, and from then on listens. A change of a link is told once, by the host that
made it, with the moment of the change (``changed_us``, ours), and the last change counts on all hosts. Telling on what
was heard, as hosts with a bucket do, would go round for ever once two hosts had changed one link at the same time.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

import structlog

from lattice import subjects
from lattice.client import ControlClient
from lattice.cloudevents import Event
from lattice.connection import Connection
from lattice.document import Document
from lattice.errors import LatticeError, MalformedMessage
from lattice.keys import Role, require_key
from lattice.links import LinkDefinition
from lattice.transport import Headers, Subscription

log = structlog.get_logger(__name__)

_ASK_TIMEOUT: Final = 1.0
"""Seconds for each answer to a host that starts; where nobody listens there is no wait."""
_LINK_EVENTS: Final = ("linkdef_set", "linkdef_deleted")
_CLAIMS_EVENTS: Final = ("actors_started", "provider_started")


FROM_BEFORE: Final = 1
"""The moment of changes that a bucket, which is there again, held from before: earlier than all that came since."""


class Hearsay:
    """Listens while there is no bucket. The callbacks must neither wait nor raise."""

    def __init__(
        self,
        connection: Connection,
        control: subjects.Control,
        host_id: str,
        *,
        on_link: Callable[[LinkDefinition], None],
        on_link_gone: Callable[[LinkDefinition], None],
        on_claims: Callable[[Mapping[str, str]], None],
    ) -> None:
        self._connection = connection
        self._control = control
        self._host_id = host_id
        self._on_link = on_link
        self._on_link_gone = on_link_gone
        self._on_claims = on_claims
        self._changes: dict[str, tuple[int, str]] = {}
        """Per link id, moment and host of the last change; also of links that are gone."""
        self.unstored: set[str] = set()
        """The ids of links that were changed while there was no bucket, by whatever host."""
        self._introduced: set[str] = set()
        """Whose claims were heard since :meth:`open`."""
        self._subscription: Subscription | None = None

    async def open(self) -> None:
        """Listen, and ask what was told before. Raises as ``Connection.subscribe`` does."""
        self._subscription = await self._connection.subscribe(subjects.events(self._control.lattice), self._on_event)
        client = ControlClient(
            self._connection, self._control.lattice, prefix=self._control.prefix, timeout=_ASK_TIMEOUT
        )
        try:
            links, claims = await client.links(), await client.claims()
        except LatticeError as error:
            log.debug("metadata.nobody_tells", reason=str(error))
            return
        for link in links:
            if link.id not in self._changes:  # else an event that came meanwhile is newer
                with contextlib.suppress(MalformedMessage):
                    self._on_link(link.check())
                    self.unstored.add(link.id)
        for entry in claims:
            if entry.get("sub") and entry["sub"] not in self._introduced:
                self._on_claims(entry)
        log.info("metadata.heard", links=len(links), claims=len(claims))

    async def close(self) -> None:
        if self._subscription is not None:
            with contextlib.suppress(LatticeError):
                await self._subscription.unsubscribe()

    def change(self, link_id: str) -> int:
        """The moment of a change that this host makes now, in microseconds since the epoch: later than all others."""
        moment = self._after(link_id)
        self._changes[link_id] = moment, self._host_id
        self.unstored.add(link_id)
        return moment

    def _after(self, link_id: str) -> int:
        known, _ = self._changes.get(link_id, (0, ""))
        return max(time.time_ns() // 1000, known + 1)

    def _is_last(self, link_id: str, moment: int | None, host: str) -> bool:
        """Whether a change that is told of is the last one; hosts with a bucket do not say when theirs was made."""
        change = moment or self._after(link_id), host
        if change <= self._changes.get(link_id, (0, "")):
            return False
        self._changes[link_id] = change
        (self.unstored.discard if moment in (None, FROM_BEFORE) else self.unstored.add)(link_id)
        return True

    def _on_event(self, _subject: str, _reply: str, _headers: Headers, payload: bytes) -> None:
        try:
            event = Event.decode(payload)
            if event.source == self._host_id:
                return
            if event.name in _LINK_EVENTS:
                link = LinkDefinition.from_json(event.data).check()
                moment = Document("event", event.data).optional_count("changed_us")
                if self._is_last(link.id, moment, event.source):
                    tell = self._on_link if event.name == "linkdef_set" else self._on_link_gone
                    tell(link)
            elif event.name in _CLAIMS_EVENTS:
                claims = _claims(event)
                self._introduced.add(claims["sub"])
                self._on_claims(claims)
        except MalformedMessage as error:
            log.debug("metadata.event_malformed", reason=str(error))


def _claims(event: Event) -> dict[str, str]:
    """The bucket's form of the claims in a start event, as far as that holds them. Raises MalformedMessage."""
    data = Document(event.name, event.data)
    claims = data.document("claims")
    of_provider = event.name == "provider_started"
    told = {
        "sub": require_key(data.text("public_key"), Role.SERVICE if of_provider else Role.MODULE, event.name),
        "iss": claims.text("issuer"),
        "name": claims.text("name"),
        "version": claims.text("version"),
        "contract_id": data.text("contract_id"),
    }
    if of_provider:  # says neither revision nor, in a form that all agree on, tags
        return told
    return {
        **told,
        "rev": str(claims.integer("revision")),
        "caps": ",".join(claims.texts("caps")),
        "tags": ",".join(claims.texts("tags")),
        "call_alias": claims.text("call_alias"),
    }
