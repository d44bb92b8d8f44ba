"""Anything on any control subject, in both encodings, against a real host: an answer in the right form, and no harm."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import Code, Unreachable
from lattice.keys import KeyPair, Role
from lattice.subjects import Control
from lattice.transport import Reply
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.strategies import bent, json_values, msgpack_values
from wasmhost.configuration.config import HostConfig
from wasmhost.host import Host

T = TypeVar("T")
BUDGET = 20.0
"""Seconds of fuzzing; examples beyond it do nothing."""
PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public
BROKEN = frozenset({"control.failed", "task.failed", "actor.start_broke", "heartbeat.failed"})
"""What the log says when something of ours broke."""


class RunningHost:
    """A host with one actor and a client beside it, on a loop of its own, so that plain code can drive them."""

    def __init__(self, config: HostConfig, url: str, reference: str) -> None:
        self._config = config
        self._url = url
        self.reference = reference
        self.control = Control(config.lattice)
        self.host: Host
        self.actor: str
        self._client: Connection
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> RunningHost:
        self._thread.start()
        self._run(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _open(self) -> None:
        self.host = await Host(self._config).__aenter__()
        self._client = await connect(ConnectOptions(url=self._url))
        self.actor = await self.host.actors.launch(self.reference, 2, {"kept": "yes"})

    async def _close(self) -> None:
        await self._client.drain()
        await self.host.__aexit__(None, None, None)

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60)

    def request(self, subject: str, payload: bytes, headers: dict[str, str] | None, timeout: float) -> Reply | None:
        """The answer; None when there was none in time."""

        async def ask() -> Reply | None:
            try:
                return await self._client.request(subject, payload, timeout=timeout, headers=headers)
            except Unreachable as error:
                assert error.code is Code.TIMED_OUT, f"nobody listens on {subject}"
                return None

        return self._run(ask())


@contextmanager
def watched() -> Iterator[None]:
    """Fails if something of ours broke meanwhile."""
    with capture_logs() as lines:
        yield
    assert [line for line in lines if line["event"] in BROKEN] == []


@pytest.fixture
def running(config: HostConfig, nats_server: NatsServer, tmp_path: Path) -> Iterator[RunningHost]:
    reference = actors.write(tmp_path, actors.signed(actors.ECHO))
    trusting = replace(config, trusted_issuers=frozenset({actors.ACCOUNT.public}))
    with RunningHost(trusting, nats_server.url, reference) as running:
        yield running


@dataclass(frozen=True)
class Target:
    """One kind of request: its subject and the members that its body may have."""

    subject: str
    members: tuple[str, ...] = ()
    answered: bool = True


def targets(running: RunningHost) -> list[Target]:
    control, host = running.control, running.host.host_id
    actor_members = ("actor_ref", "actor_id", "count", "annotations", "host_id")
    link = ("actor_id", "provider_id", "link_name", "contract_id", "values", "id")
    return [
        Target(control.ping_hosts()),
        Target(control.get_claims()),
        Target(control.get_links()),
        Target(control.get_inventory(host)),
        Target(control.get_config(running.actor, "key")),
        Target(control.get_config(running.actor)),
        Target(control.linkdefs_put(), link),
        Target(control.linkdefs_del(), link),
        Target(control.registries_put(), ("ghcr.io", "username", "password", "token", "registryType")),
        Target(control.auction_actor(), ("actor_ref", "constraints"), answered=False),
        Target(control.auction_provider(), ("provider_ref", "link_name", "constraints"), answered=False),
        *(Target(control.command(host, verb), actor_members) for verb in ("la", "sa", "scale")),
        Target(control.command(host, "upd"), ("actor_id", "new_actor_ref", "annotations", "host_id")),
        Target(control.command(host, "lp"), ("provider_ref", "link_name", "configuration", "annotations", "host_id")),
        Target(control.command(host, "sp"), ("provider_ref", "link_name", "contract_id", "annotations", "host_id")),
        Target(control.command(host, "stop"), ("host_id", "timeout")),
        Target(control.command(host, "dance"), actor_members),
        Target(control.labels(host, "put"), ("key", "value")),
        Target(control.labels(host, "del"), ("key", "value")),
        Target(control.config("put", running.actor, "key")),
        Target(control.config("del", running.actor, "key")),
        Target(control.config("clear", running.actor)),
        Target(f"{control.root}.config.dance", ("key",)),
        Target(f"{control.root}.get.dance"),
    ]


def plausible(running: RunningHost) -> st.SearchStrategy[Any]:
    """Values that get past the first checks."""
    return (
        st.sampled_from(
            [
                running.reference,
                running.actor,
                running.host.host_id,
                PROVIDER,
                "default",
                "wasmcloud:keyvalue",
                "file:///etc/hostname",
                "ghcr.io/x/y:1",
                "",
                None,
                {},
                {"kept": "yes"},
                {"a": 'b"\\\n'},
                {"x" * 20_000: "y"},
                "\u2028" * 3,
                "x" * 5000,
            ]
        )
        | st.integers(-3, 5)
        | st.sampled_from([2**16 - 1, 2**16, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
    )


def bodies(running: RunningHost, target: Target, encoding: str) -> st.SearchStrategy[bytes]:
    """Bodies of one request: nearly right, wrong in the members, bent, and anything at all."""
    names = target.members or ("a",)
    values = json_values(names) if encoding == "json" else msgpack_values(names)
    objects = st.dictionaries(st.sampled_from(names), plausible(running) | values, max_size=len(names))

    def encode(value: object) -> bytes:
        packed: bytes = json.dumps(value).encode() if encoding == "json" else msgpack.packb(value)
        return packed

    valid = (objects | values).map(encode)
    deep = st.sampled_from([b"[" * 100_000, b"\x91" * 100_000, b'{"a":' * 20_000, b"\x81\xa1a" * 20_000])
    return valid | valid | bent(valid) | st.binary(max_size=100) | deep


def check(target: Target, reply: Reply | None, raw_empty: bool) -> None:
    """An answer is a document of the right kind, whatever was asked."""
    if reply is None:
        assert not target.answered, f"no answer on {target.subject}"
        return
    if reply.payload == b"":
        assert raw_empty, f"an empty answer on {target.subject}"
        return
    looks_packed = 0x80 <= reply.payload[0] <= 0x9F or 0xDC <= reply.payload[0] <= 0xDF
    answer = msgpack.unpackb(reply.payload) if looks_packed else json.loads(reply.payload)
    assert isinstance(answer, dict)
    if "accepted" in answer:
        assert target.answered and isinstance(answer["accepted"], bool) and isinstance(answer["error"], str)
        assert answer["accepted"] is (answer["error"] == "")
        assert "internal error" not in answer["error"] and len(answer["error"]) < 8000


def test_anything_on_any_subject_gets_an_answer_in_form_and_does_no_harm(running: RunningHost) -> None:
    end = time.monotonic() + BUDGET
    everything = targets(running)
    asked = 0

    @settings(max_examples=2000, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(data=st.data())
    def fuzz(data: st.DataObject) -> None:
        nonlocal asked
        target = data.draw(st.sampled_from(everything))
        encoding = data.draw(st.sampled_from(["json", "msgpack"]))
        header = data.draw(
            st.sampled_from([None, None, "application/msgpack", "application/json", "text/plain; x", "\u20ac"])
        )
        payload = data.draw(bodies(running, target, encoding))
        if time.monotonic() > end:
            return  # after the drawing, which must be alike whenever it is repeated
        headers = {"Content-Type": header} if header else None
        reply = running.request(target.subject, payload, headers, timeout=10.0 if target.answered else 0.05)
        check(target, reply, raw_empty=".get.config." in target.subject)
        asked += 1

    with watched():
        fuzz()
        pong = running.request(running.control.ping_hosts(), b"", None, timeout=10.0)
        inventory = running.request(running.control.get_inventory(running.host.host_id), b"", None, timeout=10.0)
    assert pong is not None and inventory is not None and asked > 200
    assert json.loads(inventory.payload)["host_id"] == running.host.host_id
    print(f"{asked} requests")
