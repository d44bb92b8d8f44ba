"""Moving what runs from host to host, on real daemons under load: nobody's request fails."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.fleet import Fleet
from tests.support.processes import Running, run

Start = Callable[..., Running]


@pytest.fixture
def fleet(start: Start, env: dict[str, str], tmp_path: Path, http_port: int) -> Iterator[Fleet]:
    made = Fleet(start, env, tmp_path, http_port)
    yield made
    made.stop()


class KeptAlive:
    """Clients that keep their connection as long as the server lets them, and think between two requests."""

    def __init__(self, port: int, *, pauses: tuple[float, ...]) -> None:
        """One client per pause, in seconds."""
        self._port = port
        self._over = threading.Event()
        self.statuses: Counter[int | str] = Counter()
        self.told_to_close = 0
        self._threads = [threading.Thread(target=self._client, args=(pause,), daemon=True) for pause in pauses]

    def __enter__(self) -> KeptAlive:
        for thread in self._threads:
            thread.start()
        return self

    def _client(self, pause: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
        while not self._over.is_set():
            try:
                connection.request("GET", "/kept")
                answer = connection.getresponse()
                answer.read()
                self.statuses[answer.status] += 1
                if answer.getheader("Connection") == "close":
                    self.told_to_close += 1
                    connection.close()
            except (OSError, http.client.HTTPException) as error:
                self.statuses[type(error).__name__] += 1
                connection.close()
            self._over.wait(pause)
        connection.close()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def on(fleet: Fleet, name: str) -> dict[str, Any]:
    """The inventory of one host, by its name."""
    host: dict[str, Any] = fleet.ask("get", "inventory", name)["hosts"][0]
    return host


def references(host: dict[str, Any]) -> list[str]:
    return sorted(provider["image_ref"] for provider in host["providers"])


def test_everything_of_a_host_moves_under_load_and_no_request_fails(fleet: Fleet) -> None:
    """The actor, the store and the HTTP server with its listening socket, one after the other, there and back."""
    fleet.begin_hosts(["one", "two"])
    fleet.start_counter("one")
    fleet.do("scale", "actor", "kvcounter", "3")
    with fleet.load(clients=4) as load, KeptAlive(fleet.http_port, pauses=(0.0, 0.05, 1.0)) as kept:
        fleet.hosts["one"].wait_until(lambda: load.statuses[200] > 100, timeout=30, what="traffic")
        moved = fleet.ask("migrate", "actor", "kvcounter", "--from", "one", "--to", "two")
        assert (moved["instances"], moved["from_host_name"], moved["to_host_name"]) == (3, "one", "two")
        for provider in ("bundled:keyvalue-redis", "bundled:httpserver"):
            fleet.ask("migrate", "provider", provider, "--to", "two")
        assert references(on(fleet, "one")) == []
        assert on(fleet, "one")["actors"] == []
        fleet.ask("migrate", "provider", "bundled:httpserver", "--to", "one")
        since = time.monotonic()
        fleet.hosts["one"].wait_until(lambda: load.good_since(since) > 100, timeout=30, what="traffic afterwards")
    assert load.failures == []
    assert set(kept.statuses) == {200}
    assert kept.told_to_close >= 2
    fleet.check_counted(load)
    assert references(on(fleet, "one")) == ["bundled:httpserver"]
    assert references(on(fleet, "two")) == ["bundled:keyvalue-redis"]
    (actor,) = on(fleet, "two")["actors"]
    assert (actor["instances"], actor["annotations"]) == (3, {})
    again = run(["migrate", "actor", "kvcounter", "--from", "one", "--to", "two"], env=fleet.env)
    assert again.returncode == 3, again.stderr
