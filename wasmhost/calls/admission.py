"""May this call run here? One answer for calls that come over the lattice and for those between actors of one host."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from lattice.authority import Authority
from lattice.chunks import Digest
from lattice.errors import LatticeError, MalformedMessage, NotAuthorized
from lattice.invocation import Invocation
from lattice.verify import (
    MAX_AGE,
    SKEW,
    IssuerRefused,
    PayloadDigest,
    ReplayWindow,
    authorise_provider_origin,
    verify_chunked,
    verify_invocation,
)
from wasmhost.calls.directory import RunningActor

T = TypeVar("T")


def _tell_forgery(error: LatticeError) -> None:
    """Put in front what classic hosts do."""
    error.args = (f"Anti-forgery check failed: {error}",)


class _HostDigest:
    """A digest whose refusal reads as all of this host's."""

    def __init__(self, digest: PayloadDigest) -> None:
        self._digest = digest
        self.update = digest.update

    def check(self) -> None:
        try:
            self._digest.check()
        except NotAuthorized as exc:
            _tell_forgery(exc)
            raise


class Admission:
    """The checks of one host; there is one, because a replay is a replay whichever actor it is sent to."""

    def __init__(
        self,
        authority: Authority,
        *,
        replay: ReplayWindow | None = None,
        max_age: float = MAX_AGE,
        skew: float = SKEW,
        clock: Callable[[], float] = time.time,
        alarm: Callable[[IssuerRefused, str], None] = lambda _refusal, _actor: None,
    ) -> None:
        """``clock`` tells Unix time in seconds; ``alarm`` hears of calls whose issuer was refused, with their actor."""
        self.authority = authority
        """Who may sign for whom; may be replaced at any time."""
        self._alarm = alarm
        self._replay = replay if replay is not None else ReplayWindow()
        self._max_age = max_age
        self._skew = skew
        self._clock = clock

    def admit(self, invocation: Invocation, actor: RunningActor) -> None:
        """Let a call from the lattice in, or raise NotAuthorized or MalformedMessage with the classic text.

        The signature and all that it covers come before what its origin may do.
        """
        self._verify(verify_invocation, invocation, actor)
        self.authorise(invocation, actor)

    def admit_chunked(self, invocation: Invocation, actor: RunningActor) -> Digest:
        """As :meth:`admit`, for a call whose argument is still to be fetched: nothing is fetched for a stranger.

        The call may run once the digest that this returns has seen the argument and found it right.
        """
        digest = self._verify(verify_chunked, invocation, actor)
        self.authorise(invocation, actor)
        return _HostDigest(digest)

    def _verify(self, verify: Callable[..., T], invocation: Invocation, actor: RunningActor) -> T:
        try:
            return verify(
                invocation,
                target_key=actor.key,
                authority=self.authority,
                replay=self._replay,
                now=self._clock(),
                max_age=self._max_age,
                skew=self._skew,
            )
        except (NotAuthorized, MalformedMessage) as exc:
            self._refuse(exc, actor)
            raise

    def _refuse(self, error: LatticeError, actor: RunningActor) -> None:
        _tell_forgery(error)
        if isinstance(error, IssuerRefused):
            self._alarm(error, actor.key)

    def authorise(self, invocation: Invocation, actor: RunningActor) -> None:
        """Whether the origin of a verified call may call this actor now. Raises NotAuthorized."""
        authorise_provider_origin(invocation, actor.capabilities)
        self.require_current(actor)

    def require_current(self, actor: RunningActor) -> None:
        """Raise NotAuthorized when ``actor`` takes no new calls: its claims have expired, or it was revoked."""
        if actor.barred:
            raise NotAuthorized(actor.barred)
        expires = actor.claims.expires
        if expires is not None and expires <= self._clock():
            raise NotAuthorized(f"the claims of actor {actor.key} have expired; sign it again and restart it")
