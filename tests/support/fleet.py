"""A lattice as its operator runs it: host daemons, NATS and Redis, each a process, commanded from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from lattice.claims import read_actor
from tests.support.http import Load, answers
from tests.support.nats import NatsServer
from tests.support.processes import ROOT, Running, run
from tests.support.redis import RedisServer

Start = Callable[..., Running]
PROVIDERS = ("bundled:httpserver", "bundled:keyvalue-redis")
COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"


class Fleet:
    """Hosts of one user on one lattice, and the counter on Redis that they run.

    Redis keeps each answered increment on disk at once, so that what it counted is the truth to compare answers with.
    """

    def __init__(
        self,
        start: Start,
        env: Mapping[str, str],
        folder: Path,
        http_port: int,
        *,
        nats: NatsServer | None = None,
    ) -> None:
        """``nats``: another server than one with default settings; started here."""
        self.nats = (nats or NatsServer(folder / "nats")).start()
        self.redis = RedisServer(folder / "redis").start()
        self.env = {**env, "WASMHOST_NATS_URL": self.nats.url}
        self.http_port = http_port
        self.hosts: dict[str, Running] = {}
        """Running daemons by name; that of the first one is ``""`` unless it was given one."""
        self._start = start

    def host(self, name: str = "", *options: str, url: str = "", prefix: Sequence[str] = ()) -> Running:
        """Start ``wasmhost host`` that trusts who signed the counter, and wait until it says that it started.

        ``url`` is where it finds NATS, if not at the server itself; ``prefix`` a command to run it by.
        """
        running = self.begin_host(name, *options, url=url, prefix=prefix)
        running.wait_for_output("host.started", timeout=60)
        return running

    def begin_host(self, name: str = "", *options: str, url: str = "", prefix: Sequence[str] = ()) -> Running:
        """As :meth:`host`, without waiting."""
        account = read_actor(COUNTER.read_bytes()).issuer
        named = ("--name", name) if name else ()
        arguments = ("--nats-url", url or self.nats.url, "--trust", account, "--allow-file-load", *named, *options)
        running = self._start("host", *arguments, prefix=prefix)
        self.hosts[name] = running
        return running

    def begin_hosts(self, names: Iterable[str], *options: str) -> None:
        """Start several at once and wait for all."""
        begun = [self.begin_host(name, *options) for name in names]
        for running in begun:
            running.wait_for_output("host.started", timeout=60)

    def do(self, *arguments: str) -> None:
        """Run a command that must succeed."""
        done = run(list(arguments), env=self.env)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"

    def do_all(self, commands: Iterable[Sequence[str]]) -> None:
        """Run commands at the same time; each must succeed."""
        with ThreadPoolExecutor() as several:
            for _ in several.map(lambda command: self.do(*command), list(commands)):
                pass

    def ask(self, *arguments: str) -> Any:
        """What a command that must succeed says as JSON."""
        done = run([*arguments, "-o", "json"], env=self.env)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return json.loads(done.stdout)

    def host_ids(self) -> dict[str, str]:
        """Host ids by name, of the hosts that answer."""
        return {host["friendly_name"]: host["host_id"] for host in self.ask("get", "hosts")["hosts"]}

    def actors_by_host(self) -> dict[str, int]:
        """How many actors run on each host that answers, by host id."""
        return {host["host_id"]: len(host["actors"]) for host in self.ask("get", "inventory")["hosts"]}

    def start_providers(self, host: str) -> None:
        """HTTP server and Redis provider, on the host of that name or id."""
        self.do_all(("start", "provider", provider, "--host", host) for provider in PROVIDERS)

    def put_links(self, **http_values: str) -> None:
        """Link the counter to both; ``http_values`` go into the link to the HTTP server beside its address."""
        address, url = f"address=127.0.0.1:{self.http_port}", f"URL=redis://{self.redis.address}/"
        more = [f"{name}={value}" for name, value in http_values.items()]
        to_http = ("link", "put", "kvcounter", "bundled:httpserver", "wasmcloud:httpserver", address, *more)
        to_redis = ("link", "put", "kvcounter", "bundled:keyvalue-redis", "wasmcloud:keyvalue", url)
        self.do_all((to_http, to_redis))

    def start_counter(self, *hosts: str, providers_on: str = "", **http_values: str) -> None:
        """The counter on each of ``hosts``, its providers on the first of them; returns once it answers over HTTP."""
        starts = [("start", "provider", provider, "--host", providers_on or hosts[0]) for provider in PROVIDERS]
        self.do_all(starts + [("start", "actor", str(COUNTER), "--host", host) for host in hosts])
        self.put_links(**http_values)
        self.wait_until_it_answers()

    def wait_until_it_answers(self, *, timeout: float = 30) -> None:
        """Return once the counter answers over HTTP; the output of the first host tells why it does not."""
        first = next(iter(self.hosts.values()))
        first.wait_until(lambda: answers(self.http_port, "/warm"), timeout=timeout, what="a 200 of the counter")

    def load(self, path: str = "/load", *, clients: int = 4) -> Load:
        """Clients that count up ``path``; use with ``with``."""
        return Load(self.http_port, path, clients=clients)

    def links(self) -> list[tuple[str, str, str]]:
        links = self.ask("get", "links")["links"]
        return [(link["contract_id"], link["provider_id"], json.dumps(link["values"])) for link in links]

    def counter(self, path: str) -> int:
        """What Redis has counted for ``/path``; 0 when it never did."""
        answer = self.redis.command("GET", f"counter::{path.lstrip('/')}")
        return 0 if answer.startswith(b"$-1") else int(answer.split(b"\r\n")[1])

    def check_counted(self, load: Load) -> None:
        """No answered request is lost or counted twice; one that failed may have counted, as nobody knows."""
        counted, answered, failed = self.counter(load.path), load.statuses[200], len(load.failures)
        assert 0 <= counted - answered <= failed, f"{counted} counted, {answered} answered, {failed} failed"

    def stop(self) -> None:
        """Kill whatever still runs of it, whatever state it is in."""
        for running in self.hosts.values():
            running.kill()
        self.nats.stop()
        self.redis.stop()
