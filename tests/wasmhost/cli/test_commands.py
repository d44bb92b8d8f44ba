"""The commands against a real host on a real NATS server, each as its own process."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lattice import claims, wasmfile
from lattice.client import ControlClient
from lattice.connection import ConnectOptions, connect
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor
from tests.support.nats import NatsServer, free_port
from tests.support.processes import ROOT, Running, run, user_environment, wait_until

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
LATTICE = "cli-commands"


class Result:
    """One command's end."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    def __repr__(self) -> str:
        return f"exit code {self.code}\n{self.out}\n{self.err}"

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Wasmhost = Callable[..., Result]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli-home")


@pytest.fixture(scope="module")
def wasmhost(nats_server: NatsServer, home: Path) -> Wasmhost:
    """Runs a command in this module's lattice and fails on tracebacks and lines that are too long for 80 columns."""
    env = user_environment(home, WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE=LATTICE, COLUMNS="80")

    def command(*arguments: str, code: int | None = 0) -> Result:
        ended = run(list(arguments), env=env)
        result = Result(ended.returncode, ended.stdout, ended.stderr)
        assert "Traceback" not in ended.stderr, result
        if code is not None:
            assert ended.returncode == code, result
        if code == 0 and "json" not in arguments and arguments[0] != "logs":  # a log line stays one line
            assert all(len(line) <= 80 for line in ended.stdout.splitlines()), result
        return result

    return command


@pytest.fixture(scope="module")
def account() -> KeyPair:
    """An account that the host trusts."""
    return KeyPair.generate(Role.ACCOUNT)


@pytest.fixture(scope="module")
def host(nats_server: NatsServer, home: Path, wasmhost: Wasmhost, account: KeyPair) -> Iterator[str]:
    """A host daemon in that lattice that trusts the account of the shipped actors, too; its key."""
    shipped = claims.read_actor(ECHO.read_bytes()).issuer
    env = user_environment(home, WASMCLOUD_LATTICE=LATTICE)
    arguments = ["--trust", shipped, "--trust", account.public, "--allow-file-load", "--label", "zone=test"]
    daemon = Running(["host", "--nats-url", nats_server.url, *arguments], env=env)
    daemon.wait_for_output("host.started")
    yield wasmhost("get", "hosts", "-o", "json").json["hosts"][0]["host_id"]
    assert daemon.stop() == 0


@pytest.fixture
def clean(host: str, nats_server: NatsServer) -> Iterator[None]:
    """Nothing runs and nothing is linked afterwards."""
    yield

    async def remove() -> None:
        connection = await connect(ConnectOptions(url=nats_server.url))
        client = ControlClient(connection, LATTICE)
        for link in await client.links():
            await client.del_link(link)
        inventory = await client.inventory(host)
        for actor in inventory.actors:
            await client.stop_actor(host, actor.id)
        for provider in inventory.providers:
            await client.stop_provider(host, provider.id, link_name=provider.link_name)
        async with asyncio.timeout(10):
            while inventory.actors or inventory.providers:
                inventory = await client.inventory(host)
        await connection.drain()

    asyncio.run(remove())


def test_hosts_and_inventory_are_shown_as_tables_and_as_json(host: str, wasmhost: Wasmhost) -> None:
    shown = wasmhost("get", "hosts").out
    document = wasmhost("get", "hosts", "-o", "json").json["hosts"][0]
    assert host[:12] in shown
    assert document["friendly_name"] in shown
    assert document["labels"]["zone"] == "test"
    for text in (host, host[:8], host[:8].lower(), document["friendly_name"]):
        inventory = wasmhost("get", "inventory", text, "-o", "json").json["hosts"]
        assert [entry["host_id"] for entry in inventory] == [host]
    assert "zone=test" in wasmhost("get", "inventory").out


def test_an_actor_is_started_called_scaled_and_stopped(host: str, wasmhost: Wasmhost, clean: None) -> None:
    started = wasmhost("start", "actor", str(ECHO), "--count", "2", "-o", "json").json
    assert (started["host_id"], started["instances"]) == (host, 2)
    for text in (started["actor_id"], started["actor_id"][:6], "echo", "wasmhost/echo", started["image_ref"], "echo_s"):
        answer = wasmhost("call", text, "HttpServer.HandleRequest", '{"path": "/a", "body": "hi"}', "-o", "json").json[
            "result"
        ]
        assert answer["statusCode"] == 200
        assert json.loads(answer["body"])["path"] == "/a"
    assert "3 instances" in wasmhost("scale", "actor", "echo", "3").out
    assert wasmhost("get", "actors", "-o", "json").json["actors"][0]["instances"] == 3
    assert "stopped Echo" in wasmhost("stop", "actor", "echo").out
    assert wasmhost("get", "actors", "-o", "json").json == {"actors": [], "halted": []}
    assert "no actor 'echo'" in wasmhost("stop", "actor", "echo", code=3).err
    assert "no host runs actor" in wasmhost("call", started["actor_id"], "Any.Thing", code=3).err


def test_an_actor_is_updated_and_what_cannot_take_over_is_refused(
    host: str, wasmhost: Wasmhost, account: KeyPair, tmp_path: Path, clean: None
) -> None:
    module = KeyPair.generate(Role.MODULE)
    for revision in (1, 2):
        signed = sign_actor(
            wasmfile.strip(ECHO.read_bytes()), account=account, module=module, name="Changing", revision=revision
        )
        (tmp_path / f"v{revision}.wasm").write_bytes(signed)
    first, second = str(tmp_path / "v1.wasm"), str(tmp_path / "v2.wasm")
    assert "no actor 'changing'" in wasmhost("update", "actor", "changing", second, code=3).err
    wasmhost("start", "actor", first, "--count", "2")
    updated = wasmhost("update", "actor", "changing", second, "-o", "json").json
    assert updated["updated"][0] | {"image_ref": "", "host_name": ""} == {
        "host_id": host, "host_name": "", "image_ref": "", "revision": 2, "before": 1, "instances": 2
    }  # fmt: skip
    assert "not newer" in wasmhost("update", "actor", host, updated["actor_id"], first, code=5).err
    assert "holds actor" in wasmhost("update", "actor", "changing", str(ECHO), code=5).err
    assert "missing.wasm" in wasmhost("update", "actor", "changing", str(tmp_path / "missing.wasm"), code=3).err
    assert wasmhost("get", "actors", "-o", "json").json["actors"][0]["revision"] == 2


def test_scaling_to_nothing_stops_the_actor(host: str, wasmhost: Wasmhost, clean: None) -> None:
    wasmhost("start", "actor", str(ECHO))
    assert "0 instances" in wasmhost("scale", "actor", "echo", "0").out
    assert wasmhost("get", "actors", "-o", "json").json == {"actors": [], "halted": []}


def test_an_error_of_the_actor_is_told_apart_from_a_refusal(host: str, wasmhost: Wasmhost, clean: None) -> None:
    wasmhost("start", "actor", str(ECHO))
    assert "Nope.Nothing" in wasmhost("call", "echo", "Nope.Nothing", code=4).err
    foreign = KeyPair.generate(Role.CLUSTER).seed
    refused = wasmhost("call", "echo", "HttpServer.HandleRequest", "--cluster-seed", foreign, code=8)
    assert "--cluster-seed" in refused.err
    assert foreign not in refused.err


def test_a_link_makes_the_actor_answer_http_until_it_is_deleted(host: str, wasmhost: Wasmhost, clean: None) -> None:
    port = free_port()
    wasmhost("start", "actor", str(ECHO))
    waiting = wasmhost("link", "put", "echo", "bundled:httpserver", f"address=127.0.0.1:{port}")
    assert "takes effect when it is started" in waiting.err
    assert wasmhost("get", "links", "-o", "json").json["links"][0]["state"] == "no provider"
    provider = wasmhost("start", "provider", "bundled:httpserver", "-o", "json").json
    assert (provider["state"], provider["contract_id"]) == ("ready", "wasmcloud:httpserver")
    link = wasmhost("link", "put", "echo", provider["provider_id"][:8], f"address=127.0.0.1:{port}", "-o", "json").json
    assert (link["state"], link["values"]) == ("ready", {"address": f"127.0.0.1:{port}"})
    with socket.create_connection(("127.0.0.1", port), 5) as client:
        client.sendall(b"GET /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert client.recv(64).startswith(b"HTTP/1.1 200")
    assert f"address=127.0.0.1:{port}" in wasmhost("get", "links").out
    wasmhost("link", "del", "echo", "wasmcloud:httpserver")
    assert wasmhost("link", "query", "-o", "json").json == {"links": []}
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), 1).close()
    assert "there is no link" in wasmhost("link", "del", "echo", "wasmcloud:httpserver", code=3).err


def test_a_word_that_is_no_contract_of_the_provider_makes_no_link(host: str, wasmhost: Wasmhost, clean: None) -> None:
    wasmhost("start", "actor", str(ECHO))
    for word in ("address", "wasmcloud:keyvalue"):  # a setting whose value was forgotten, another contract
        refused = wasmhost("link", "put", "echo", "bundled:httpserver", word, code=2).err
        assert "wasmcloud:httpserver" in refused and "KEY=VALUE" in refused
    assert wasmhost("link", "query", "-o", "json").json == {"links": []}


def test_a_port_in_use_fails_the_command_that_caused_it_and_shows_in_get_providers(
    host: str, wasmhost: Wasmhost, clean: None
) -> None:
    wasmhost("start", "actor", str(ECHO))
    wasmhost("start", "provider", "bundled:httpserver")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused = wasmhost("link", "put", "echo", "bundled:httpserver", f"address={address}", code=5)
        assert f"{address} in use" in refused.err
        assert f"failed: {address} in use" in " ".join(wasmhost("get", "providers").out.split())


def test_providers_start_once_and_their_end_is_seen(host: str, wasmhost: Wasmhost, clean: None) -> None:
    wasmhost("start", "provider", "bundled:keyvalue")
    assert "runs already" in wasmhost("start", "provider", "bundled:keyvalue", code=5).err
    claims_known = wasmhost("get", "claims", "-o", "json").json["claims"]
    assert "wasmcloud:keyvalue" in [entry["contract_id"] for entry in claims_known]
    assert "stopped" in wasmhost("stop", "provider", "bundled:keyvalue").out
    assert wasmhost("get", "providers", "-o", "json").json == {"providers": [], "halted": []}
    assert "no provider 'bundled:keyvalue'" in wasmhost("stop", "provider", "bundled:keyvalue", code=3).err
    assert "did you mean bundled:keyvalue?" in wasmhost("start", "provider", "bundled:keyvlaue", code=3).err


@pytest.fixture
def files(tmp_path: Path, account: KeyPair) -> Path:
    """Actor files with one flaw each."""
    module = KeyPair.generate(Role.MODULE)
    signed = ECHO.read_bytes()
    bare = wasmfile.strip(signed)
    now = int(time.time())

    def sign(signer: KeyPair = account, **more: Any) -> bytes:
        return sign_actor(bare, account=signer, module=module, name="flawed", **more)

    changed = bytearray(signed)
    changed[len(changed) // 3] ^= 1
    token = claims.read_actor(signed).token
    flaws = {
        "unsigned": bare,
        "changed": bytes(changed),
        "two": wasmfile.append_token(signed, token),
        "text": b"hello\n",
        "foreign": sign(KeyPair.generate(Role.ACCOUNT)),
        "expired": sign(expires=now - 3600),
        "early": sign(not_before=now + 3600),
    }
    for name, data in flaws.items():
        (tmp_path / f"{name}.wasm").write_bytes(data)
    return tmp_path


@pytest.mark.parametrize(
    ("flaw", "expected"),
    [
        ("unsigned", (2, "not signed")),
        ("changed", (2, "changed.wasm")),
        ("two", (2, "2 tokens")),
        ("text", (2, "text.wasm")),
        ("foreign", (8, "--trust A")),
        ("expired", (8, "expired at")),
        ("early", (8, "not valid before")),
        ("missing", (3, "missing.wasm")),
    ],
)
def test_a_flawed_file_is_refused_with_its_own_message(
    host: str, wasmhost: Wasmhost, files: Path, flaw: str, expected: tuple[int, str]
) -> None:
    code, words = expected
    refused = wasmhost("start", "actor", str(files / f"{flaw}.wasm"), code=code)
    assert words in refused.err
    assert refused.err.startswith("Error: ")


def test_events_are_followed_until_enough_of_them_came(host: str, wasmhost: Wasmhost, clean: None) -> None:
    found: list[Result] = []

    def follow() -> None:
        found.append(wasmhost("events", "--name", "actors_started", "--count", "1", "-o", "json"))

    reader = threading.Thread(target=follow)
    reader.start()
    while reader.is_alive():
        wasmhost("start", "actor", str(ECHO))
        wasmhost("stop", "actor", "echo")
        reader.join(0.1)
    event = json.loads(found[0].out)
    assert (event["name"], event["source"]) == ("actors_started", host)
    assert event["data"]["count"] == 1


def test_past_events_are_shown_and_the_command_ends(host: str, wasmhost: Wasmhost, clean: None) -> None:
    wasmhost("start", "actor", str(ECHO))
    past = wasmhost("events", "--since", "1m", "--name", "actors_started", "-o", "json").out.splitlines()
    assert json.loads(past[-1])["data"]["count"] == 1
    assert "host_heartbeat" in wasmhost("events", "--since", "1m", "--name", "host_heartbeat").out
    last = wasmhost("events", "--since", "1h", "-f", "--name", "actors_started", "--count", "1", "-o", "json")
    assert "actors_started" in last.out
    assert "neither an age" in wasmhost("events", "--since", "yesterday", code=2).err


def test_log_lines_of_an_actor_are_shown_by_name(host: str, wasmhost: Wasmhost, clean: None) -> None:
    wasmhost("start", "actor", str(ECHO))
    wasmhost("start", "provider", "bundled:keyvalue")
    assert "actor.started" in wasmhost("logs", "echo").out
    assert "provider.spawned" in " ".join(wasmhost("logs", "keyvalue").out.split())
    line = json.loads(wasmhost("logs", "echo", "-n", "1", "-o", "json").out)
    assert (line["host_id"], line["source"], line["level"]) == (host, "host", "info")
    assert wasmhost("logs", "echo", "--level", "error").out == ""
    assert "no actor or provider 'nothing'" in wasmhost("logs", "nothing", code=3).err
    wasmhost("link", "put", "echo", "bundled:keyvalue")
    assert "link.ready provider=Key-value store on JetStream" in wasmhost("logs", "echo").out, "which one is said"
    assert "link.ready provider=" not in wasmhost("logs", "keyvalue").out, "here it is the one asked for"


def test_a_spy_sees_the_decoded_calls(
    host: str, nats_server: NatsServer, home: Path, wasmhost: Wasmhost, clean: None
) -> None:
    wasmhost("start", "actor", str(ECHO))
    env = user_environment(home, WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE=LATTICE, COLUMNS="80")
    for form in ("text", "json"):
        spy = Running(["spy", "echo", "--count", "2", "-o", form], env=env)
        while spy.process.poll() is None:
            wasmhost("call", "echo", "HttpServer.HandleRequest", '{"path": "/seen"}', "-o", "json")
        assert spy.stop() == 0
        if form == "json":
            asked, answered = (json.loads(line) for line in spy.lines)
            assert asked["value"]["path"] == "/seen"
            assert (answered["number"], answered["value"]["statusCode"]) == (asked["number"], 200)
        else:
            assert spy.has_printed("<- HttpServer.HandleRequest from wasmhost-cli")
            assert spy.has_printed('"/seen"')
    assert "no actor 'nothing'" in wasmhost("spy", "nothing", code=3).err


def test_what_runs_is_completed_and_nothing_where_no_lattice_answers(
    host: str, nats_server: NatsServer, home: Path, wasmhost: Wasmhost, clean: None
) -> None:
    started = wasmhost("start", "actor", str(ECHO), "-o", "json").json

    def completed(line: str, url: str = nats_server.url) -> list[str]:
        variables = {"_WASMHOST_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(line.count(" "))}
        env = user_environment(home, WASMHOST_NATS_URL=url, WASMCLOUD_LATTICE=LATTICE, **variables)
        ended = run([], env=env)
        assert ended.stderr == ""
        return [word.partition(",")[2] for word in ended.stdout.splitlines() if word]

    assert completed("wasmhost stop actor ") == ["Echo", "wasmhost/echo"]
    assert completed(f"wasmhost spy {started['actor_id'][:8]}") == [started["actor_id"]]
    assert completed(f"wasmhost stop host {host[:8]}") == [host]
    assert completed("wasmhost stop actor ", f"nats://127.0.0.1:{free_port()}") == []


def test_wrong_input_is_told_before_anything_is_sent(host: str, wasmhost: Wasmhost) -> None:
    assert "is not JSON" in wasmhost("call", "echo", "A.B", "{", code=2).err
    assert "nested too deeply" in wasmhost("call", "echo", "A.B", "[" * 5000 + "]" * 5000, code=2).err
    assert "no command 'hosst'" in wasmhost("get", "hosst", code=2).err
    assert "did you mean 'hosts'" in wasmhost("get", "hosst", code=2).err
    assert "lattice name" in wasmhost("get", "hosts", "-x", "a.b", code=2).err
    assert "KEY=VALUE" in wasmhost("link", "put", "x", "y", "a:b", "novalue", code=2).err


def test_a_lattice_without_hosts_and_an_address_without_server_are_unreachable(wasmhost: Wasmhost) -> None:
    assert wasmhost("get", "hosts", "-x", "empty", "-o", "json").json == {"hosts": []}
    for kind in ("inventory", "actors", "providers", "links", "claims"):
        assert "no host answers in lattice 'empty'" in wasmhost("get", kind, "-x", "empty", code=6).err
    nowhere = wasmhost("get", "hosts", "--nats-url", f"nats://127.0.0.1:{free_port()}", "-o", "json", code=6)
    assert json.loads(nowhere.err)["exit_code"] == 6


def test_an_actor_that_was_revoked_is_told_as_such_however_it_is_named(
    host: str, wasmhost: Wasmhost, clean: None
) -> None:
    key = wasmhost("start", "actor", str(ECHO), "-o", "json").json["actor_id"]
    wasmhost("claims", "revoke", "echo", "--reason", "leaks requests")
    try:
        for text in ("echo", "wasmhost/echo", key[:8], key, ECHO.name):
            refused = wasmhost("call", text, "Actor.HealthRequest", code=8).err
            assert "has stopped that actor" in refused and "leaks requests" in refused, text
            assert "Next: `wasmhost claims revoked`" in refused
    finally:
        wasmhost("claims", "unrevoke", key)


def test_what_the_nats_server_does_not_permit_is_one_line_and_one_next_step(tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path / "nats",
        config="authorization { users [{ user: reader, password: pw, permissions: { publish: _INBOX.> } }] }",
    ).start()
    env = user_environment(tmp_path / "home")
    try:
        for form in ([], ["--watch"]):
            ended = run(["get", "hosts", "-o", "json", "--nats-url", server.login_url("reader"), *form], env=env)
            (line,) = ended.stderr.splitlines()
            assert (ended.returncode, json.loads(line)["exit_code"]) == (8, 8)
            assert "wasmbus.ctl.default.ping.hosts; give the user that permission" in line
        checked = run(["doctor", "-o", "json", "--nats-url", server.login_url("reader")], env=env)
        last = json.loads(checked.stdout)["checks"][-1]
        assert last["level"] == "fail" and "give the user that permission" in last["fix"]
    finally:
        server.stop()


def test_a_stopped_host_is_seen_to_be_gone(nats_server: NatsServer, tmp_path: Path) -> None:
    env = user_environment(tmp_path / "home", WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE="cli-stop")
    daemon = Running(["host", "--name", "passing"], env=env)
    daemon.wait_for_output("host.started")
    try:
        ended = run(["stop", "host", "passing"], env=env)
        assert ended.returncode == 0, ended.stderr
        assert "stopped host passing" in ended.stdout
        wait_until(lambda: daemon.process.poll() is not None, timeout=5, what="the daemon's end")
        assert daemon.process.returncode == 0
    finally:
        daemon.kill()
