"""The seam between the lattice and whatever carries its messages.

The data plane sees this interface and nothing of a NATS client. :mod:`lattice.connection` implements it on nats-py; a
leaner protocol can replace that on the RPC subjects without a change elsewhere. Subjects are ``str`` (they are built
once and cached), payloads are ``bytes``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

Headers = Mapping[str, str] | None

MessageHandler = Callable[[str, str, Headers, bytes], None]
"""``(subject, reply, headers, payload)``: a plain function that answers at once or starts a task of its own.

It must neither wait nor raise; what it raises all the same is logged and dropped, and the connection lives on.
``reply`` is ``""`` when the sender wants no answer; ``headers`` is None when there are none.
"""


class State(StrEnum):
    CONNECTED = "connected"
    RECONNECTING = "reconnecting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to one request."""

    payload: bytes
    headers: Headers = None


class Subscription(Protocol):
    async def unsubscribe(self) -> None:
        """Leave the subject (and its queue group); messages that the server had already sent are still handed over.

        Returns when the server has confirmed and every such message has been handed to the handler.
        """


class Transport(Protocol):
    """Publish, subscribe, request and drain. All methods must be called on the event loop that opened it."""

    @property
    def state(self) -> State: ...

    @property
    def max_payload(self) -> int:
        """The largest message the server takes, in bytes, headers counted."""

    def publish(self, subject: str, payload: bytes, *, reply: str = "", headers: Headers = None) -> None:
        """Queue one message; never waits. All messages of one or two turns of the loop leave in one write.

        Raises TooLarge (above max_payload) and Unreachable (closed, or the bounded reconnect buffer is full).
        """

    async def subscribe(self, subject: str, handler: MessageHandler, *, queue: str = "") -> Subscription:
        """Subscribe; returns when the server knows the subscription, so that it may be announced."""

    async def request(self, subject: str, payload: bytes, *, timeout: float, headers: Headers = None) -> Reply:
        """Send and await the first reply, ``timeout`` seconds at most.

        Raises Unreachable with code NO_RESPONDERS (at once), TIMED_OUT or DISCONNECTED, and TooLarge.
        """

    def abandon(self, subject: str, reason: str) -> int:
        """End the requests that still wait for a reply from ``subject``, as nobody will send one; how many those were.

        They raise Unreachable with code NO_RESPONDERS and the reason.
        """

    async def gather(self, subject: str, payload: bytes, *, timeout: float) -> list[Reply]:
        """Send and collect every reply that arrives within ``timeout`` seconds; empty when nobody listens."""

    def behind(self) -> float:
        """Seconds for which a message that is handled now may have waited here; 0 unless this process stood still."""

    async def flush(self, timeout: float = 5.0) -> None:
        """Return when the server has processed everything published before."""

    async def drain(self) -> None:
        """Unsubscribe, flush and close; bounded in time."""
