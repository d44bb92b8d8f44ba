"""The faults, each with the seconds it lasts; what is chosen depends on the seed alone."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from tests.faults.chaos.world import HTTP, Place, World
from tests.support.processes import ProcessId

MOST_INSTANCES = 5


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault that is about to happen."""

    kind: str
    detail: str
    happen: Callable[[World], None]
    """Returns when the fault is over; what it broke may take longer."""
    when_complete: bool = False
    """It begins once every host runs what it should."""


def endless(rng: random.Random, only: Sequence[str] = ()) -> Iterator[Fault]:
    """One fault after the other: every kind once in random order, then again in another one."""
    while True:
        for kind in rng.sample(kinds := list(only or _KINDS), len(kinds)):
            yield _KINDS[kind](rng, kind)


def kinds() -> list[str]:
    return list(_KINDS)


def _host_killed(rng: random.Random, kind: str) -> Fault:
    number = rng.randrange(3)

    def happen(world: World) -> None:
        world.places[number].daemon.kill()

    return Fault(kind, f"chaos-{number + 1}", happen)


def _host_frozen(rng: random.Random, kind: str) -> Fault:
    number, seconds = rng.randrange(3), rng.choice([1.0, 3.0, 6.0, 20.0])

    def happen(world: World) -> None:
        place = world.places[number]
        with place.lock:
            if place.daemon.running:
                place.daemon.signal(signal.SIGSTOP)
                time.sleep(seconds)
                place.daemon.signal(signal.SIGCONT)

    return Fault(kind, f"chaos-{number + 1} for {seconds} s", happen)


def _pick_provider(place: Place, choice: float) -> ProcessId | None:
    found = sorted(place.daemon.providers().values(), key=lambda process: process.command)
    return found[int(choice * len(found))] if found else None


def _provider_killed(rng: random.Random, kind: str) -> Fault:
    number, choice = rng.randrange(3), rng.random()

    def happen(world: World) -> None:
        process = _pick_provider(world.places[number], choice)
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    return Fault(kind, f"one of chaos-{number + 1}", happen)


def _provider_frozen(rng: random.Random, kind: str) -> Fault:
    number, choice, seconds = rng.randrange(3), rng.random(), rng.choice([2.0, 4.0, 25.0])

    def happen(world: World) -> None:
        process = _pick_provider(world.places[number], choice)
        if process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGSTOP)
        end = time.monotonic() + seconds
        while process.alive and time.monotonic() < end:  # its host may have replaced it
            time.sleep(0.1)
        if process.alive:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)

    return Fault(kind, f"one of chaos-{number + 1} for {seconds:g} s at most", happen)


def _nats_killed(rng: random.Random, kind: str) -> Fault:
    seconds = round(rng.uniform(0.2, 3), 1)

    def happen(world: World) -> None:
        world.nats.stop(signal.SIGKILL)
        time.sleep(seconds)
        world.nats.start()

    return Fault(kind, f"away for {seconds} s", happen)


def _nats_frozen(rng: random.Random, kind: str) -> Fault:
    seconds = round(rng.uniform(1, 5), 1)

    def happen(world: World) -> None:
        os.kill(world.nats.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(world.nats.pid, signal.SIGCONT)

    return Fault(kind, f"for {seconds} s", happen)


def _redis_killed(rng: random.Random, kind: str) -> Fault:
    seconds = round(rng.uniform(0.1, 2), 1)

    def happen(world: World) -> None:
        world.redis.stop(signal.SIGKILL)
        time.sleep(seconds)
        world.redis.start()

    return Fault(kind, f"away for {seconds} s", happen)


def _redis_frozen(rng: random.Random, kind: str) -> Fault:
    seconds = round(rng.uniform(0.5, 4), 1)

    def happen(world: World) -> None:
        world.redis.hang()
        time.sleep(seconds)
        world.redis.go_on()

    return Fault(kind, f"for {seconds} s", happen)


def _links_changed(rng: random.Random, kind: str) -> Fault:
    store = rng.random() < 0.5

    def happen(world: World) -> None:
        world.link_round += 1
        world.put_store() if store else world.put_links()

    return Fault(kind, "that of the store" if store else "all of them", happen)


def _scaled(rng: random.Random, kind: str) -> Fault:
    number, count = rng.randrange(3), rng.randint(1, MOST_INSTANCES)

    def happen(world: World) -> None:
        place = world.places[number]
        with place.lock:
            place.wanted.instances = count
            if place.daemon.started:
                world.complete(place)

    return Fault(kind, f"chaos-{number + 1} to {count}", happen)


def _two_hosts(rng: random.Random) -> tuple[str, str]:
    one, other = rng.sample(range(1, 4), 2)
    return f"chaos-{one}", f"chaos-{other}"


def _actor_moved(rng: random.Random, kind: str) -> Fault:
    here, there = _two_hosts(rng)

    def happen(world: World) -> None:
        world.move(("migrate", "actor", world.actor, "--from", here, "--to", there))

    return Fault(kind, f"from {here} to {there}", happen, when_complete=True)


def _provider_moved(rng: random.Random, kind: str) -> Fault:
    name, choice = rng.choice("ab"), rng.randrange(2)

    def happen(world: World) -> None:
        others = [p.daemon.name for p in world.places if (HTTP, name) not in p.wanted.providers]
        world.move(("migrate", "provider", HTTP, "--link-name", name, "--to", others[choice]))

    return Fault(
        kind, f"HTTP server {name} to the {('first', 'second')[choice]} of the other hosts", happen, when_complete=True
    )


def _host_drained(rng: random.Random, kind: str) -> Fault:
    number = rng.randint(1, 3)

    def happen(world: World) -> None:
        world.move(("drain", f"chaos-{number}"), ("uncordon", f"chaos-{number}"))

    return Fault(kind, f"chaos-{number}, and used again", happen, when_complete=True)


def _updated(rng: random.Random, kind: str) -> Fault:
    def happen(world: World) -> None:
        world.revision += 1
        world.do("update", "actor", world.actor, str(world.image(world.revision)))

    return Fault(kind, "to the next revision", happen)


_KINDS: dict[str, Callable[[random.Random, str], Fault]] = {
    "host killed": _host_killed,
    "host frozen": _host_frozen,
    "provider killed": _provider_killed,
    "provider frozen": _provider_frozen,
    "nats killed": _nats_killed,
    "nats frozen": _nats_frozen,
    "redis killed": _redis_killed,
    "redis frozen": _redis_frozen,
    "links changed": _links_changed,
    "actor scaled": _scaled,
    "actor updated": _updated,
    "actor moved": _actor_moved,
    "provider moved": _provider_moved,
    "host drained": _host_drained,
}
