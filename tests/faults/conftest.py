"""What the tests of faults share: a lattice of real processes, counted load on it, and nothing left behind."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.fleet import Fleet
from tests.support.nats import NatsServer, free_port
from tests.support.processes import Running, user_environment


@pytest.fixture
def env(tmp_path: Path) -> dict[str, str]:
    """A user whose folders are all below the test's own."""
    return user_environment(tmp_path / "home")


@pytest.fixture
def new_fleet(start: Callable[..., Running], env: dict[str, str], tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Make a fleet on a NATS server with the test's own settings: ``new_fleet(NatsServer(…))``."""
    made: list[Fleet] = []

    def make(nats: NatsServer | None = None) -> Fleet:
        made.append(Fleet(start, env, tmp_path, free_port(), nats=nats))
        return made[-1]

    yield make
    for fleet in made:
        fleet.stop()


@pytest.fixture
def fleet(new_fleet: Callable[..., Fleet]) -> Fleet:
    """A NATS server with JetStream and a Redis server; hosts are started by the test: ``fleet.host("one")``."""
    return new_fleet()
