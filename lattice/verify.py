"""May this call run here, and if not, why: pure decisions, cheapest check first."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from lattice import antiforgery, keys
from lattice.authority import Authority
from lattice.errors import LatticeError, NotAuthorized, NotLinked
from lattice.invocation import Entity, Invocation

MAX_AGE: Final = 300.0
"""Seconds after which an invocation is refused, whether its token expires or not."""
SKEW: Final = 60.0
"""Seconds by which the clock of a peer may be ahead of ours."""
REPLAY_WINDOW: Final = MAX_AGE + 2 * SKEW
"""Seconds for which an accepted token could be accepted again, hence for which its id is remembered."""

ISSUER_REFUSED: Final = "Issuer of this invocation is not among the list of valid issuers"
"""How classic hosts refuse a key that may not sign for an origin."""
_COMPARE: Final = "; compare the clocks of both machines"


class IssuerRefused(NotAuthorized):
    """The key that signed may not sign for this origin. ``known``: it may for another one, or once did."""

    def __init__(self, issuer: str, origin: Entity, objection: str) -> None:
        why = f": {objection}" if objection else ""
        super().__init__(f"{ISSUER_REFUSED} ({issuer[:60]} for origin {origin.public_key[:60]}{why})")
        self.issuer = issuer
        self.origin = origin
        self.known = bool(objection)


class ReplayWindow:
    """The invocations accepted lately, so that none is accepted twice; bounded in time and number.

    Two generations: entries live between one and two ``window`` seconds. When a generation is full before its time, the
    older one goes early, and with it the right of equally old tokens to be accepted (:attr:`horizon`): the window
    shrinks under a flood, it never opens.

    When the clock is set back, what was accepted before is kept aside until the time has come again at which it could
    be accepted again; meanwhile calls go on as usual.
    """

    __slots__ = (
        "_ahead",
        "_ahead_until",
        "_half",
        "_latest",
        "_older",
        "_older_latest",
        "_refused",
        "_since",
        "_window",
        "_young",
        "horizon",
    )

    def __init__(self, window: float = REPLAY_WINDOW, capacity: int = 1_000_000) -> None:
        self._window = window
        self._half = max(1, capacity // 2)
        self._young: set[int] = set()
        self._older: set[int] = set()
        self._since = 0.0
        self._latest = -1
        self._older_latest = -1
        self._ahead: set[int] = set()
        self._ahead_until = 0.0
        self._refused = (0, -1)
        """First and last second, then still to come, whose ids were forgotten while the clock was ahead."""
        self.horizon = -1
        """Tokens issued at or before this second are refused, since their ids may have been forgotten."""

    def __len__(self) -> int:
        return len(self._young) + len(self._older) + len(self._ahead)

    def may_have_forgotten(self, issued_at: int) -> bool:
        """Whether an id of this second may have been accepted, and is not known any more."""
        return issued_at <= self.horizon or self._refused[0] <= issued_at <= self._refused[1]

    def knows(self, invocation_id: str, issuer: str = "") -> bool:
        """Whether this issuer's invocation was accepted before."""
        # A 64-bit hash instead of two texts: 60 bytes per entry instead of 200. A collision, one in 10**13, refuses a
        # call. The issuer belongs to it, or a provider could use up the predictable ids of a host.
        entry = hash((issuer, invocation_id))
        return entry in self._young or entry in self._older or entry in self._ahead

    def seen(self, invocation_id: str, now: float, issuer: str = "", issued_at: int = -1) -> bool:
        """Whether it was accepted before; if not, it is from now on known. Times in seconds since the epoch."""
        if self.knows(invocation_id, issuer):
            return True
        if self._latest > now + 2 * SKEW:  # it was accepted by a clock that showed more than this one does
            self._set_back(now)
        if now - self._since >= self._window or len(self._young) >= self._half:
            self._turn(now)
        self._young.add(hash((issuer, invocation_id)))
        self._latest = max(self._latest, issued_at)
        return False

    def _turn(self, now: float) -> None:
        self.horizon = max(self.horizon, self._older_latest)
        self._older, self._older_latest = self._young, self._latest
        self._young, self._latest = set(), -1
        self._since = now
        if now > self._ahead_until:
            self._ahead = set()

    def _set_back(self, now: float) -> None:
        """The clock was set back: begin anew, but for what may be accepted again once that time comes again."""
        self._ahead |= self._young | self._older
        self._ahead_until = max(self._ahead_until, self._latest + self._window)
        forgotten_until = self.horizon
        if len(self._ahead) > 2 * self._half:
            self._ahead, forgotten_until = set(), max(self._latest, self.horizon)
        here = int(now)
        if forgotten_until > here:
            self._refused = (min(here + 1, self._refused[0] or here + 1), max(forgotten_until, self._refused[1]))
        self.horizon = min(self.horizon, here - 1)
        self._young, self._latest, self._older, self._older_latest = set(), -1, set(), -1
        self._since = now


class PayloadDigest:
    """Is a payload, piece by piece, the one that an invocation was signed with?"""

    __slots__ = ("_digest", "_signed")

    def __init__(self, invocation: Invocation, signed: str) -> None:
        """``signed`` is the hash in the token of ``invocation``."""
        self._signed = signed
        self._digest = antiforgery.hashing(
            invocation.origin.url, f"{invocation.target.url}/{invocation.operation}", invocation.operation
        )

    def update(self, piece: bytes) -> None:
        self._digest.update(piece)

    def check(self) -> None:
        """Raise NotAuthorized when it is another one; call it after the last piece."""
        _compare(self._signed, self._digest.hexdigest().upper())


def verify_invocation(
    invocation: Invocation,
    *,
    target_key: str,
    authority: Authority,
    replay: ReplayWindow,
    now: float,
    max_age: float = MAX_AGE,
    skew: float = SKEW,
) -> None:
    """Return if this call may run; raise NotAuthorized (or MalformedMessage for a token that is none) otherwise.

    ``invocation.msg`` must be the whole message; for a chunked one use :func:`verify_chunked`. Texts are those of the
    classic hosts, which put ``Anti-forgery check failed: `` in front. The id is remembered only once the signature
    proved right, so that forgeries cannot use up ids. About 70 µs, of which 60 are the signature.
    """
    claims = _check_claims(
        invocation,
        target_key=target_key,
        authority=authority,
        replay=replay,
        now=now,
        max_age=max_age,
        skew=skew,
    )
    _compare(
        claims.hash,
        antiforgery.invocation_hash(claims.origin_url, claims.target_url, invocation.operation, invocation.msg),
    )
    _accept(claims, replay, now)


def verify_chunked(
    invocation: Invocation,
    *,
    target_key: str,
    authority: Authority,
    replay: ReplayWindow,
    now: float,
    max_age: float = MAX_AGE,
    skew: float = SKEW,
) -> PayloadDigest:
    """As :func:`verify_invocation`, before the payload is fetched: all but the hash, the signature included.

    The call may run only after the digest that this returns has seen the payload and found it right.
    """
    claims = _check_claims(
        invocation,
        target_key=target_key,
        authority=authority,
        replay=replay,
        now=now,
        max_age=max_age,
        skew=skew,
    )
    _accept(claims, replay, now)
    return PayloadDigest(invocation, claims.hash)


def _check_claims(
    invocation: Invocation,
    *,
    target_key: str,
    authority: Authority,
    replay: ReplayWindow,
    now: float,
    max_age: float,
    skew: float,
) -> antiforgery.InvocationClaims:
    """All that needs neither the payload nor the curve."""
    target = invocation.target
    if target.public_key != target_key:
        raise NotAuthorized(
            f"Invocation target {target.public_key[:60]} is not {target_key}, whose subject it arrived on"
        )
    host_id = invocation.host_id
    # Elixir hosts send their cluster key here. The field is not signed and has no authority.
    if len(host_id) != 56 and not host_id.startswith("N"):
        raise NotAuthorized(f"Invalid host ID on invocation: '{host_id[:60]}'")
    claims = antiforgery.parse(invocation.encoded_claims)
    issuer = claims.issuer
    if not authority.permits(issuer, invocation.origin, now):
        raise IssuerRefused(issuer, invocation.origin, authority.objection(issuer, invocation.origin))
    _check_times(claims, replay, now, max_age, skew)
    if claims.subject != invocation.id:
        raise NotAuthorized("Invocation claims are about another invocation id")
    if claims.target_url != f"{target.url}/{invocation.operation}":
        raise NotAuthorized("Invocation claims and invocation target URL do not match")
    if claims.origin_url != invocation.origin.url:
        raise NotAuthorized("Invocation claims and invocation origin URL do not match")
    return claims


def _compare(signed: str, computed: str) -> None:
    if signed != computed:
        raise NotAuthorized(f"Invocation hash does not match signed claims hash ({signed[:64]} / {computed})")


def _accept(claims: antiforgery.InvocationClaims, replay: ReplayWindow, now: float) -> None:
    issuer = claims.issuer
    if replay.knows(claims.subject, issuer):
        raise NotAuthorized(f"Invocation {claims.subject[:60]} was replayed")
    if not keys.verify(issuer, claims.signing_input, claims.signature):
        raise NotAuthorized("Invocation claims signature invalid")
    replay.seen(claims.subject, now, issuer, claims.issued_at)


def _check_times(
    claims: antiforgery.InvocationClaims, replay: ReplayWindow, now: float, max_age: float, skew: float
) -> None:
    if claims.expires is not None and claims.expires < now:
        raise NotAuthorized(f"Invocation claims token expired {now - claims.expires:.0f} s ago{_COMPARE}")
    if claims.not_before is not None and claims.not_before > now + skew:
        raise NotAuthorized(
            f"Attempt to use invocation before claims token allows, by {claims.not_before - now:.0f} s{_COMPARE}"
        )
    age = now - claims.issued_at
    if age > max_age:
        raise NotAuthorized(
            f"Invocation claims token is too old: issued {age:.0f} s ago, {max_age:.0f} s allowed{_COMPARE}"
        )
    if age < -skew:
        raise NotAuthorized(f"Invocation claims token was issued {-age:.0f} s in the future{_COMPARE}")
    if replay.may_have_forgotten(claims.issued_at):
        raise NotAuthorized("Invocation claims token is too old for a host under this load; send the call again")


def authorise_provider_origin(invocation: Invocation, capabilities: Collection[str]) -> None:
    """Refuse a call from a provider whose contract the called actor's claims do not grant.

    Calls from actors and from clients need no capability. A provider that hides its contract is refused, too.
    """
    origin = invocation.origin
    if origin.is_actor or not (origin.is_provider or origin.contract_id):
        return
    if origin.contract_id not in capabilities:
        raise NotAuthorized(
            f"Invocation source does not have the required capability claim {origin.contract_id[:100]} "
            f"(the claims of {invocation.target.public_key[:60]} grant {_listed(capabilities)})"
        )


def _listed(capabilities: Collection[str]) -> str:
    return ", ".join(sorted(capabilities)) or "nothing"


def authorise_capability(*, actor: str, capabilities: Collection[str], contract: str) -> None:
    """Refuse a host call whose contract the caller's claims do not grant, built-in contracts included."""
    if contract not in capabilities:
        raise NotAuthorized(
            f"Invocation not authorized: missing capability claim for {contract} "
            f"({actor} was signed for {_listed(capabilities)}); sign it again with that capability"
        )


def not_linked(*, actor: str, contract: str, link_name: str, lattice: str) -> NotLinked:
    """The error for a host call that names neither a link nor an actor."""
    return NotLinked(
        f"Invocation not authorized: missing link definition for {contract} on {lattice} "
        f"({actor} has no link '{link_name}'); create one: wasmhost link put {actor} PROVIDER {contract}"
        + ("" if link_name == "default" else f" --link {link_name}")
    )


def is_unlinked_refusal(error: LatticeError, actor: str) -> bool:
    """Whether a provider refused a call of ``actor``, before it did anything, because it knows no link of it.

    Source: the texts of the two classic provider libraries, wasmCloud/weld ``rpc-rs/src/provider.rs`` and the provider
    SDK of the Rust hosts.
    """
    text = str(error)
    return f"unlinked actor: '{actor}'" in text or f"Actor {actor} is not linked to this provider" in text
