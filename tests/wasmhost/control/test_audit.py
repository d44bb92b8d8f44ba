"""What the log says of who asked for a change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from lattice.connection import ConnectOptions, connect
from lattice.encoding import Encoding
from lattice.subjects import Control
from tests.support.nats import NatsServer
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.control.audit import CLIENT_INFO, client_of
from wasmhost.host import Host

SERVER = """
accounts {{
  HOSTS {{ users: [ {{ user: host, password: pw }}, {{ user: neighbour, password: pw }} ]
    exports: [ {{ service: "wasmbus.ctl.{0}.>", accounts: [ PEOPLE ] }} ] }}
  PEOPLE {{ users: [ {{ user: alice, password: pw }} ]
    imports: [ {{ service: {{ account: HOSTS, subject: "wasmbus.ctl.{0}.>" }}, share: true }} ] }}
}}
"""
FORGED = {CLIENT_INFO: '{"acc": "PEOPLE", "user": "somebody else"}'}


@pytest.fixture
def server(tmp_path: Path, lattice: str) -> Iterator[NatsServer]:
    server = NatsServer(tmp_path / "accounts", jetstream=False, config=SERVER.format(lattice)).start()
    yield server
    server.stop()


async def ask(server: NatsServer, user: str, subject: str, body: dict[str, object], inbox: str = "_INBOX") -> None:
    client = await connect(ConnectOptions(url=server.login_url(user), name=f"the tool of {user}", inbox_prefix=inbox))
    try:
        await client.request(subject, Encoding.JSON.encode(body), timeout=5.0, headers=FORGED)
    finally:
        await client.close()


async def test_who_asked_for_a_change_is_told_as_far_as_the_server_knows(
    config: HostConfig, server: NatsServer, lattice: str
) -> None:
    endpoint = NatsEndpoint(url=server.login_url("host"))
    control = Control(lattice)
    async with Host(replace(config, rpc=endpoint, control=endpoint, providers=endpoint)) as host:
        with capture_logs() as lines:
            await ask(server, "alice", control.command(host.host_id, "cordon"), {})
            await ask(server, "alice", control.get_links(), {})
            await ask(server, "neighbour", control.linkdefs_del(), {"actor_id": 5}, inbox="_INBOX_people.bob")
            launch = {"provider_ref": "bundled:none", "configuration": "S3CR3T", "link_name": "x\ny"}
            await ask(server, "alice", control.command(host.host_id, "lp"), launch)
    told: list[EventDict] = [line for line in lines if line["event"] == "control.audit"]
    assert [line["outcome"] for line in told[:2]] == ["accepted", "malformed"] and len(told) == 3
    # across accounts the server writes the header, whatever the client wrote; within one it is what the client says
    assert {line["client_account"] for line in told} == {"PEOPLE"}
    assert [line["client_user"] for line in told] == ["alice", "somebody else", "alice"]
    assert told[0]["client_program"] == "the tool of alice" and told[0]["client_address"] == "127.0.0.1"
    assert told[1]["client_inbox"] == "_INBOX_people.bob" and told[1]["subject"] == "linkdefs.del"
    assert told[2]["provider_ref"] == "bundled:none" and "S3CR3T" not in str(lines)


@pytest.mark.parametrize(
    ("reply", "info", "known"),
    [
        ("", None, {}),
        ("_INBOX.abcdefghijklmnopqrstuv.1", None, {}),
        ("_INBOX_alice.0123456789abcdef0123456789abcdef.1", None, {"client_inbox": "_INBOX_alice"}),
        ("_R_.x", "[", {"client_account": "(unreadable)"}),
        ("_R_.x", '{"acc": 5}', {"client_account": "(unreadable)"}),
        ("_R_.x", "[" * 100_000, {"client_account": "(unreadable)"}),
        ("_R_.x", '{"acc": "' + "A" * 500 + '"}', {"client_account": "A" * 120}),
    ],
)
def test_nothing_is_told_that_is_not_known_or_should_not_be(
    reply: str, info: str | None, known: dict[str, str]
) -> None:
    assert client_of(reply, None if info is None else {CLIENT_INFO: info}) == known
