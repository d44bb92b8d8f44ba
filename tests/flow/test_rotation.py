"""Cluster keys change on two hosts under load; a stolen provider key stops working; no seed shows anywhere."""

from __future__ import annotations

import asyncio
import io
import json
import signal
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import structlog

from lattice.antiforgery import Signer
from lattice.claims import read_actor
from lattice.connection import ConnectOptions, connect
from lattice.contracts.httpserver import HttpRequest
from lattice.errors import LatticeError
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role, derive
from lattice.rpc import RpcClient
from tests.support.http import Load, answers
from tests.support.nats import NatsServer
from tests.support.processes import ROOT, Running
from wasmhost.cli.entry import run

COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"
ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"


class Lattice:
    """A NATS server and two hosts of one user, ``first`` and ``second``, commanded from the command line."""

    def __init__(self, start: Callable[..., Running], nats: NatsServer, home: Path) -> None:
        self.nats = nats
        self.shared = home / ".local" / "state" / "wasmhost"
        self._start = start
        self.hosts: list[Running] = []

    def host(self, name: str, *options: str) -> Running:
        trust = ("--trust", read_actor(COUNTER.read_bytes()).issuer, "--allow-file-load")
        running = self._start("host", "--nats-url", self.nats.url, "--name", name, *trust, *options)
        running.wait_for_output("host.started")
        self.hosts.append(running)
        return running

    def do(self, *arguments: str, code: int = 0) -> str:
        """Run a command, in this process to save time; what it printed."""
        shown = io.StringIO()
        with redirect_stdout(shown), redirect_stderr(shown):
            ended = run(arguments)
        assert ended == code, f"{arguments}: {ended} {shown.getvalue()}"
        return shown.getvalue()

    def refused(self, *arguments: str) -> str:
        """The words of a refusal with exit code 5."""
        return " ".join(self.do(*arguments, code=5).split())

    def ask(self, *arguments: str) -> Any:
        return json.loads(self.do(*arguments, "-o", "json"))

    def seed(self, public: str) -> KeyPair:
        """The key pair of a public key, from the files of the hosts."""
        for path in self.shared.rglob("*.nk"):
            key = KeyPair.from_seed(path.read_text())
            if key.public == public:
                return key
        raise AssertionError(public)


@pytest.fixture
def lattice(
    start: Callable[..., Running],
    env: dict[str, str],
    tmp_path: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Lattice]:
    nats = NatsServer(tmp_path / "nats").start()
    monkeypatch.setenv("HOME", env["HOME"])
    monkeypatch.setenv("WASMHOST_NATS_URL", nats.url)
    try:
        yield Lattice(start, nats, home)
    finally:
        nats.stop()
        structlog.reset_defaults()


def counting(lattice: Lattice, port: int) -> None:
    """The counter on the second host, its HTTP server on the first, its store on the second."""
    lattice.host("first")
    lattice.host("second")
    lattice.do("start", "provider", "bundled:httpserver", "--host", "first")
    lattice.do("start", "provider", "bundled:keyvalue", "--host", "first")
    lattice.do("start", "actor", str(COUNTER), "--host", "second")
    lattice.do("link", "put", "kvcounter", "bundled:httpserver", "wasmcloud:httpserver", f"address=127.0.0.1:{port}")
    lattice.do("link", "put", "kvcounter", "bundled:keyvalue", "wasmcloud:keyvalue")
    lattice.hosts[0].wait_until(lambda: answers(port, "/warm"), timeout=20, what="an answer across two hosts")


class Wiretap:
    """Everything that crosses NATS, on ``>``, as one text."""

    def __init__(self, url: str) -> None:
        self.heard: list[bytes] = []
        self._url = url
        self._ready = threading.Event()
        self._over = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._listen()), daemon=True)

    async def _listen(self) -> None:
        connection = await connect(ConnectOptions(url=self._url, name="wiretap"))
        await connection.subscribe(
            ">", lambda subject, reply, headers, payload: self.heard.append(subject.encode() + b" " + payload)
        )
        self._ready.set()
        await asyncio.to_thread(self._over.wait)
        await connection.drain()

    def __enter__(self) -> Wiretap:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(20)


def show(what: str, load: Load) -> None:
    """The figures."""
    pause = max(after - before for before, after in pairwise(sorted(load.good_at)))
    print(f"{what}: {sum(load.statuses.values())} requests, {len(load.failures)} failed, longest pause {pause:.2f} s")


def arguments_and_environment(running: Running) -> bytes:
    """What ``ps`` shows of a host and its children to anybody, and what their own user may read of their start."""
    found = b""
    for process in running.family():
        for what in ("cmdline", "environ"):
            try:
                found += Path(f"/proc/{process.pid}/{what}").read_bytes()
            except OSError:
                continue
    return found


def assert_no_seed_shows(lattice: Lattice, tap: Wiretap, store: Path, clusters: list[KeyPair]) -> None:
    """Neither of these cluster keys nor of what is derived from them for providers and clients."""
    providers = {provider["provider_id"] for provider in lattice.ask("get", "providers")["providers"]}
    subjects = [("provider", provider, "default") for provider in providers] + [("client", "wasmhost-cli", "")]
    secrets = clusters + [
        derive(cluster, lattice="default", purpose=purpose, subject=subject, link_name=link)
        for cluster in clusters
        for purpose, subject, link in subjects
    ]
    assert len(secrets) == 8
    places = {
        "NATS": b"\n".join(tap.heard),
        "arguments and environment": b"".join(arguments_and_environment(host) for host in lattice.hosts),
        "logs": "".join(host.output for host in lattice.hosts).encode(),
    }
    places |= {
        str(path): path.read_bytes()
        for folder in (lattice.shared, store)
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".nk"
    }
    assert any(place.endswith("cluster.json") for place in places)
    for key in secrets:
        assert [place for place, content in places.items() if key.seed.encode() in content] == []
    for path in lattice.shared.rglob("*"):
        private = path.suffix == ".nk" or path.name == "cluster.json"
        assert not private or stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((lattice.shared / "cluster").stat().st_mode) == 0o700


def test_a_whole_rotation_on_two_hosts_under_load_fails_no_request_and_shows_no_seed(
    lattice: Lattice, http_port: int, tmp_path: Path
) -> None:
    counting(lattice, http_port)
    ((old, _), *_) = {(host["signing"], host["host_id"]) for host in lattice.ask("cluster", "list")["hosts"]}
    new = lattice.ask("keys", "gen", "cluster", "--out", str(lattice.shared / "cluster" / "new.nk"))["public_key"]
    assert lattice.ask("cluster", "list")["todo"] == []

    with Wiretap(lattice.nats.url) as tap, Load(http_port, "/load", clients=4) as load:
        lattice.hosts[0].wait_until(lambda: len(load.good_at) > 50, timeout=30, what="traffic")
        assert "does not accept" in lattice.refused("cluster", "rotate", "first", "--use", new)
        lattice.do("cluster", "rotate", "first", "--add", str(lattice.shared / "cluster" / "new.nk"))
        for named in (new, "new"):
            assert "second" in lattice.refused("cluster", "rotate", "first", "--use", named)
        assert any("--add it on second" in step for step in lattice.ask("cluster", "list")["todo"])
        lattice.do("cluster", "rotate", "second", "--add", "new")
        assert "signs with" in lattice.refused("cluster", "rotate", "second", "--remove", old)
        lattice.do("cluster", "rotate", "first", "--use", new)
        lattice.do("call", "kvcounter", "HttpServer.HandleRequest", '{"path": "/cli"}')
        assert "second still signs" in lattice.refused("cluster", "rotate", "first", "--remove", old)
        lattice.do("cluster", "rotate", "second", "--use", "new")
        assert any("--remove it" in step for step in lattice.ask("cluster", "list")["todo"])
        lattice.do("cluster", "rotate", "first", "--remove", old)
        lattice.do("cluster", "rotate", "second", "--remove", old)
        done = len(load.good_at)
        lattice.hosts[0].wait_until(lambda: len(load.good_at) > done + 50, timeout=30, what="traffic afterwards")
        lattice.do("call", "kvcounter", "HttpServer.HandleRequest", '{"path": "/cli"}')
    show("rotation", load)
    assert set(load.statuses) == {200}, load.failures

    listed = lattice.ask("cluster", "list")
    assert listed["todo"] == []
    assert {(host["signing"], *host["accepted"]) for host in listed["hosts"]} == {(new, new)}
    assert [(host["removed"], host["issuer_alarms"]) for host in listed["hosts"]] == [([old], 0)] * 2
    providers = {provider["name"]: provider["restarts"] for provider in lattice.ask("get", "providers")["providers"]}
    assert set(providers.values()) == {0}

    assert_no_seed_shows(lattice, tap, tmp_path / "nats", [lattice.seed(old), lattice.seed(new)])
    assert new.encode() in b"".join(tap.heard), "the tap hears what is said of keys"

    # a restarted host goes on with what was changed, and one's own earlier key can come back
    assert lattice.hosts.pop().stop(signal.SIGTERM) == 0
    lattice.host("second")
    assert {(host["signing"], *host["accepted"]) for host in lattice.ask("cluster", "list")["hosts"]} == {(new, new)}
    lattice.do("cluster", "rotate", "second", "--add", old)
    again = next(host for host in lattice.ask("cluster", "list")["hosts"] if host["friendly_name"] == "second")
    assert set(again["held"]) == {old, new} and again["removed"] == []


def test_a_stolen_provider_key_is_refused_by_both_hosts_once_it_is_revoked(lattice: Lattice, http_port: int) -> None:
    counting(lattice, http_port)
    lattice.do("start", "actor", str(ECHO), "--host", "first")
    provider = next(
        each["provider_id"]
        for each in lattice.ask("get", "providers")["providers"]
        if each["contract_id"] == "wasmcloud:httpserver"
    )
    actors = {each["host_id"]: each["actor_id"] for each in on_hosts(lattice)}
    assert len(actors) == 2
    cluster = KeyPair.from_seed((lattice.shared / "cluster.nk").read_text(), Role.CLUSTER)
    stolen = derive(cluster, lattice="default", purpose="provider", subject=provider, link_name="default")

    async def forge() -> list[str]:
        """What each host's actor answers to a call that the thief signs in the provider's name."""
        connection = await connect(ConnectOptions(url=lattice.nats.url))
        client = RpcClient(connection, "default", Signer(stolen, stolen.public))
        origin = Entity.provider(provider, "wasmcloud:httpserver", "default")
        found = []
        for actor in actors.values():
            try:
                msg = HttpRequest(method="GET", path="/stolen").encode()
                await client.call(
                    origin=origin, target=Entity.actor(actor), operation="HttpServer.HandleRequest", msg=msg, timeout=5
                )
                found.append("")
            except LatticeError as error:
                found.append(str(error))
        await connection.drain()
        return found

    assert asyncio.run(forge()) == ["", ""]
    with Load(http_port, "/load", clients=4) as load:
        lattice.hosts[0].wait_until(lambda: len(load.good_at) > 50, timeout=30, what="traffic")
        revoked = lattice.ask("cluster", "revoke-provider", "httpserver")
        assert revoked == {"provider_id": provider, "link_name": "default", "generation": 1}
        refusals = asyncio.run(forge())
        done = len(load.good_at)
        lattice.hosts[0].wait_until(lambda: len(load.good_at) > done + 50, timeout=30, what="traffic afterwards")
    show("revocation", load)
    assert set(load.statuses) == {200}, load.failures
    assert len(refusals) == 2 and all("this key of the provider was revoked" in text for text in refusals)
    lattice.hosts[0].wait_until(
        lambda: asyncio.run(forge()) and all(host["issuer_alarms"] for host in lattice.ask("get", "hosts")["hosts"]),
        timeout=20,
        what="an alarm on both hosts",
    )
    events = [json.loads(line) for line in lattice.do("events", "--since", "1m", "-o", "json").splitlines()]
    assert {event["data"]["issuer"] for event in events if event["name"] == "issuer_mismatch"} == {stolen.public}

    # a host that comes later, and one that was away, know it, too
    assert lattice.hosts.pop().stop(signal.SIGTERM) == 0
    lattice.host("second")
    lattice.do("start", "actor", str(COUNTER), "--host", "second")
    assert all("revoked" in text for text in asyncio.run(forge()))


def on_hosts(lattice: Lattice) -> list[dict[str, str]]:
    """One running actor of each host."""
    return [
        {"host_id": host["host_id"], "actor_id": actor["actor_id"]}
        for host in lattice.ask("get", "inventory")["hosts"]
        for actor in host["actors"][:1]
    ]
