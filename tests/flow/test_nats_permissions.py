"""Applications under the permissions that docs/security.md lists, and what those do not permit."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lattice import bundled
from lattice.chunks import Chunks
from lattice.connection import Connection, ConnectOptions, connect
from lattice.errors import LatticeError, NotAuthorized
from lattice.jetstream import JetStream
from lattice.keys import KeyPair, Role
from lattice.login import TlsFiles
from lattice.objects import ObjectBucket
from lattice.store import Bucket, open_bucket
from tests.support.certificates import Authority
from tests.support.http import answers, get, post
from tests.support.nats import NatsServer, free_port
from tests.support.operator import Operator, write_credentials
from tests.support.permissions import NAMES, filled, page_host, page_server, users
from tests.support.processes import ROOT, Running, run, user_environment
from wasmhost.images.actor_file import read_actor

COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"
ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
HTTP, STORE = bundled.BUNDLED["httpserver"].public_key, bundled.BUNDLED["keyvalue"].public_key
OTHER = KeyPair.generate(Role.MODULE).public


@dataclass
class Secured:
    """A lattice with one host, whose users have the permissions of the page."""

    kind: str
    server: NatsServer
    env: dict[str, str]
    host: Running
    files: Path
    tls: TlsFiles

    def do(self, *arguments: str) -> str:
        ended = run(list(arguments), env=self.env)
        assert ended.returncode == 0, f"{arguments}: {ended.stdout}{ended.stderr}\n{self.host.output}"
        assert "permission_violation" not in ended.stderr, "missing on the page"
        return ended.stdout

    def options(self, file: str, inbox: str) -> ConnectOptions:
        creds = str(self.files / file)
        return ConnectOptions(url=self.server.url, credentials=creds, inbox_prefix=inbox, tls=self.tls)


def _server_config(kind: str, files: Path, authority: Authority, names: dict[str, str]) -> str:
    """The server of the page with these keys in it; credentials of all users are written into ``files``."""
    places = {
        "U_CONTROL": "one-control",
        "U_CALLS": "one-calls",
        "U_PERSON": "alice",
        "U_HTTP": f"providers/{HTTP}",
        "U_STORE": f"providers/{STORE}",
    }
    (files / "providers").mkdir()
    made = authority.signed("server")
    tls = {"/etc/nats/server.pem": made.certificate, "/etc/nats/server.key": made.key}
    tls["/etc/nats/ca.pem"] = authority.certificate
    text = filled(page_server(), names)
    for path, own in {**tls, "/var/lib/nats": files / "jetstream"}.items():
        assert path in text
        text = text.replace(path, str(own))
    if kind == "static keys":
        for name in NAMES:
            user = KeyPair.generate(Role.USER)
            file = files / f"{places[name]}.creds"
            file.write_text(user.seed)
            file.chmod(0o600)
            text = text.replace(f'"{name}"', f'"{user.public}"')
        return text
    operator = Operator()
    for name, may in users(names).items():
        token, seed = operator.user(publish=may.publish, subscribe=may.subscribe, responses=may.responses)
        write_credentials(files / f"{places[name]}.creds", token, seed)
    return text[: text.index("accounts {")] + operator.config


@pytest.fixture(scope="module", params=["static keys", "operator mode"])
def secured(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    files = tmp_path_factory.mktemp("secured")
    authority = Authority(files / "authority")
    counter = read_actor(COUNTER.read_bytes())
    names = {"M_APP": counter.subject, "V_HTTP": HTTP, "V_STORE": STORE}
    config = _server_config(request.param, files, authority, names)
    server = NatsServer(files / "nats", jetstream=False, config=config).start()
    client = authority.signed("one", client=True)
    tls = TlsFiles(ca=str(authority.certificate), certificate=str(client.certificate), key=str(client.key))
    settings = page_host().replace("tls://nats.example:4222", server.url.replace("nats://", "tls://"))
    settings = settings.replace("/etc/wasmhost/ca.pem", tls.ca).replace("/etc/wasmhost/one.pem", tls.certificate)
    settings = settings.replace("/etc/wasmhost/one.key", tls.key).replace("/etc/wasmhost", str(files))
    (files / "host.yaml").write_text(settings)
    env = user_environment(files / "home")
    url = ["--nats-url", server.url.replace("nats://", "tls://")]
    shown = run(
        [
            *("ctx", "new", "prod", *url, "--creds", str(files / "alice.creds")),
            *("--inbox-prefix", "_INBOX_people.alice", "--default"),
            *("--tls-ca", tls.ca, "--tls-cert", tls.certificate, "--tls-key", tls.key),
        ],
        env=env,
    )
    assert shown.returncode == 0, shown.stderr
    host = Running(
        ["host", "--config", str(files / "host.yaml"), "--trust", counter.issuer, "--allow-file-load", "--no-local"],
        env=env,
    )
    try:
        host.wait_for_output("host.started")
        yield Secured(request.param, server, env, host, files, tls)
        assert host.stop() == 0
        assert "eof_received" not in host.output, "asyncio knows that the streams speak TLS"
    finally:
        host.kill()
        server.stop()


def _link(actor: str, provider: str, contract: str, **values: str) -> dict[str, object]:
    return {"actor": actor, "provider_id": provider, "contract_id": contract, "values": values}


def _refuses(port: int) -> bool:
    try:
        return get(port)[0] >= 500
    except OSError:
        return False


def test_whole_applications_run_under_exactly_these_permissions(secured: Secured) -> None:
    port, other = free_port(), free_port()
    counter, echo = (read_actor(file.read_bytes()).subject for file in (COUNTER, ECHO))
    http, store = (HTTP, "wasmcloud:httpserver"), (STORE, "wasmcloud:keyvalue")
    wanted = {
        "actors": [str(COUNTER)],
        "capabilities": [{"image_ref": "bundled:httpserver"}, {"image_ref": "bundled:keyvalue"}],
        "links": [_link(counter, *store), _link(counter, *http, address=f"127.0.0.1:{port}")],
    }
    (host,) = json.loads(secured.do("get", "hosts", "-o", "json"))["hosts"]
    (secured.files / "counter.yaml").write_text(json.dumps(wanted))
    secured.do("apply", host["host_id"], str(secured.files / "counter.yaml"))
    secured.host.wait_until(lambda: answers(port, "/warm"), timeout=15, what="an answer")
    assert [get(port, "/a")[1], get(port, "/a?amount=5")[1]] == [b'{"counter":1}', b'{"counter":6}']
    assert post(port, "/large", b"x" * 1_500_000)[0] == 200, "an argument that takes the way over JetStream"
    (host,) = json.loads(secured.do("get", "inventory", "-o", "json"))["hosts"]
    assert host["degraded"] is None
    if secured.kind == "static keys":  # the commands know nothing of how their user is admitted
        called = secured.do("call", "kvcounter", "HttpServer.HandleRequest", json.dumps({"path": "/a"}))
        assert "200" in called
        assert "provider_started" in secured.do("events", "--since", "1m")
    # the provider of the page may call one actor: another one is out of its reach
    wanted = {"actors": [str(ECHO)], "links": [_link(echo, *http, address=f"127.0.0.1:{other}")]}
    (secured.files / "echo.yaml").write_text(json.dumps(wanted))
    secured.do("apply", host["host_id"], str(secured.files / "echo.yaml"))
    secured.host.wait_until(lambda: _refuses(other), timeout=15, what="a refusal")
    secured.host.wait_for_output("permission_violation")
    refused = [line for line in secured.host.lines if "permission_violation" in line]
    assert [line for line in refused if echo.lower() not in line] == [], "what is missing on the page"


async def test_every_operation_on_the_stores_is_permitted(secured: Secured) -> None:
    """Those that an application does not happen to need, too: by the user that needs each."""
    violations: list[object] = []
    control = await connect(secured.options("one-control.creds", "_INBOX_control.one"))
    calls = await connect(secured.options("one-calls.creds", "_INBOX_calls.one"))
    store = await connect(secured.options(f"providers/{STORE}.creds", f"_INBOX_providers.{STORE}"))
    person = await connect(secured.options("alice.creds", "_INBOX_people.alice"))
    for connection in (control, calls, store, person):
        connection.on_violation(violations.append)
    try:
        for connection, name in (
            *((control, "LATTICEDATA_default"), (control, "CONFIGDATA_default"), (control, "WASMHOST_default")),
            (store, "KEYVALUE_default"),
        ):
            await _use_bucket(await open_bucket(connection, name))
        chunks = Chunks(calls, "default")
        payload = secrets.token_bytes(1_500_000)
        for _ in range(2):
            name = secrets.token_hex(16)
            info = await chunks.send(name, payload, what="test")
            deadline = asyncio.get_running_loop().time() + 10
            assert await chunks.receive(name, len(payload), what="test", deadline=deadline) == payload
            chunks.discard(info)
        chunks.drop(name)
        await chunks.sweep()
        bucket = ObjectBucket(calls, "default")
        info = await bucket.put("x" * 32, payload)
        batches = [chunk async for chunk in bucket._pushed(info, 1)]
        assert b"".join(batches) == payload, "as older servers are asked"
        await bucket.delete(info)
        await bucket.close()
        await chunks.close()
        await JetStream(person, "JetStream").ask("INFO")
        for connection in (control, calls, store, person):
            await connection.flush()
        assert violations == []
    finally:
        for connection in (control, calls, store, person):
            await connection.close()


async def _use_bucket(bucket: Bucket) -> None:
    key = f"zz_{secrets.token_hex(8)}"
    revision = await bucket.create(key, b"1")
    revision = await bucket.update(key, b"2", revision)
    found = await bucket.get(key)
    assert found is not None and found.value == b"2"
    assert key in await bucket.keys()
    changes = bucket.watch()
    async for change in changes:
        if change is None:
            break
    await changes.aclose()  # type: ignore[attr-defined]
    await bucket.delete(key, revision=revision)
    await bucket.put(key, b"3")
    await bucket.purge(key)
    assert await bucket.get(key) is None


def test_the_doctor_finds_nothing_open_there(secured: Secured) -> None:
    """Run by the person and with the settings of the host, so that the users of its providers are tried, too."""
    env = {**secured.env, "HOST_CONFIG": str(secured.files / "host.yaml")}
    ended = run(["doctor", "security", "-o", "json"], env=env)
    assert ended.returncode == 0, ended.stdout
    checks = json.loads(ended.stdout)["checks"]
    assert {check["check"] for check in checks if check["level"] == "ok"} >= {
        *("files", "nats", "tls", "users", "inboxes", "keys", "providers", "clocks"),
    }
    # --allow-file-load, which the other tests need
    assert [check["check"] for check in checks if check["level"] != "ok"] == ["files"], checks


async def test_what_a_providers_user_may_not_do(secured: Secured) -> None:
    """The probes of a malicious provider: of all it tries, only its own subjects, its inbox and its actor are open."""
    actor = read_actor(COUNTER.read_bytes()).subject
    host = KeyPair.generate(Role.HOST).public
    rpc, control = "wasmbus.rpc.default", "wasmbus.ctl.default"
    connection = await connect(secured.options(f"providers/{HTTP}.creds", f"_INBOX_providers.{HTTP}"))
    try:
        for subject in (
            *(">", "wasmbus.>", f"{rpc}.>", f"{rpc}.*", f"{rpc}.{actor}", f"{control}.>", "wasmbus.evt.default"),
            *("_INBOX.>", "_INBOX_people.>", "_INBOX_calls.>", "_INBOX_control.>", "_INBOX_providers.>"),
            *(f"_INBOX_providers.{STORE}.>", f"{rpc}.{STORE}.default", f"{rpc}.{STORE}.default.>", f"{rpc}.*.*"),
            *("$KV.>", "$O.>", "$JS.>", "$SYS.>", "wasmbus.rpcevt.default"),
        ):
            with pytest.raises(NotAuthorized):
                await connection.subscribe(subject, lambda *_: None)
        for subject in (f"{rpc}.{HTTP}.default", f"{rpc}.{HTTP}.default.health", f"_INBOX_providers.{HTTP}.x"):
            await (await connection.subscribe(subject, lambda *_: None)).unsubscribe()
        for subject in (
            *(
                f"{control}.cmd.{host}.lp",
                f"{control}.linkdefs.put",
                f"{control}.registries.put",
                f"{control}.ping.hosts",
            ),
            *("wasmbus.evt.default", "wasmbus.cfg.default.req", f"{rpc}.{OTHER}", f"{rpc}.{STORE}.default"),
            *(f"{rpc}.{STORE}.default.shutdown", f"{rpc}.{HTTP}.default.linkdefs.put", "$KV.LATTICEDATA_default.x"),
            *("$KV.WASMHOST_default.x", "$KV.KEYVALUE_default.x", "$JS.API.STREAM.DELETE.KV_LATTICEDATA_default"),
            *("$JS.API.STREAM.LIST", "$JS.API.STREAM.DELETE.OBJ_default", "_INBOX_people.alice.x"),
            *("_INBOX_calls.one.x", "_INBOX_control.one.x", f"_INBOX_providers.{STORE}.x", "$SYS.REQ.SERVER.PING"),
        ):
            with pytest.raises(NotAuthorized, match="does not permit"):
                await connection.request(subject, b"{}", timeout=5)
        assert (await _asked(connection, f"{rpc}.{actor}")) != "refused"
    finally:
        await connection.close()


async def test_no_connection_of_a_host_can_do_what_only_another_has_to(secured: Secured) -> None:
    calls = await connect(secured.options("one-calls.creds", "_INBOX_calls.one"))
    control = await connect(secured.options("one-control.creds", "_INBOX_control.one"))
    try:
        assert await _asked(calls, "wasmbus.ctl.default.ping.hosts") == "refused"
        assert await _asked(calls, "wasmbus.ctl.default.linkdefs.put") == "refused"
        assert await _asked(calls, "$KV.LATTICEDATA_default.x") == "refused"
        assert await _asked(control, f"wasmbus.rpc.default.{HTTP}.default.shutdown") == "refused"
        assert await _asked(control, f"wasmbus.rpc.default.{OTHER}") == "refused"
        for connection, subject in (
            (calls, "wasmbus.ctl.default.>"),
            (calls, "_INBOX_people.>"),
            (control, "_INBOX.>"),
            (control, "wasmbus.rpc.default.*"),
        ):
            with pytest.raises(NotAuthorized):
                await connection.subscribe(subject, lambda *_: None)
    finally:
        await calls.close()
        await control.close()


async def _asked(connection: Connection, subject: str) -> str:
    """What became of a request: refused by the server, or anything else."""
    try:
        await connection.request(subject, b"", timeout=1)
    except NotAuthorized:
        return "refused"
    except LatticeError as error:
        return str(error)
    return "answered"


def test_nobody_gets_in_without_all_that_is_asked_for(secured: Secured, tmp_path: Path) -> None:
    """The command line says in one sentence what is missing, with the exit code for it, and hangs nowhere."""
    tls = [
        "--nats-tls-ca",
        secured.tls.ca,
        "--nats-tls-cert",
        secured.tls.certificate,
        "--nats-tls-key",
        secured.tls.key,
    ]
    alice = ["--nats-creds", str(secured.files / "alice.creds")]
    url = ["get", "hosts", "--nats-url", secured.server.url]
    stranger = tmp_path / "stranger.nk"
    stranger.write_text(KeyPair.generate(Role.USER).seed)
    empty = user_environment(tmp_path / "home")
    cases = (
        ([*url, *tls, *alice, "--nats-tls-ca", str(Authority(tmp_path).certificate)], 6, "is not trusted"),
        ([*url, *alice, "--nats-tls-ca", secured.tls.ca], 8, "wants a client certificate"),
        ([*url, *tls], 8, "refused no credentials"),
        ([*url, *tls, "--nats-creds", str(stranger)], 8, "refused the given credentials"),
        ([*url, *tls, "--nats-creds", str(tmp_path / "none.creds")], 2, "none.creds is no NATS credentials file"),
    )
    # what comes before the user is the same in both
    for arguments, code, words in cases if secured.kind == "operator mode" else cases[2:4]:
        ended = run(arguments, env=empty, timeout=20)
        assert (ended.returncode, words in ended.stderr) == (code, True), (arguments, ended.stderr)
        assert "Traceback" not in ended.stderr
