"""Moving what runs from host to host, on real daemons under load: nobody's request fails."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import structlog

from lattice.client import ControlClient
from lattice.connection import ConnectOptions, connect
from lattice.keys import KeyPair, Role
from tests.support.fleet import COUNTER, Fleet
from tests.support.processes import Running
from wasmhost.apps.moving import MARK
from wasmhost.cli import entry

Start = Callable[..., Running]


@dataclass(frozen=True, slots=True)
class Ended:
    """A command that has ended."""

    code: int
    output: str
    errors: str


class QuickFleet(Fleet):
    """Commands run in this process: there are many of them here, and each would load the whole program again."""

    def attempt(self, *arguments: str) -> Ended:
        output, errors = io.StringIO(), io.StringIO()
        with (
            patch.dict(os.environ, self.env, clear=True),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
        ):
            code = entry.run(arguments)
        return Ended(code, output.getvalue(), errors.getvalue())

    def do(self, *arguments: str) -> None:
        ended = self.attempt(*arguments)
        assert ended.code == 0, f"{arguments}: {ended.errors}"

    def ask(self, *arguments: str) -> Any:
        ended = self.attempt(*arguments, "-o", "json")
        assert ended.code == 0, f"{arguments}: {ended.errors}"
        return json.loads(ended.output)


@pytest.fixture
def fleet(start: Start, env: dict[str, str], tmp_path: Path, http_port: int) -> Iterator[QuickFleet]:
    made = QuickFleet(start, env, tmp_path, http_port)
    yield made
    made.stop()
    structlog.reset_defaults()  # the commands have configured it


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


async def begin_move(url: str, ids: dict[str, str], count: int) -> None:
    """The first step of moving the counter from host one to host two."""
    mark = {MARK: f"{ids['one']}:{count}"}
    connection = await connect(ConnectOptions(url=url))
    try:
        control = ControlClient(connection, "default")
        await control.scale_actor(ids["two"], COUNTER.as_uri(), count=count, annotations=mark)
        async with asyncio.timeout(20):
            while not (await control.inventory(ids["two"])).actors:  # noqa: ASYNC110 the host sets no event here
                await asyncio.sleep(0.05)
    finally:
        await connection.drain()


def test_everything_of_a_host_moves_under_load_and_no_request_fails(fleet: QuickFleet) -> None:
    """The actor, the store and the HTTP server with its listening socket, one after the other, there and back."""
    fleet.begin_hosts(["one", "two"])
    fleet.start_counter("one")
    fleet.do("scale", "actor", "kvcounter", "3")
    with fleet.load(clients=2) as load, KeptAlive(fleet.http_port, pauses=(0.0, 0.05, 1.0)) as kept:
        fleet.hosts["one"].wait_until(lambda: load.statuses[200] > 100, timeout=30, what="traffic")
        asyncio.run(begin_move(fleet.nats.url, fleet.host_ids(), 3))  # by a command that was killed then
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
    again = fleet.attempt("migrate", "actor", "kvcounter", "--from", "one", "--to", "two")
    assert again.code == 3, again.errors


def test_a_host_of_three_is_drained_under_load_and_stays_closed_over_a_restart(fleet: QuickFleet) -> None:
    fleet.begin_hosts(["one", "two", "three"])
    fleet.do("label", "one", "disk=fast")
    fleet.do("start", "provider", "bundled:keyvalue", "--constraint", "disk=fast")
    fleet.start_counter("one")
    fleet.do("start", "actor", str(COUNTER), "--host", "one", "--count", "2")
    before = on(fleet, "one")["actors"][0]
    with fleet.load(clients=2) as load:
        fleet.hosts["one"].wait_until(lambda: load.statuses[200] > 100, timeout=30, what="traffic")
        drained = fleet.attempt("drain", "one", "--stop", "-o", "json")
        assert drained.code == 1, drained.errors
        report = json.loads(drained.output)
        assert (len(report["moved"]), report["stopped"]) == (3, False)
        assert [(left["name"], left["reason"]) for left in report["left"]] == [
            ("Key-value store on JetStream", "no other host has the labels disk=fast")
        ]
        fleet.do("label", "two", "disk=fast")
        assert fleet.ask("drain", "one", "--stop")["stopped"] is True
        fleet.hosts["one"].process.wait(30)
        since = time.monotonic()
        fleet.hosts["two"].wait_until(lambda: load.good_since(since) > 100, timeout=30, what="traffic afterwards")
    assert load.failures == []
    fleet.check_counted(load)
    after = [actor for name in ("two", "three") for actor in on(fleet, name)["actors"]]
    assert after == [before]
    fleet.host("one")
    host = on(fleet, "one")
    assert (host["cordoned"], host["actors"], host["providers"]) == (True, [], [])
    fleet.do("start", "provider", "bundled:keyvalue-memory")  # the idlest host is closed
    assert on(fleet, "one")["providers"] == []
    fleet.do("uncordon", "one")
    assert on(fleet, "one")["cordoned"] is False


def test_what_the_other_host_cannot_run_goes_on_where_it_is(fleet: QuickFleet, tmp_path: Path) -> None:
    seed = KeyPair.generate(Role.CLUSTER).seed
    apart = ("env", f"WASMHOST_STATE={tmp_path / 'apart'}", f"WASMCLOUD_CLUSTER_SEED={seed}")
    fleet.begin_host("one", prefix=("env", f"WASMCLOUD_CLUSTER_SEED={seed}"))
    fleet.begin_host("apart", prefix=apart)
    for host in fleet.hosts.values():
        host.wait_for_output("host.started", timeout=60)
    fleet.start_providers("one")
    image = tmp_path / "counter.wasm"
    image.write_bytes(COUNTER.read_bytes())
    fleet.do("start", "actor", str(image), "--host", "one")
    fleet.put_links()
    fleet.wait_until_it_answers()
    before = [on(fleet, "one"), on(fleet, "apart")]

    def refused(code: int, words: str, *arguments: str) -> None:
        ended = fleet.attempt("migrate", *arguments, "--from", "one", "--to", "apart")
        assert (ended.code, words in ended.errors) == (code, True), ended.errors

    with fleet.load(clients=2) as load:
        refused(5, "in use", "provider", "bundled:httpserver")  # no folder in common to meet in
        image.write_bytes(COUNTER.read_bytes() + b"\x00\x03\x01xy")  # another file, and its signature is broken
        refused(2, "which goes on on one", "actor", "kvcounter")
        image.unlink()
        refused(3, "copy the file to the same path", "actor", "kvcounter")
    assert load.failures == []
    assert [on(fleet, "one"), on(fleet, "apart")] == before
