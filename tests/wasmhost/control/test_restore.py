"""A host that is started again comes back with what it was asked to run: real daemons, whatever ended them."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import wasmtime

from lattice import bundled
from lattice.claims import read_actor
from lattice.client import ControlClient
from lattice.connection import Connection
from lattice.errors import RemoteError, Unreachable
from lattice.inventory import Inventory
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.signing import sign_actor
from tests.support.actors import ACCOUNT
from tests.support.actors import ECHO as ECHO_WAT
from tests.support.http import answers
from tests.support.nats import NatsServer, free_port
from tests.support.processes import ROOT, Running, user_environment
from tests.wasmhost.control.waiting import EventLog

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
ECHO_ID = read_actor(ECHO.read_bytes()).subject
HTTP = bundled.find("bundled:httpserver")
STORE = bundled.find("bundled:keyvalue")
MANAGED = {"wasmcloud.dev/managed-by": "wadm", "wasmcloud.dev/appspec": "shop"}
MANY = 30
PASSWORD = "hunter2-in-the-configuration"


class RestartedHost:
    """One host daemon of one state folder, started again and again."""

    def __init__(self, folder: Path, nats: NatsServer, lattice: str, client: Connection, events: EventLog) -> None:
        self.state = folder / "state"
        self.events = events
        self.control = ControlClient(client, lattice)
        self.host_id = ""
        self.process: Running | None = None
        self._command = ["host", "--nats-url", nats.url, "--lattice", lattice, "--state", str(self.state)]
        self._command += ["--allow-file-load", "--trust", read_actor(ECHO.read_bytes()).issuer]
        self._env = user_environment(folder / "home")
        self._starts = 0
        self.memory = self.state / "duties" / f"{lattice}.json"

    async def start(self, *flags: str, **environment: str) -> Running:
        self.process = Running([*self._command, *flags], env={**self._env, **environment})
        self._starts += 1
        self.host_id = (await self.events.wait("host_started", count=self._starts, timeout=30)).source
        return self.process

    async def end(self, how: int) -> None:
        """Returns when the process is gone."""
        process = self.process
        assert process is not None
        if how == signal.SIGKILL:
            os.kill(process.process.pid, how)
            await asyncio.to_thread(process.process.wait, 10)
        else:
            assert await asyncio.to_thread(process.stop, how) == 0

    async def inventory(self) -> Inventory:
        return await self.control.inventory(self.host_id)

    async def running(self) -> tuple[dict[str, int], set[tuple[str, str]]]:
        """Instances by the annotation ``set``, and reference and link name of each provider."""
        inventory = await self.inventory()
        sets: dict[str, int] = {}
        for actor in inventory.actors:
            for instance in actor.instances:
                name = instance.annotations.get("set", "")
                sets[name] = sets.get(name, 0) + instance.count
        return sets, {(provider.image_ref or "", provider.link_name) for provider in inventory.providers}

    async def has(self, sets: dict[str, int], *providers: tuple[str, str]) -> None:
        """Wait until just this runs, ready."""
        async with asyncio.timeout(40):
            while True:
                try:
                    ready = all(provider.state == "ready" for provider in (await self.inventory()).providers)
                    if ready and await self.running() == (sets, set(providers)):
                        return
                except Unreachable:
                    pass
                await asyncio.sleep(0.02)

    async def remembers(self, *texts: str, without: str = "") -> None:
        """Wait until the file holds these."""
        async with asyncio.timeout(10):
            while True:
                text = await asyncio.to_thread(_read, self.memory)
                if all(each in text for each in texts) and not (without and without in text):
                    return
                await asyncio.sleep(0.02)

    async def is_degraded(self, reason: str | None) -> None:
        """Wait until the inventory gives this reason, or none."""
        async with asyncio.timeout(10):
            while True:
                degraded = (await self.inventory()).degraded
                if (reason is None and degraded is None) or (reason and reason in (degraded or "")):
                    return
                await asyncio.sleep(0.02)

    def said(self, event: str) -> bool:
        assert self.process is not None
        return self.process.has_printed(event)


def _read(path: Path) -> str:
    return path.read_text() if path.exists() else ""


@pytest.fixture
async def restarted(
    tmp_path: Path, nats_server: NatsServer, lattice: str, client: Connection
) -> AsyncIterator[RestartedHost]:
    made = RestartedHost(tmp_path, nats_server, lattice, client, await EventLog.open(client, lattice))
    yield made
    if made.process is not None:
        made.process.kill()


async def test_a_host_comes_back_with_everything_whatever_ended_it(restarted: RestartedHost) -> None:
    host, control = restarted, restarted.control
    await host.start()
    port = free_port()
    limited = {"set": "one", "wasmhost/limits.memory_mib": "32"}
    await control.launch_actor(host.host_id, ECHO.as_uri(), 3, limited)
    await host.events.wait("actors_started", count=1)
    await control.scale_actor(host.host_id, ECHO.as_uri(), count=2, annotations={"set": "two"})
    await control.start_provider(host.host_id, "bundled:httpserver", "default", None, {"note": "mine"})
    await control.start_provider(host.host_id, "bundled:keyvalue", "cache", json.dumps({"password": PASSWORD}))
    link = LinkDefinition(
        actor_id=ECHO_ID,
        provider_id=HTTP.public_key,
        contract_id=HTTP.contract_id,
        values={"address": f"127.0.0.1:{port}"},
    )
    await control.put_link(link)
    everything = {"one": 3, "two": 2}, ("bundled:httpserver", "default"), ("bundled:keyvalue", "cache")
    await host.has(*everything)
    await host.remembers('"count": 3', '"count": 2', "bundled:httpserver", "bundled:keyvalue", "note")
    before = await host.inventory()

    for how in (signal.SIGKILL, signal.SIGTERM):
        await host.end(how)
        await host.start()
        await host.has(*everything)
        async with asyncio.timeout(15):
            while not await asyncio.to_thread(answers, port):  # noqa: ASYNC110 another process gets ready
                await asyncio.sleep(0.02)
        after = await host.inventory()
        assert [i.annotations for a in after.actors for i in a.instances] == [
            i.annotations for a in before.actors for i in a.instances
        ]
        assert sorted(str(p.annotations) for p in after.providers) == ["{'note': 'mine'}", "{}"]

    assert stat.S_IMODE(host.memory.stat().st_mode) == 0o600
    assert stat.S_IMODE(host.memory.parent.stat().st_mode) == 0o700
    files = [path for path in host.state.rglob("*") if path.is_file()]
    assert host.memory in files
    assert [path for path in files if PASSWORD.encode() in path.read_bytes()] == []

    # what is stopped stays stopped, in whatever way the host ends then
    await control.stop_actor(host.host_id, ECHO_ID, annotations={"set": "one"})
    await control.stop_provider(host.host_id, STORE.public_key, link_name="cache")
    await host.remembers("bundled:httpserver", without="bundled:keyvalue")
    await host.remembers('"count": 2', without='"count": 3')
    await control.stop_host(host.host_id)
    assert host.process is not None
    await asyncio.to_thread(host.process.process.wait, 20)
    await host.start()
    await host.has({"two": 2}, ("bundled:httpserver", "default"))


async def test_what_cannot_come_back_is_told_and_does_not_keep_the_rest_from_it(
    restarted: RestartedHost, tmp_path: Path
) -> None:
    host, control = restarted, restarted.control
    await host.start()
    file = tmp_path / "echo.wasm"
    shutil.copy(ECHO, file)
    await control.launch_actor(host.host_id, file.as_uri(), 1, {})
    await control.start_provider(host.host_id, "bundled:keyvalue", configuration='{"password": "x"}')
    await host.has({"": 1}, ("bundled:keyvalue", "default"))
    await host.remembers("echo.wasm", "bundled:keyvalue")
    await host.end(signal.SIGKILL)

    file.rename(tmp_path / "away")
    text = host.memory.read_text()
    sealed = json.loads(text)["providers"][0]["configuration"]
    host.memory.write_text(text.replace(sealed, sealed[:-8] + "AAAAAAA="))
    await host.start()
    told = await host.events.wait("actor_start_failed", actor_ref=file.as_uri())
    assert "echo.wasm" in told.data["error"]
    told = await host.events.wait("provider_start_failed", provider_ref="bundled:keyvalue")
    assert "sealed by a host with another key" in told.data["error"]
    assert await host.running() == ({}, set())
    await host.remembers("echo.wasm", "bundled:keyvalue")
    assert host.said("duties.not_restored")
    await control.stop_provider(host.host_id, STORE.public_key)  # accepted, and no longer meant to come back
    await host.remembers("echo.wasm", without="bundled:keyvalue")
    (tmp_path / "away").rename(file)
    await host.has({"": 1})  # it is tried again
    await host.end(signal.SIGKILL)
    file.unlink()
    told_before = len(host.events.named("actor_start_failed"))
    await host.start()
    await host.events.wait("actor_start_failed", count=told_before + 1)
    await control.stop_actor(host.host_id, ECHO_ID)
    await host.remembers("actors", without="echo.wasm")
    with pytest.raises(RemoteError, match="not running on this host"):
        await control.stop_actor(host.host_id, ECHO_ID)


async def test_what_a_manager_started_waits_for_it_and_comes_back_without_it(restarted: RestartedHost) -> None:
    host, control = restarted, restarted.control
    await host.start()
    for name, given in (
        ("shop", {**MANAGED, "set": "shop"}),
        ("more of shop", {**MANAGED, "set": "more of shop"}),
        ("blog", {**MANAGED, "set": "blog", "wasmcloud.dev/appspec": "blog"}),
        ("mine", {"set": "mine"}),
    ):
        await control.scale_actor(host.host_id, ECHO.as_uri(), count=2, annotations=given)
        await host.events.wait("actor_scaled", annotations=given)
        await host.remembers(f'"{name}"')
    await host.end(signal.SIGKILL)

    await host.start(WASMHOST_MANAGER_WAIT_MS="5000")
    await host.has({"mine": 2})
    assert host.said("duties.waiting_for_manager")
    # the manager is back, with another wish, and no wish at all for the rest of its application
    await control.scale_actor(host.host_id, ECHO.as_uri(), count=1, annotations={**MANAGED, "set": "shop"})
    await host.has({"mine": 2, "shop": 1})
    await host.has({"mine": 2, "shop": 1, "blog": 2})
    await host.remembers("blog", without="more of shop")


async def test_a_host_that_ends_or_is_told_otherwise_while_it_restores_forgets_nothing(
    restarted: RestartedHost, tmp_path: Path
) -> None:
    host, control = restarted, restarted.control
    await host.start("--trust", ACCOUNT.public)
    wasm = wasmtime.wat2wasm(ECHO_WAT)
    keys = [KeyPair.generate(Role.MODULE) for _ in range(MANY)]
    files = [tmp_path / f"{number}.wasm" for number in range(MANY)]
    for key, file in zip(keys, files, strict=True):
        file.write_bytes(sign_actor(bytes(wasm), account=ACCOUNT, module=key, name=file.stem))
    for key, file in zip(keys, files, strict=True):
        await control.scale_actor(host.host_id, file.as_uri(), count=1, annotations={"set": key.public})
    everything = {key.public: 1 for key in keys}
    await host.has(everything)
    await host.remembers(*(file.as_uri() for file in files))
    await host.end(signal.SIGKILL)

    await host.start("--trust", ACCOUNT.public)
    await host.end(signal.SIGTERM)  # while it brings them back, or just before or after that
    assert len(json.loads(host.memory.read_text())["actors"]) == MANY

    await host.start("--trust", ACCOUNT.public)
    await control.stop_actor(host.host_id, keys[-1].public)
    await control.scale_actor(host.host_id, files[-2].as_uri(), count=3, annotations={"set": keys[-2].public})
    del everything[keys[-1].public]
    await host.has({**everything, keys[-2].public: 3})
    await host.remembers(without=files[-1].as_uri())


async def test_a_file_that_cannot_be_read_is_set_aside(restarted: RestartedHost) -> None:
    host, control = restarted, restarted.control
    host.memory.parent.mkdir(parents=True, mode=0o700)
    host.memory.write_bytes(b'{"version":1,"actors":[{"actor_id":')
    await host.start()
    assert host.said("duties.set_aside")
    assert host.memory.with_suffix(".json.damaged").read_bytes().startswith(b'{"version":1')
    await control.launch_actor(host.host_id, ECHO.as_uri(), 1, {})
    await host.remembers(ECHO_ID)


async def test_a_state_folder_that_cannot_be_written_is_reported_and_used_again_later(
    restarted: RestartedHost,
) -> None:
    host, control = restarted, restarted.control
    in_the_way = host.memory.with_name(f".{host.memory.name}.new")
    in_the_way.mkdir(parents=True)
    await host.start()
    await control.launch_actor(host.host_id, ECHO.as_uri(), 1, {})
    await host.has({"": 1})
    await host.is_degraded("cannot be written")
    assert host.said("duties.not_written")
    in_the_way.rmdir()
    await control.scale_actor(host.host_id, ECHO.as_uri(), count=4)
    await host.remembers('"count": 4')
    await host.is_degraded(None)


async def test_no_restore_neither_remembers_nor_brings_back(restarted: RestartedHost) -> None:
    host, control = restarted, restarted.control
    await host.start()
    await control.launch_actor(host.host_id, ECHO.as_uri(), 2, {})
    await host.remembers(ECHO_ID)
    kept = host.memory.read_bytes()
    await host.end(signal.SIGTERM)
    await host.start("--no-restore")
    await control.start_provider(host.host_id, "bundled:keyvalue")
    await host.has({}, ("bundled:keyvalue", "default"))
    await host.end(signal.SIGTERM)
    assert host.memory.read_bytes() == kept
