"""What a host daemon refuses: actor files that are not what was signed, and invocations that cannot be trusted.

A real ``wasmhost host`` on a real nats-server; files are started with ``wasmhost start actor``, invocations are sent as
any peer in the lattice could send them.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from lattice import subjects, wasmfile
from lattice.antiforgery import Signer
from lattice.connection import ConnectOptions, connect
from lattice.errors import Code
from lattice.invocation import Entity, Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.processes import Running, run, user_environment

CLUSTER = KeyPair.from_raw(Role.CLUSTER, bytes([1]) * 32)
DAY = 86_400


@dataclass
class Daemon:
    """A running ``wasmhost host`` and the environment of commands that talk to it."""

    process: Running
    env: dict[str, str]
    url: str
    lattice: str

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return run([*arguments, "--nats-url", self.url, "-x", self.lattice, "-o", "json"], env=self.env)

    def start(self, path: Path) -> subprocess.CompletedProcess[str]:
        return self.command("start", "actor", str(path))

    def running(self) -> set[str]:
        listed = self.command("get", "actors")
        assert listed.returncode == 0, listed.stderr
        return {actor["actor_id"] for actor in json.loads(listed.stdout)["actors"]}


@pytest.fixture(scope="module")
def daemon(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    env = user_environment(tmp_path_factory.mktemp("refusals") / "home")
    lattice = f"t{secrets.token_hex(6)}"
    flags = ["--nats-url", nats_server.url, "-x", lattice, "--trust", actors.ACCOUNT.public, "--allow-file-load"]
    process = Running(["host", *flags, "--cluster-seed", CLUSTER.seed], env=env)
    try:
        process.wait_for_output("host.started", timeout=20)
        yield Daemon(process, env, nats_server.url, lattice)
        assert process.stop() == 0
    finally:
        process.kill()


def claims_section(wasm: bytes) -> wasmfile.ClaimsSection:
    (section,) = wasmfile.claims_tokens(wasm)
    return section


def one_bit_changed() -> bytes:
    wasm = bytearray(actors.signed(actors.ECHO))
    wasm[claims_section(bytes(wasm)).start - 2] ^= 0x01
    return bytes(wasm)


def two_tokens() -> bytes:
    wasm = actors.signed(actors.ECHO)
    section = claims_section(wasm)
    return wasm + wasm[section.start : section.end]


def unsigned() -> bytes:
    wasm = actors.signed(actors.ECHO)
    return wasm[: claims_section(wasm).start]


def with_times(*, expires: int | None = None, not_before: int | None = None) -> bytes:
    now = int(time.time())
    return actors.signed(
        actors.ECHO,
        expires=None if expires is None else now + expires,
        not_before=None if not_before is None else now + not_before,
    )


STRANGER = KeyPair.from_raw(Role.ACCOUNT, bytes([66]) * 32)

FILES: dict[str, tuple[Callable[[], bytes], int, str]] = {
    "one bit of code changed": (one_bit_changed, 2, "its SHA-256 differs from the claims"),
    "two tokens": (two_tokens, 2, "carries 2 tokens where one is allowed"),
    "unsigned": (unsigned, 2, "the file is not signed"),
    "expired": (lambda: with_times(expires=-DAY), 8, "expired at"),
    "not yet valid": (lambda: with_times(not_before=DAY), 8, "not valid before"),
    "foreign account": (
        lambda: actors.signed(actors.ECHO, account=STRANGER),
        8,
        f"does not trust; to trust it start the host with --trust {STRANGER.public}",
    ),
    "a text file": (lambda: b"just a text\n", 2, "not a WebAssembly file"),
}


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_must_not_run_is_refused_with_its_own_message(daemon: Daemon, tmp_path: Path, case: str) -> None:
    make, exit_code, message = FILES[case]
    path = tmp_path / "actor.wasm"
    path.write_bytes(make())
    before = daemon.running()
    refused = daemon.start(path)
    assert refused.returncode == exit_code, refused.stderr
    assert message in refused.stderr and str(path) in refused.stderr and "Traceback" not in refused.stderr
    others = [text for _, _, text in FILES.values() if text != message]
    assert not [text for text in others if text in refused.stderr]
    assert daemon.running() == before


def test_a_sound_file_of_a_trusted_account_starts(daemon: Daemon, tmp_path: Path) -> None:
    key = KeyPair.generate(Role.MODULE)
    path = tmp_path / "actor.wasm"
    path.write_bytes(actors.signed(actors.ECHO, module=key))
    started = daemon.start(path)
    assert started.returncode == 0, started.stderr
    assert key.public in daemon.running()


@pytest.fixture(scope="module")
def counting(daemon: Daemon, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An actor that answers with the number of calls it has executed."""
    key = KeyPair.generate(Role.MODULE)
    path = tmp_path_factory.mktemp("counting") / "counting.wasm"
    path.write_bytes(actors.signed(actors.COUNTING, module=key))
    started = daemon.start(path)
    assert started.returncode == 0, started.stderr
    return key.public


def signer(*, key: KeyPair = CLUSTER, shift: float = 0.0, lifetime: float = 300.0) -> Signer:
    """Signs as the cluster does, with a clock that is ``shift`` seconds off."""
    host = KeyPair.generate(Role.HOST).public
    return Signer(key, host, lifetime=lifetime, clock=lambda: time.time() + shift)


def sound(actor: str, by: Signer | None = None, msg: bytes = b"argument") -> Invocation:
    return (by or signer()).sign(
        origin=Entity("wasmhost-test"), target=Entity.actor(actor), operation="Test.Count", msg=msg
    )


INVOCATIONS: dict[str, tuple[Callable[[str], Invocation], str]] = {
    "foreign issuer": (
        lambda actor: sound(actor, signer(key=KeyPair.generate(Role.CLUSTER))),
        "not among the list of valid issuers",
    ),
    "wrong hash": (lambda actor: replace(sound(actor), msg=b"argumenu"), "hash does not match signed claims hash"),
    "other target": (lambda actor: sound(KeyPair.generate(Role.MODULE).public), "is not M"),
    "other operation": (lambda actor: replace(sound(actor), operation="Test.Erase"), "target URL do not match"),
    "too old": (lambda actor: sound(actor, signer(shift=-600, lifetime=3600)), "is too old"),
    "expired": (lambda actor: sound(actor, signer(shift=-60, lifetime=30)), "token expired"),
    "unsigned": (lambda actor: replace(sound(actor), encoded_claims=""), "claims"),
}


Send = Callable[[str, Invocation], Awaitable[InvocationResponse]]


async def in_lattice(daemon: Daemon, work: Callable[[Send], Awaitable[None]]) -> None:
    """Run ``work`` with a function that sends one invocation on an actor's subject and returns the answer."""
    peer = await connect(ConnectOptions(url=daemon.url, name="peer"))

    async def send(actor: str, invocation: Invocation) -> InvocationResponse:
        subject = subjects.actor_rpc(daemon.lattice, actor)
        return InvocationResponse.decode((await peer.request(subject, invocation.encode(), timeout=5)).payload)

    try:
        async with asyncio.timeout(30):
            await work(send)
    finally:
        await peer.drain()


def executed(response: InvocationResponse) -> int:
    """Which call of the counting actor this answer is from."""
    assert response.error is None, response.error
    return int.from_bytes(response.msg, "little")


@pytest.mark.parametrize("case", INVOCATIONS)
async def test_an_invocation_that_cannot_be_trusted_is_refused(daemon: Daemon, counting: str, case: str) -> None:
    forge, message = INVOCATIONS[case]

    async def work(send: Send) -> None:
        before = executed(await send(counting, sound(counting)))
        refused = await send(counting, forge(counting))
        assert refused.error is not None and refused.error.startswith("Anti-forgery check failed: ")
        assert message in refused.error and refused.msg == b""
        assert refused.code in (Code.NOT_AUTHORIZED, Code.MALFORMED)
        assert executed(await send(counting, sound(counting))) == before + 1

    await in_lattice(daemon, work)


async def test_an_invocation_is_executed_once_on_the_same_host(daemon: Daemon, counting: str) -> None:
    async def work(send: Send) -> None:
        invocation = sound(counting)
        first = executed(await send(counting, invocation))
        for _ in range(3):
            replayed = await send(counting, invocation)
            assert replayed.error is not None and "was replayed" in replayed.error
            assert replayed.code == Code.NOT_AUTHORIZED
        assert executed(await send(counting, sound(counting))) == first + 1

    await in_lattice(daemon, work)
