"""What the chaos happens to: a NATS server, a Redis server, three hosts, and what each of them is meant to run."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from lattice.claims import read_actor
from lattice.client import ControlClient
from lattice.connection import ConnectOptions, connect
from lattice.errors import LatticeError
from lattice.inventory import Inventory
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor
from tests.support.actors import ACCOUNT
from tests.support.daemons import COUNTER, Daemon
from tests.support.nats import NatsServer, free_port
from tests.support.processes import run, user_environment, wait_until
from tests.support.redis import RedisServer

HTTP, REDIS = "bundled:httpserver", "bundled:keyvalue-redis"
LATTICE = "default"
MOVING = 30.0
"""Seconds for hosts to be ready for a move, and again for what was moved to be there."""
RESTORE = 20.0
"""Seconds in which a host that was started again should run all it ran; after that it is commanded to."""
_COMMAND_TIMEOUT = 60.0


@dataclass
class Wanted:
    """What one host is meant to run."""

    instances: int
    providers: tuple[tuple[str, str], ...]
    """Reference and link name."""


@dataclass
class Place:
    """One host, and what is to run there."""

    daemon: Daemon
    wanted: Wanted
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while it is frozen, restarted or commanded."""
    restored: int = 0
    """How often it came back, by itself, with all that it was to run."""
    commanded: int = 0
    """How often it needed commands for that."""


class World:
    """The servers and hosts, and a service manager that starts again what died."""

    def __init__(self, folder: Path, say: Callable[[str], None]) -> None:
        self.folder = folder
        self.say = say
        self.nats = NatsServer(folder / "nats")
        self.redis = RedisServer(folder / "redis")
        self.env = user_environment(folder / "home", WASMHOST_NATS_URL=self.nats.url)
        self.ports = {"a": free_port(), "b": free_port()}
        self.revision = 1
        self.link_round = 0
        self._module = KeyPair.generate(Role.MODULE)
        self.actor = self._module.public
        plans = (
            Wanted(2, ((HTTP, "a"), (REDIS, "default"))),
            Wanted(2, ((HTTP, "b"), (REDIS, "default"))),
            Wanted(2, ()),
        )
        self.places = [
            Place(Daemon(f"chaos-{n}", self.nats, self.env, folder, "--trust", ACCOUNT.public), plan)
            for n, plan in enumerate(plans, 1)
        ]
        self._closing = threading.Event()
        self._manager = threading.Thread(target=self._manage, daemon=True)

    # --- beginning and end ---

    def open(self) -> None:
        self.nats.start()
        self.redis.start()
        for place in self.places:
            place.daemon.begin()
        for place in self.places:
            place.daemon.wait_for("host.started", timeout=60)
        with ThreadPoolExecutor(len(self.places)) as operators:
            list(operators.map(self.complete, self.places))
        self.put_links()
        self._manager.start()

    def close(self) -> list[int]:
        """Stop the hosts in order; their exit codes."""
        self._closing.set()
        self._manager.join(30)
        codes = [place.daemon.stop() for place in self.places]
        self.nats.stop()
        self.redis.stop()
        return codes

    def abandon(self) -> None:
        """Leave nothing, whatever state it is in."""
        self._closing.set()
        for place in self.places:
            place.daemon.end()
        self.nats.stop()
        self.redis.stop()

    # --- commands, as an operator gives them ---

    def do(self, *arguments: str, timeout: float = _COMMAND_TIMEOUT, enough: tuple[int, ...] = (0, 5)) -> None:
        """Give a command until it is done: what fails while a server is away is tried again.

        A conflict, exit code 5, is as good: it runs already. ``enough`` are the exit codes that end it.
        """
        deadline = time.monotonic() + timeout
        while True:
            try:
                done = run(list(arguments), env=self.env, timeout=120)
            except subprocess.TimeoutExpired:
                raise AssertionError(f"{arguments}: no end within two minutes") from None
            if done.returncode in enough or self._closing.is_set():
                return
            reason = done.stderr.strip()
            assert reason, f"{arguments}: failed without a reason"
            assert done.returncode != 2 and "Traceback" not in reason, f"{arguments}: {reason}"
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout:g} s: wasmhost {' '.join(arguments)}: {reason}")
            self.say(f"    again: wasmhost {' '.join(arguments)[:90]}: {reason.splitlines()[-1][:200]}")
            time.sleep(1)

    def image(self, revision: int) -> Path:
        """The counter as that revision of one actor, signed by the test."""
        path = self.folder / f"kvcounter-{revision}.wasm"
        if not path.exists():
            granted = read_actor(COUNTER.read_bytes()).capabilities
            wasm = sign_actor(
                COUNTER.read_bytes(),
                account=ACCOUNT,
                module=self._module,
                name="kvcounter",
                capabilities=tuple(granted),
                revision=revision,
            )
            path.write_bytes(wasm)
        return path

    def put_links(self) -> None:
        """All links; every round has other values that change nothing in what the application does."""
        for name, port in self.ports.items():
            values = f"address=127.0.0.1:{port}", f"timeout_ms={4000 + self.link_round}"
            self.do("link", "put", self.actor, HTTP, "wasmcloud:httpserver", "--link-name", name, *values)
        self.put_store()

    def put_store(self) -> None:
        url = f"URL=redis://{self.redis.address}/{'' if self.link_round % 2 else '0'}"
        self.do("link", "put", self.actor, REDIS, "wasmcloud:keyvalue", url)

    def complete(self, place: Place) -> None:
        """Have a host run what it is to run, by command where it does not do so by itself."""
        name, wanted = place.daemon.name, place.wanted
        inventory = self.inventory(name)
        present = {(each.image_ref, each.link_name) for each in inventory.providers} if inventory else set()
        for reference, link_name in wanted.providers:
            if (reference, link_name) not in present:
                self.do("start", "provider", reference, "--host", name, "--link-name", link_name)
        running = _instances(inventory, self.actor)
        if not running and wanted.instances:
            self.do("start", "actor", str(self.image(self.revision)), "--host", name, "--count", str(wanted.instances))
            return
        if set(running) - {self.revision}:
            self.do("update", "actor", self.actor, str(self.image(self.revision)), "--host", name)
        if len(running) != wanted.instances:
            self.do("scale", "actor", self.actor, str(wanted.instances), "--host", name)

    def wait_until_complete(self) -> None:
        """Let what an earlier fault has broken be mended, for a while."""
        deadline = time.monotonic() + MOVING
        while time.monotonic() < deadline:
            if all(place.daemon.started and self.is_complete(place) for place in self.places):
                return
            time.sleep(0.2)

    def move(self, *commands: tuple[str, ...]) -> None:
        """Give commands that move things between hosts; from then on, where they ended up is where they are to run."""
        with contextlib.ExitStack() as held:
            for place in self.places:
                held.enter_context(place.lock)
            if not all(place.daemon.started and self.is_complete(place) for place in self.places):
                self.say("    nothing is moved: hosts are still busy with an earlier fault")
                return
            for command in commands:
                # half-way through when something fails, it may have nothing to move any more, or only a part
                self.do(*command, enough=(0, 1, 3, 5))
            self._adopt(time.monotonic() + MOVING)

    def _adopt(self, deadline: float) -> None:
        """Have what runs where it runs now, once all of it is there."""
        before = sum(place.wanted.instances for place in self.places)
        while True:
            inventories = self.inventories()
            found = {
                name: Wanted(
                    len(_instances(inventory, self.actor)),
                    tuple(sorted((each.image_ref or "", each.link_name) for each in inventory.providers)),
                )
                for name, inventory in inventories.items()
            }
            providers = [each for wanted in found.values() for each in wanted.providers]
            right = (
                len(found) == len(self.places)
                and all(providers.count((HTTP, name)) == 1 for name in self.ports)
                and (REDIS, "default") in providers
                and sum(wanted.instances for wanted in found.values()) == before
            )
            if right:
                for place in self.places:
                    place.wanted = found[place.daemon.name]
                return
            if time.monotonic() > deadline:
                raise AssertionError(f"after a move of {before} instances: {found}")
            time.sleep(0.3)

    def is_complete(self, place: Place) -> bool:
        """Whether a host says that it runs what it is to run."""
        inventory = self.inventory(place.daemon.name)
        if inventory is None:
            return False
        present = sorted((each.image_ref or "", each.link_name) for each in inventory.providers)
        running = _instances(inventory, self.actor)
        return present == sorted(place.wanted.providers) and running == [self.revision] * place.wanted.instances

    # --- what runs ---

    def inventories(self) -> dict[str, Inventory]:
        """What each host that answers says about itself, by name; empty while there is no server."""

        async def ask() -> dict[str, Inventory]:
            connection = await connect(ConnectOptions(url=self.nats.url, name="chaos"))
            try:
                client = ControlClient(connection, LATTICE)
                found = [await client.inventory(host.id) for host in await client.ping_hosts(1.0)]
                return {inventory.friendly_name: inventory for inventory in found}
            finally:
                await connection.drain()

        try:
            return asyncio.run(ask())
        except LatticeError:
            return {}

    def inventory(self, name: str) -> Inventory | None:
        return self.inventories().get(name)

    def stored(self, key: str) -> int:
        answer = self.redis.command("GET", key)
        return int(answer.split(b"\r\n")[1]) if not answer.startswith(b"$-1") else 0

    # --- the service manager ---

    def _manage(self) -> None:
        while not self._closing.wait(0.3):
            for place in self.places:
                if not place.daemon.running and place.lock.acquire(blocking=False):
                    try:
                        self._revive(place)
                    except AssertionError as error:
                        self.say(f"    {place.daemon.name} does not come back: {error}")
                    finally:
                        place.lock.release()

    def _revive(self, place: Place) -> None:
        time.sleep(0.5)
        began = time.monotonic()
        place.daemon.begin()
        wait_until(
            lambda: self._closing.is_set() or place.daemon.started or not place.daemon.running,
            timeout=60,
            what=f"{place.daemon.name} started again: {place.daemon.tail()}",
        )
        deadline = time.monotonic() + RESTORE
        while place.daemon.started and not self._closing.is_set():
            if self.is_complete(place):
                place.restored += 1
                break
            if time.monotonic() > deadline:
                place.commanded += 1
                self.complete(place)
                break
            time.sleep(0.3)
        self.say(f"    {place.daemon.name} is back after {time.monotonic() - began:.1f} s")


def _instances(inventory: Inventory | None, actor: str) -> list[int]:
    """The revision of each instance of an actor."""
    actors = inventory.actors if inventory else ()
    return [instance.revision for each in actors if each.id == actor for instance in each.instances]
