"""Providers of other makers, without our SDK: what they may do, and what of it reaches the rest of the host."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgpack
import pytest

from lattice.antiforgery import Signer
from lattice.connection import Connection
from lattice.errors import LatticeError, RemoteError
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.rpc import RpcClient
from tests.support.actors import ACCOUNT
from tests.support.archives import SERVICE, pack
from tests.support.foreign import classic, compiled, script
from tests.support.processes import ROOT
from tests.wasmhost.control.room import TIMING, Room, opened
from tests.wasmhost.control.waiting import alive, until
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host
from wasmhost.processes.leftovers import HOST_MARK, end_leftovers
from wasmhost.state import Keyring
from wasmhost.supervision.provider import SupervisedProvider

PROVIDER = SERVICE.public
ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
QUICK = replace(TIMING, health_timeout=0.4, health_interval=0.3, classic_hung_after=1.0)


@pytest.fixture
def trusting(config: HostConfig) -> HostConfig:
    return replace(config, trusted_issuers=frozenset({ACCOUNT.public}))


@pytest.fixture
async def room(trusting: HostConfig, client: Connection) -> AsyncIterator[Room]:
    async with opened(trusting, client, timing=QUICK) as room:
        yield room


def link(**values: str) -> LinkDefinition:
    return LinkDefinition(actor_id=ACTOR, provider_id=PROVIDER, contract_id="test:contract", values=values)


async def start(room: Room, folder: Path, program: bytes, **habits: Any) -> SupervisedProvider:
    provider = await room.supervisor.start(pack(folder, program), configuration=json.dumps(habits) if habits else "")
    await until(lambda: provider.pid is not None or provider.error)
    return provider


async def started(room: Room, folder: Path, program: bytes, **habits: Any) -> SupervisedProvider:
    provider = await start(room, folder, program, **habits)
    await room.events.wait("provider_started", public_key=PROVIDER)
    return provider


class Caller:
    """Calls the provider as the host of the actor would."""

    def __init__(self, client: Connection, config: HostConfig) -> None:
        self._rpc = RpcClient(
            client, config.lattice, Signer(Keyring(config.paths).cluster(), KeyPair.generate(Role.HOST).public)
        )

    async def __call__(self, operation: str = "Test.Values") -> Any:
        target = Entity.provider(PROVIDER, "test:contract", "default")
        answer = await self._rpc.call(
            origin=Entity.actor(ACTOR), target=target, operation=operation, msg=b"", timeout=5.0
        )
        return msgpack.unpackb(answer)


@pytest.fixture
def call(client: Connection, trusting: HostConfig) -> Caller:
    return Caller(client, trusting)


async def test_a_classic_provider_starts_serves_and_goes_when_asked(room: Room, tmp_path: Path, call: Caller) -> None:
    await room.linking.put(link(a="1"))
    provider = await started(room, tmp_path, classic())
    pid = provider.pid
    assert pid is not None
    await room.events.wait("health_check_passed", public_key=PROVIDER, contract_id="test:contract")
    await until(lambda: provider.condition == "ready")
    described = room.described(PROVIDER)
    assert (described.name, described.revision, described.links) == (
        "Test provider",
        3,
        {ACTOR: {"state": "ready", "reason": ""}},
    )
    event = room.events.named("provider_started")[0].data
    assert (event["image_ref"], event["claims"]["issuer"], event["contract_id"]) == (
        provider.image.reference,
        ACCOUNT.public,
        "test:contract",
    )
    assert room.metadata.claims[PROVIDER]["iss"] == ACCOUNT.public
    assert await call() == {"a": "1"}
    began = time.monotonic()
    await room.supervisor.stop(PROVIDER, "default")
    assert time.monotonic() - began < 2
    assert not alive(pid)
    assert (await room.events.wait("provider_stopped")).data["reason"] == "stop"


async def test_its_environment_is_an_allow_list_and_its_folders_are_its_own(
    room: Room, tmp_path: Path, call: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WASMCLOUD_CLUSTER_SEED", "SC-secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    monkeypatch.setenv("RUST_LOG", "debug")
    await room.linking.put(link())
    provider = await started(room, tmp_path, classic())
    environment = await call("Test.Environment")
    folder = Path(environment["HOME"])
    allowed = {"HOME", "TMPDIR", "PATH", "RUST_LOG", "TZ", "WASMHOST_INSTANCE", "WASMHOST_PROVIDER_OF"}
    assert {name for name in environment if not name.startswith(("LC_", "LANG", "SSL_", "OTEL_", "LD_"))} <= allowed
    assert environment["TMPDIR"] == environment["HOME"]
    assert folder.is_relative_to(tmp_path) and os.stat(folder).st_mode & 0o077 == 0
    assert environment["WASMHOST_INSTANCE"] == provider.instance_id


async def test_a_change_of_values_reaches_one_that_ignores_a_second_put(
    room: Room, tmp_path: Path, call: Caller
) -> None:
    await room.linking.put(link(a="1"))
    provider = await started(room, tmp_path, classic(), slow=0.05)
    for turn in range(3):
        await room.linking.put(link(a=str(turn)))
        await asyncio.sleep(0.1)  # it takes half of that, and an actor's call would wait for it
        assert await call() == {"a": str(turn)}
    await until(lambda: any("put" in line for line in provider.last_lines))
    said = list(provider.last_lines)
    assert [line for line in said if line == "del" or line.startswith(("put", "Ignoring"))] == [
        *("del", "put {'a': '0'}"),
        *("del", "put {'a': '1'}"),
        *("del", "put {'a': '2'}"),
    ], "an identical put is not repeated either"
    assert room.events.named("linkdef_deleted") == []
    await room.linking.delete(link().key)
    await until(lambda: list(provider.last_lines)[-1] == "del")
    with pytest.raises(RemoteError, match="unlinked actor"):
        await call()
    assert room.described(PROVIDER).links == {}


async def test_links_changed_while_it_starts_are_made_up_for(room: Room, tmp_path: Path, call: Caller) -> None:
    other = replace(link(b="1"), actor_id=KeyPair.from_raw(Role.MODULE, bytes([4]) * 32).public)
    await room.linking.put(link(a="old"))
    await room.linking.put(other)
    slow = classic().replace(b"async def main() -> None:\n", b"async def main() -> None:\n    time.sleep(1)\n")
    provider = await start(room, tmp_path, slow)
    await until(lambda: provider.pid)
    await room.linking.put(link(a="new"))
    await room.linking.delete(other.key)
    await room.events.wait("provider_started", public_key=PROVIDER)
    await until(lambda: list(provider.last_lines).count("del") == 2)
    await until(lambda: "put {'a': 'new'}" in provider.last_lines)
    assert await call() == {"a": "new"}


async def test_one_that_knows_calls_and_nothing_else_is_used_and_shown_as_silent(
    trusting: HostConfig, client: Connection, tmp_path: Path, call: Caller
) -> None:
    async with opened(trusting, client, timing=replace(QUICK, classic_start=1.0)) as room:
        await check_quiet(room, tmp_path, call)


async def check_quiet(room: Room, tmp_path: Path, call: Caller) -> None:
    provider = await started(room, tmp_path, compiled("quiet"))
    pid = provider.pid
    failed = await room.events.wait("health_check_failed", public_key=PROVIDER)
    assert failed.data["error"] == "does not answer health checks"
    await room.events.wait("health_check_status", public_key=PROVIDER, count=3)
    await room.linking.put(link())
    assert await call() == "quiet"
    assert room.supervisor.failure_of(PROVIDER, "default") == ""
    described = room.described(PROVIDER)
    assert (described.state, described.error, described.restarts) == ("degraded", "does not answer health checks", 0)
    await asyncio.sleep(1.2)  # longer than one that used to answer may be silent
    assert provider.pid == pid
    assert room.events.named("provider_start_failed") == []
    await room.supervisor.stop(PROVIDER, "default")  # it does not know how to shut down either
    assert pid is not None and not alive(pid)


async def test_one_that_listens_to_health_checks_and_says_nothing_is_up_when_it_listens(
    room: Room, tmp_path: Path, call: Caller
) -> None:
    await room.linking.put(link(a="1"))
    provider = await started(room, tmp_path, classic(), health="never")
    assert await call() == {"a": "1"}
    await room.linking.put(link(a="2"))
    assert await call() == {"a": "2"}
    assert provider.condition == "degraded"


async def test_one_that_is_sick_is_shown_with_its_own_words(room: Room, tmp_path: Path) -> None:
    await started(room, tmp_path, classic(), health="sick")
    failed = await room.events.wait("health_check_failed", public_key=PROVIDER)
    assert failed.data["error"] == "no backend"
    described = room.described(PROVIDER)
    assert (described.state, described.error) == ("degraded", "no backend")


async def test_one_that_answered_and_then_falls_silent_is_restarted_after_long(room: Room, tmp_path: Path) -> None:
    provider = await started(room, tmp_path, classic())
    await room.events.wait("health_check_passed", public_key=PROVIDER)
    assert provider.pid is not None
    os.kill(provider.pid, 19)
    await room.events.wait("health_check_failed", public_key=PROVIDER)
    await room.events.wait("provider_started", public_key=PROVIDER, count=2)


async def test_one_that_ends_at_once_says_why_and_is_tried_again(room: Room, tmp_path: Path) -> None:
    reference = pack(tmp_path, compiled("exits"))
    provider = await room.supervisor.start(reference)
    failed = await room.events.wait("provider_start_failed", provider_ref=reference, count=2)
    assert failed.data["error"] == "exited with code 7: no configuration in sight"
    assert provider.restarts >= 1
    await room.supervisor.stop(PROVIDER, "default")


async def test_a_program_for_another_machine_is_told_from_one_that_fails(room: Room, tmp_path: Path) -> None:
    reference = pack(tmp_path, b"\x7fELF for some other machine")
    await room.supervisor.start(reference)
    failed = await room.events.wait("provider_start_failed", provider_ref=reference)
    assert failed.data["error"] == f"cannot start {reference}: Exec format error; is it a program for this machine?"


async def test_a_flood_of_garbage_neither_stops_the_host_nor_fills_its_log(room: Room, tmp_path: Path) -> None:
    provider = await start(room, tmp_path, compiled("garbage"))
    await until(lambda: provider.last_lines)
    pid = provider.pid
    loop, longest = asyncio.get_running_loop(), 0.0
    used = time.process_time()
    end = loop.time() + 2
    while loop.time() < end:
        before = loop.time()
        await asyncio.sleep(0.01)
        longest = max(longest, loop.time() - before)
    assert longest < 0.5
    assert time.process_time() - used < 1.5, "reading all that it writes would take a whole core"
    assert len(provider.last_lines) <= 50 and all(len(line) <= 8192 for line in provider.last_lines)
    await room.supervisor.stop(PROVIDER, "default")
    assert pid is not None and not alive(pid)


def family(provider: SupervisedProvider) -> dict[str, int]:
    found = (line.split() for line in provider.last_lines)
    return {words[0]: int(words[1]) for words in found if len(words) == 2 and words[1].isdigit()}


async def test_children_do_not_outlive_a_provider_that_is_stopped(room: Room, tmp_path: Path) -> None:
    provider = await start(room, tmp_path, compiled("family"))
    await until(lambda: len(family(provider)) == 3)
    members = family(provider)
    assert all(alive(pid) for pid in members.values())
    assert os.getpgid(members["daemon"]) != os.getpgid(members["parent"]) == os.getpgid(members["child"])
    await room.supervisor.stop(PROVIDER, "default")
    assert {name for name, pid in members.items() if alive(pid)} == set()


async def test_children_do_not_outlive_a_provider_that_ends_by_itself(room: Room, tmp_path: Path) -> None:
    folder = tmp_path / "host" / "providers" / f"{PROVIDER}-default"
    folder.mkdir(parents=True)
    (folder / "die").touch()
    provider = await start(room, tmp_path, compiled("family"))
    await until(lambda: len(family(provider)) == 3)
    members = family(provider)
    # its daemon keeps the pipe of its output open: that must not hide its end
    failed = await room.events.wait("provider_start_failed", timeout=10)
    assert failed.data["error"].startswith("exited with code 9")
    await until(lambda: not any(alive(pid) for pid in members.values()))
    (folder / "die").unlink()


async def test_a_host_ends_what_a_killed_one_has_left(trusting: HostConfig) -> None:
    async def sleeper(host: str) -> asyncio.subprocess.Process:
        environment = {**os.environ, HOST_MARK: host}
        return await asyncio.create_subprocess_exec("/bin/sleep", "600", env=environment, start_new_session=True)

    left, other = await sleeper(str(trusting.state_dir)), await sleeper("/elsewhere")
    async with Host(trusting):
        assert await asyncio.wait_for(left.wait(), 5) == -9
        assert other.returncode is None
    assert end_leftovers(HOST_MARK, "/elsewhere") == [other.pid]
    await other.wait()


async def test_one_that_ignores_its_shutdown_is_ended(room: Room, tmp_path: Path) -> None:
    provider = await started(room, tmp_path, classic(), shutdown="ignore")
    pid = provider.pid
    began = time.monotonic()
    await room.supervisor.stop(PROVIDER, "default")
    assert pid is not None and not alive(pid)
    assert time.monotonic() - began < 5
    assert "not now" in provider.last_lines
    assert (await room.events.wait("provider_stopped")).data["reason"] == "stop"


async def test_one_that_wants_the_cluster_s_own_seed_says_so_and_gets_it_on_demand(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    async with opened(trusting, client, timing=replace(QUICK, start_timeout=20.0)) as room:
        await start(room, tmp_path, classic(), issuer="cluster")
        failed = await room.events.wait("provider_start_failed")
        assert "which is no cluster issuer" in failed.data["error"]
    async with opened(replace(trusting, provider_keys="cluster"), client, timing=QUICK) as room:
        await started(room, tmp_path, classic(), issuer="cluster")


async def test_a_program_changed_under_the_host_is_not_started_again(room: Room, tmp_path: Path) -> None:
    provider = await started(room, tmp_path, classic())
    program = provider.image.program
    assert program is not None and provider.pid is not None
    program.path.chmod(0o700)
    program.path.write_bytes(classic() + b"# and more\n")
    os.kill(provider.pid, 9)
    await room.events.wait("provider_stopped", public_key=PROVIDER)
    failed = await room.events.wait("provider_start_failed", provider_ref=provider.image.reference)
    assert "was changed by somebody" in failed.data["error"]
    assert provider.pid is None
    await room.supervisor.stop(PROVIDER, "default")
    assert (await started(room, tmp_path, classic())).pid is not None


async def test_a_provider_whose_claims_expire_is_stopped(room: Room, tmp_path: Path) -> None:
    reference = pack(tmp_path, classic(), expires=int(time.time()) + 5)
    provider = await room.supervisor.start(reference)
    await room.events.wait("provider_started", public_key=PROVIDER)
    pid = provider.pid
    stopped = await room.events.wait("provider_stopped", public_key=PROVIDER)
    assert stopped.data["reason"].startswith(f"the claims of {PROVIDER} expired at ")
    assert pid is not None and not alive(pid)
    with pytest.raises(LatticeError, match="expired"):
        await room.supervisor.start(reference)
    await room.events.wait("provider_start_failed", provider_ref=reference, problem="expired")


async def test_the_same_archive_runs_once_per_link_name(room: Room, tmp_path: Path) -> None:
    provider = await started(room, tmp_path, classic())
    with pytest.raises(LatticeError, match="already running"):
        room.supervisor.check_start(provider.image.reference, "default")
    copy = pack(tmp_path, classic(), name="copy.par.gz", compress=True)
    room.supervisor.check_start(copy, "default")  # only reading it tells that it is the same provider
    with pytest.raises(LatticeError, match="already running"):
        await room.supervisor.start(copy)
    await room.events.wait("provider_start_failed", provider_ref=copy)
    await room.supervisor.start(copy, link_name="second")
    await room.events.wait("provider_started", public_key=PROVIDER, link_name="second")


def greeter() -> bytes:
    """A program on our SDK."""
    return script(f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from providers.runtime import Call, Provider, operation, run

class Greeter(Provider):
    contract_id = "test:contract"

    @operation("Greeter.Hello")
    async def hello(self, call: Call, name: str) -> str:
        return call.link.values["greeting"] + name

run(Greeter)
""")


async def test_a_program_on_our_sdk_in_an_archive_is_known_by_its_answers(room: Room, tmp_path: Path) -> None:
    await room.linking.put(link(greeting="1"))
    provider = await started(room, tmp_path, greeter())
    await until(lambda: provider.condition == "ready")
    await room.linking.put(link(greeting="2"))
    assert room.described(PROVIDER).links == {ACTOR: {"state": "ready", "reason": ""}}
    await room.supervisor.stop(PROVIDER, "default")


async def test_two_hosts_that_run_one_on_our_sdk_do_not_take_its_answers_for_each_other(
    trusting: HostConfig, client: Connection, tmp_path: Path
) -> None:
    paths = replace(trusting.paths, host=tmp_path / "second")
    patient = replace(QUICK, health_timeout=5.0, health_interval=0.1, classic_hung_after=30.0)
    async with (
        opened(trusting, client, timing=patient) as one,
        opened(replace(trusting, paths=paths), client, timing=patient) as two,
    ):
        first = await started(one, tmp_path, greeter())
        second = await started(two, tmp_path, greeter())
        await until(lambda: first.condition == second.condition == "ready")
        conditions = set()
        since = time.monotonic()
        while time.monotonic() - since < 1.5:
            conditions |= {first.condition, second.condition}
            await asyncio.sleep(0.02)
        assert (conditions, first.restarts, second.restarts) == ({"ready"}, 0, 0)
        # one that is killed in the moment it is to leave answers nothing, and the other one hears the request, too
        assert first.pid is not None
        os.kill(first.pid, signal.SIGKILL)
        async with asyncio.timeout(20):
            await one.supervisor.stop(PROVIDER, "default", drain=60)
        assert second.condition == "ready"
