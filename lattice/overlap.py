"""One message that arrives over two connections, told from two messages that look alike.

While a process is subscribed on the server that it leaves and on the one that it goes to, it gets every message of a
subject without queue group from both. Each must be handed over once. A queue group needs none of this: the servers of a
cluster choose one member.
"""

from __future__ import annotations

from lattice.transport import Headers, MessageHandler


class Overlap:
    """Counts, per message, by how many copies one side is ahead of the other.

    A copy is handed over if its side is ahead with it. So of two equal messages that both sides get, both are handed
    over, each once and in the order of their first arrivals; what only one side gets is handed over, too.
    """

    def __init__(self) -> None:
        self._ahead: dict[int, int] = {}
        """Copies from the old side less copies from the new one, by a digest of the message."""

    def old(self, sid: int, handler: MessageHandler) -> MessageHandler:
        """What takes a subscription's messages from the server that is left."""
        return self._taking(sid, handler, 1)

    def new(self, sid: int, handler: MessageHandler) -> MessageHandler:
        """What takes them from the other one."""
        return self._taking(sid, handler, -1)

    def _taking(self, sid: int, handler: MessageHandler, step: int) -> MessageHandler:
        def take(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            digest = hash((sid, subject, reply, payload, frozenset((headers or {}).items())))
            ahead = self._ahead[digest] = self._ahead.get(digest, 0) + step
            if ahead * step > 0:
                handler(subject, reply, headers, payload)

        return take
