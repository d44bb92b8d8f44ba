"""How much of a client, and of all clients together, an address puts up with."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Sizes are bytes, durations seconds."""

    idle: float = 75.0
    """A connection without a request is kept so long."""
    head: float = 20.0
    """For a request's first line and headers, however slowly they trickle in."""
    body: float = 30.0
    """For a request body, and a second more for each ``body_rate`` bytes that came."""
    body_rate: int = 4096
    answer: float = 60.0
    """An answer of which the client takes nothing for so long is given up, with its connection."""
    linger: float = 5.0
    """What a client still sends after a refusal is read so long, since it would miss the answer otherwise."""
    handshake: float = 15.0
    """For the TLS handshake."""
    parting: float = 5.0
    """An idle connection that should not be used any more is kept so long, for a request that is under way."""
    renewal: float = 10.0
    """Between two looks at the files of a certificate."""
    head_size: int = 64 * 1024
    target_size: int = 16 * 1024
    headers: int = 256
    """Number of header lines."""
    drained: int = 64 * 1024
    """A refused body up to this size is read, so that the connection stays usable; beyond, it is closed."""
    calls: int = 8192
    """Requests of one address that may wait for their actors; beyond, they are refused with 503."""
    bodies: int = 256 * 1024 * 1024
    """Bytes of request bodies of one address. A larger one may pass alone."""

    @property
    def tick(self) -> float:
        """How often the time-outs are looked at."""
        return min(1.0, min(self.idle, self.head, self.body, self.answer, self.linger, self.parting) / 4)
