"""When the claims of what runs here expire: warned of before, and told when it is so.

The time is that of :class:`ClaimsClock`, which is never set back: whoever sets the clock of the machine back lets
nothing live longer, and revives nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Final

import structlog

from lattice import events
from lattice.claims import ActorClaims, ProviderClaims
from lattice.events import Publish

log = structlog.get_logger(__name__)

Claims = ActorClaims | ProviderClaims

LONGEST_LOOK: Final = 1.0
"""Seconds between two looks at the clock while something can expire: it may have been set forward."""
EARLIEST_WARNING: Final = 7 * 86_400.0
"""Seconds before the end at which a warning is given at the earliest."""
_LATE: Final = 0.02
"""Seconds by which a timer is late on purpose: one that is early would have to look again."""
WARNED_PART: Final = 0.1
"""Part of a token's life that is left at the warning."""


class ClaimsClock:
    """Unix time in seconds that follows the machine's clock forward and never goes back.

    Where that was set back, time goes on as the monotonic clock says. It holds while the process lives.
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._seen, self._at = wall(), monotonic()

    def __call__(self) -> float:
        wall, at = self._wall(), self._monotonic()
        expected = self._seen + at - self._at
        if wall >= expected:
            self._seen, self._at = wall, at
            return wall
        return expected


@dataclass(slots=True)
class _Watched:
    claims: Claims
    on_expired: Callable[[], None]
    warned: bool = False


class ExpiryWatch:
    """Watches the claims of everything that runs on one host; one timer for all."""

    def __init__(self, clock: Callable[[], float], publish: Publish, host_id: str) -> None:
        """``clock`` tells Unix time in seconds."""
        self.clock = clock
        self._publish = publish
        self._host_id = host_id
        self._watched: dict[Hashable, _Watched] = {}
        self._timer: asyncio.TimerHandle | None = None

    def watch(self, key: Hashable, claims: Claims, on_expired: Callable[[], None]) -> None:
        """Call ``on_expired`` once when these claims expire, unless :meth:`forget` comes first or other claims do."""
        self._watched.pop(key, None)
        if claims.expires is not None:
            self._watched[key] = _Watched(claims, on_expired)
            self._look()

    def forget(self, key: Hashable) -> None:
        self._watched.pop(key, None)

    def close(self) -> None:
        self._watched.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        """See what has expired or is about to, and look again in time."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now, pause = self.clock(), LONGEST_LOOK
        for key, watched in list(self._watched.items()):
            expires = watched.claims.expires
            assert expires is not None
            if expires < now:  # the same comparison as at the start
                del self._watched[key]
                watched.on_expired()
                continue
            until_warning = expires - now - warning_before(watched.claims)
            if watched.warned:
                pause = min(pause, expires - now + _LATE)
            elif until_warning > 0:
                pause = min(pause, until_warning + _LATE)
            else:
                watched.warned = True
                self._warn(watched.claims, expires, now)
                pause = min(pause, expires - now + _LATE)
        if self._watched:
            self._timer = asyncio.get_running_loop().call_later(pause, self._look)

    def _warn(self, claims: Claims, expires: int, now: float) -> None:
        left = round(expires - now)
        log.warning(
            "claims.expiring",
            subject=claims.subject,
            name=claims.name,
            seconds_left=left,
            hint=f"have {claims.issuer} sign it again, then update it (an actor with: wasmhost update actor)",
        )
        self._publish(
            *events.claims_expiring(
                public_key=claims.subject,
                name=claims.name,
                host_id=self._host_id,
                expires_at=expires,
                seconds_left=left,
            )
        )


def warning_before(claims: Claims) -> float:
    """Seconds before the end of these claims at which their end is warned of."""
    if claims.expires is None:
        return 0.0
    return min(EARLIEST_WARNING, max(0, claims.expires - claims.issued_at) * WARNED_PART)
