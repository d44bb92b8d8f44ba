"""One subject (and queue group) of a connection, whichever server it is on at the moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from lattice.errors import MalformedMessage
from lattice.transport import MessageHandler


class Subscription:
    """See :class:`lattice.transport.Subscription`."""

    __slots__ = ("_leave", "confirmed", "handler", "queue", "refused", "sid", "subject")

    def __init__(
        self,
        leave: Callable[[Subscription], Awaitable[None]],
        sid: int,
        subject: str,
        queue: str,
        handler: MessageHandler,
    ) -> None:
        self._leave = leave
        self.sid = sid
        self.subject = subject
        self.queue = queue
        self.handler = handler
        self.confirmed = False
        self.refused = ""
        """The server's words when it did not permit this subscription."""

    async def unsubscribe(self) -> None:
        """See :meth:`lattice.transport.Subscription.unsubscribe`. Repeating it does nothing."""
        await self._leave(self)


def check_filter(subject: str) -> None:
    """Raise MalformedMessage for what nobody can subscribe to."""
    tokens = subject.split(".")
    for position, token in enumerate(tokens):
        if not token or not token.isprintable() or " " in token:
            raise MalformedMessage(f"subject {subject!r}: tokens must be non-empty, without spaces and controls")
        if (">" in token and (token != ">" or position != len(tokens) - 1)) or ("*" in token and token != "*"):
            raise MalformedMessage(f"subject {subject!r}: a wildcard must be a token of its own, '>' the last")
