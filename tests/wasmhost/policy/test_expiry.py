"""Claims that end while something runs under them: the clock that decides it, the warning, the end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from lattice.claims import ActorClaims, read_actor
from tests.support import actors
from tests.support.waiting import eventually
from wasmhost.policy.expiry import EARLIEST_WARNING, ClaimsClock, ExpiryWatch, warning_before


class Clocks:
    """A wall clock that anybody may set, and a monotonic one."""

    def __init__(self) -> None:
        self.wall, self.monotonic = 1_000_000.0, 50.0

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


def test_the_clock_follows_forward_and_never_goes_back() -> None:
    clocks = Clocks()
    clock = ClaimsClock(lambda: clocks.wall, lambda: clocks.monotonic)
    clocks.pass_(10)
    assert clock() == 1_000_010
    clocks.wall -= 3600
    assert clock() == 1_000_010
    clocks.pass_(5)
    assert clock() == 1_000_015  # it goes on, although the wall clock is an hour behind
    clocks.wall += 2 * 3600
    assert clock() == 1_003_615  # set forward: believed at once
    clocks.wall -= 3600
    clocks.pass_(1)
    assert clock() == 1_003_616


def claims(expires: int | None) -> ActorClaims:
    return read_actor(actors.signed(actors.ECHO, expires=expires))


class Watch:
    def __init__(self, shift: float = 0.0) -> None:
        self.shift = shift
        self.events: list[tuple[str, Mapping[str, Any]]] = []
        self.expired: list[str] = []
        self.watch = ExpiryWatch(
            lambda: time.time() + self.shift, lambda name, data: self.events.append((name, data)), "NHOST"
        )

    def add(self, claims: ActorClaims) -> None:
        self.watch.watch(claims.subject, claims, lambda: self.expired.append(claims.subject))


async def test_the_end_is_warned_of_and_then_told_once() -> None:
    watch = Watch()
    short, endless = claims(int(time.time()) + 2), claims(None)
    watch.add(short)
    watch.add(endless)
    assert watch.expired == []
    await eventually(lambda: watch.expired == [short.subject], timeout=10)
    ((name, data),) = watch.events
    assert (name, data["public_key"], data["expires_at"]) == ("claims_expiring", short.subject, short.expires)
    watch.watch.close()


async def test_a_clock_that_is_set_forward_is_noticed_within_two_seconds() -> None:
    watch = Watch()
    hour = claims(int(time.time()) + 3600)
    watch.add(hour)
    await asyncio.sleep(0)
    assert watch.expired == [] and watch.events == []
    watch.shift = 2 * 3600
    await eventually(lambda: watch.expired == [hour.subject], timeout=5)
    watch.watch.close()


async def test_renewed_claims_replace_the_old_ones_and_forgotten_ones_end_silently() -> None:
    watch = Watch()
    module_claims = claims(int(time.time()) + 3600)
    watch.add(module_claims)
    renewed: list[str] = []
    later = claims(int(time.time()) + 9 * 3600)
    watch.watch.watch(module_claims.subject, later, lambda: renewed.append("later"))
    gone = claims(int(time.time()) + 60)
    watch.add(gone)
    watch.watch.forget(gone.subject)
    watch.shift = 2 * 3600
    watch.add(claims(int(time.time()) + 1))  # already past: told at once, and everything else is looked at
    assert len(watch.expired) == 1 and gone.subject not in watch.expired and module_claims.subject not in watch.expired
    assert renewed == []
    watch.watch.close()


def test_the_warning_comes_a_tenth_of_the_life_before_and_a_week_at_most() -> None:
    now = int(time.time())
    assert 8 <= warning_before(claims(now + 100)) <= 11
    assert warning_before(claims(now + 3650 * 86_400)) == EARLIEST_WARNING
    assert warning_before(claims(None)) == 0
