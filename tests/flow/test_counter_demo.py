"""The counter demo: seven instances over three hosts with different labels count as one."""

from __future__ import annotations

import asyncio
import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lattice import subjects
from lattice.connection import ConnectOptions, connect
from lattice.transport import Headers
from tests.support.fleet import COUNTER, Fleet
from tests.support.http import get
from tests.support.processes import Running, run

Start = Callable[..., Running]
ZONES = {"north": 3, "south": 2, "east": 2}
REQUESTS, CLIENTS = 400, 4


@pytest.fixture
def fleet(start: Start, env: dict[str, str], tmp_path: Path, http_port: int) -> Iterator[Fleet]:
    made = Fleet(start, env, tmp_path, http_port)
    yield made
    made.stop()


class Answered:
    """Which host answered each call of the actor, as the hosts' events of calls say."""

    def __init__(self, url: str) -> None:
        self.by_host: Counter[str] = Counter()
        self._url = url
        self._over = threading.Event()
        self._there = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()))

    def __enter__(self) -> Answered:
        self._thread.start()
        assert self._there.wait(20)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)

    async def _listen(self) -> None:
        connection = await connect(ConnectOptions(url=self._url, name="test"))

        def on_event(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            event = json.loads(payload)
            if event["type"].endswith(".invocation_succeeded") and "HandleRequest" in event["data"]["operation"]:
                self.by_host[event["data"]["dest_host"]] += 1

        await connection.subscribe(subjects.rpc_events("default"), on_event)
        await connection.flush()
        self._there.set()
        await asyncio.to_thread(self._over.wait)
        await connection.drain()


def count_up(port: int) -> tuple[Counter[int], list[int]]:
    """Several clients at once; the statuses, and each number that was answered."""
    statuses: Counter[int] = Counter()
    numbers: list[int] = []

    def client() -> None:
        for _ in range(REQUESTS // CLIENTS):
            status, body = get(port, "/demo")
            statuses[status] += 1
            if status == 200:
                numbers.append(json.loads(body)["counter"])

    clients = [threading.Thread(target=client) for _ in range(CLIENTS)]
    for each in clients:
        each.start()
    for each in clients:
        each.join(120)
    return statuses, numbers


def check_and_print(
    hosts: list[dict[str, Any]], answered: Counter[str], outcome: tuple[Counter[int], list[int]]
) -> None:
    statuses, numbers = outcome
    shares = {host["labels"]["zone"]: answered[host["host_id"]] for host in hosts}
    print(f"requests {REQUESTS}, failed {REQUESTS - statuses[200]}, answered by zone {shares}")
    assert statuses == {200: REQUESTS}
    assert sorted(numbers) == list(range(1, REQUESTS + 1)), "the count skips or repeats"
    assert set(shares) == set(ZONES) and min(shares.values()) > 0, "every host answers some"
    assert sum(shares.values()) == REQUESTS


def placed(hosts: list[dict[str, Any]]) -> dict[str, int]:
    """Instances by zone; each host runs one actor, from the one file."""
    digest = hashlib.sha256(COUNTER.read_bytes()).hexdigest()
    assert {actor["image_digest"] for host in hosts for actor in host["actors"]} == {digest}
    assert [len(host["actors"]) for host in hosts] == [1, 1, 1]
    return {host["labels"]["zone"]: host["actors"][0]["instances"] for host in hosts}


def test_seven_instances_on_three_hosts_placed_by_auctions_count_as_one(
    fleet: Fleet, env: dict[str, str], http_port: int
) -> None:
    env["WASMHOST_RPC_EVENTS"] = "true"
    for name, labels in (("one", ["--label", "zone=north"]), ("two", ["--label", "zone=south"]), ("three", [])):
        fleet.begin_host(name, *labels)
    for host in fleet.hosts.values():
        host.wait_for_output("host.started", timeout=60)
    refused = run(["start", "actor", str(COUNTER), "-c", "zone=east"], env=fleet.env)
    assert refused.returncode == 3, refused.stderr
    assert "none of 3 hosts has the labels zone=east" in refused.stderr
    fleet.do("label", "three", "zone=east")  # counts in the very next auction

    for zone, count in ZONES.items():
        fleet.do("start", "actor", str(COUNTER), "-c", f"zone={zone}", "--count", str(count))
    fleet.do("start", "provider", "bundled:httpserver", "--constraint", "zone=north")
    fleet.do("start", "provider", "bundled:keyvalue-redis", "--constraint", "zone=south")
    fleet.put_links()
    fleet.wait_until_it_answers()
    hosts = fleet.ask("get", "inventory")["hosts"]
    assert placed(hosts) == ZONES
    assert {host["labels"]["zone"]: len(host["providers"]) for host in hosts} == {"north": 1, "south": 1, "east": 0}
    with Answered(fleet.nats.url) as answered:
        outcome = count_up(http_port)
        fleet.hosts["one"].wait_until(
            lambda: sum(answered.by_host.values()) >= REQUESTS, timeout=20, what="the events of all calls"
        )
    check_and_print(hosts, answered.by_host, outcome)
    assert fleet.counter("demo") == REQUESTS


def test_a_manifest_spreads_its_instances_over_hosts_by_their_labels(
    start: Start, manifest: Callable[[str], Path], http_port: int, env: dict[str, str]
) -> None:
    file = str(manifest("kvcounter-zones"))
    refused = run(["up", file, "--hosts", "2", "--host-label", "1:zone=north", "--host-label", "2:zone=south"], env=env)
    assert refused.returncode == 5, refused.stderr
    assert "no host has the labels zone=east of spread 'east', which kvcounter needs" in refused.stderr
    zones = [f"{number}:zone={zone}" for number, zone in enumerate(ZONES, 1)]
    env["WASMHOST_RPC_EVENTS"] = "true"
    up = start("up", file, "--hosts", "3", *(part for zone in zones for part in ("--host-label", zone)))
    up.wait_for_output("Ready after", timeout=60)
    hosts = json.loads(run(["get", "inventory", "-o", "json"], env=env).stdout)["hosts"]
    assert placed(hosts) == ZONES
    assert {host["labels"]["zone"]: len(host["providers"]) for host in hosts} == {"north": 1, "south": 1, "east": 0}
    statuses, numbers = count_up(http_port)
    assert statuses == {200: REQUESTS}
    assert sorted(numbers) == list(range(1, REQUESTS + 1))
    assert up.stop() == 0


@pytest.mark.parametrize("text", ["zone=north", "0:zone=north", "2:zone=north", "1:zone", "1:hostcore.os=plan9"])
def test_a_label_of_no_host_is_refused(text: str, env: dict[str, str]) -> None:
    refused = run(["up", "--host-label", text], env=env)
    assert refused.returncode == 2
    assert "--host-label" in refused.stderr
