"""`wasmhost call` against real actors on a real host, and against a host that knows no derived keys."""

from __future__ import annotations

import asyncio
import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lattice import subjects, verify
from lattice.authority import Authority
from lattice.connection import ConnectOptions, connect
from lattice.errors import NotAuthorized
from lattice.invocation import Invocation, InvocationResponse
from lattice.keys import KeyPair, Role
from lattice.transport import Headers
from tests.support import actors
from tests.support.nats import NatsServer
from tests.support.processes import ROOT, WASMHOST, Running, run, user_environment
from wasmhost.cli.call import readable

CLUSTER = KeyPair.from_raw(Role.CLUSTER, bytes([1]) * 32)


class Lattice:
    """A host with an actor that answers with its request."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env

    def call(self, *arguments: str, code: int = 0, **options: str) -> subprocess.CompletedProcess[str]:
        ended = run(["call", *arguments], env={**self.env, **options})
        assert ended.returncode == code, ended.stderr
        assert "Traceback" not in ended.stderr
        return ended


@pytest.fixture(scope="module")
def echo(nats_server: NatsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lattice]:
    folder = tmp_path_factory.mktemp("call")
    name = f"t{secrets.token_hex(6)}"
    env = user_environment(folder / "home", WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE=name)
    flags = ["--trust", actors.ACCOUNT.public, "--allow-file-load", "--cluster-seed", CLUSTER.seed]
    host = Running(["host", *flags], env=env)
    try:
        host.wait_for_output("host.started")
        wasm = actors.signed(actors.ECHO, name="parrot", call_alias="test/parrot")
        started = run(["start", "actor", actors.write(folder, wasm)], env=env)
        assert started.returncode == 0, started.stderr
        (folder / "cluster.nk").write_text(CLUSTER.seed)
        yield Lattice({**env, "WASMCLOUD_CLUSTER_SEED": str(folder / "cluster.nk")})
        assert host.stop() == 0
    finally:
        host.kill()


def test_the_argument_may_come_in_pieces_from_a_file_or_from_standard_input(echo: Lattice, tmp_path: Path) -> None:
    assert json.loads(echo.call("parrot", "Any.Op", '{"a":', "[1, 2]}").stdout) == {"a": [1, 2]}
    path = tmp_path / "argument.json"
    path.write_text('{"b": "from a file"}')
    assert json.loads(echo.call("parrot", "Any.Op", "--data", str(path)).stdout) == {"b": "from a file"}
    piped = subprocess.run(
        [*WASMHOST, "call", "parrot", "Any.Op", "-d", "-"],
        input='"piped"',
        env=echo.env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert piped.stdout == '"piped"\n'
    path.write_text("{")
    assert f"{path} is not JSON" in echo.call("parrot", "Any.Op", "-d", str(path), code=2).stderr
    assert "given twice" in echo.call("parrot", "Any.Op", "1", "-d", str(path), code=2).stderr
    assert "check the path" in echo.call("parrot", "Any.Op", "-d", str(tmp_path / "none"), code=2).stderr


def test_the_answer_can_be_kept_and_shown_in_other_forms(echo: Lattice, tmp_path: Path) -> None:
    path = tmp_path / "answer"
    kept = echo.call("parrot", "Any.Op", '["x"]', "--save", str(path))
    assert (kept.stdout, path.read_bytes()) == ("", b"\x91\xa1x")
    assert f"wrote 3 bytes to {path}" in kept.stderr
    document = json.loads(echo.call("parrot", "Any.Op", '["x"]', "--save", str(path), "-o", "json").stdout)
    assert (document["saved"], document["bytes"]) == (str(path), 3)
    assert json.loads(echo.call("parrot", "Any.Op", '["é"]', "--bin", "b").stdout) == ["é"], "texts are texts"
    assert "no such file" in echo.call("parrot", "Any.Op", "--save", str(tmp_path / "no" / "x"), code=2).stderr


@pytest.mark.parametrize(
    ("form", "shown"),
    [
        (None, {"text": "hi", "other": {"base64": "/w=="}}),
        ("b", {"text": [104, 105], "other": [255]}),
        ("s", {"text": "hi", "other": "\ufffd"}),
        ("2", {"text": {"bin": [104, 105], "str": "hi"}, "other": {"bin": [255], "str": "\ufffd"}}),
    ],
)
def test_bytes_are_shown_in_the_form_asked_for(form: str | None, shown: object) -> None:
    assert readable({"text": b"hi", "other": b"\xff"}, form) == shown


def test_test_results_are_told_apart(echo: Lattice) -> None:
    good = '[{"name": "adds", "passed": true}]'
    shown = echo.call("parrot", "Testing.Start", good, "--test")
    assert (shown.stdout, shown.stderr) == ("pass  adds\n", "1 passed, 0 failed\n")
    bad = '[{"name": "adds", "passed": true}, {"name": "divides", "passed": false, "snapData": [49, 33, 61, 50]}]'
    assert "FAIL  divides\n      1!=2" in echo.call("parrot", "Testing.Start", bad, "--test", code=1).stdout
    document = json.loads(echo.call("parrot", "Testing.Start", bad, "--test", "-o", "json", code=1).stdout)
    assert (document["passed"], document["failed"], document["tests"][1]["detail"]) == (1, 1, "1!=2")
    refused = echo.call("parrot", "Testing.Start", '"nothing"', "--test", code=1)
    assert "test results" in refused.stderr and "--raw" in refused.stderr


def test_hosts_of_ours_take_the_cluster_seed_itself_too(echo: Lattice) -> None:
    assert echo.call("parrot", "Any.Op", "1", "--classic").stdout == "1\n"
    stranger = KeyPair.generate(Role.CLUSTER).seed
    refused = echo.call("parrot", "Any.Op", "1", "--classic", "-c", stranger, code=8)
    assert "--cluster-seed" in refused.stderr and stranger not in refused.stderr


async def test_a_host_that_knows_static_issuers_only_needs_the_switch(
    nats_server: NatsServer, lattice: str, tmp_path: Path
) -> None:
    actor = KeyPair.generate(Role.MODULE).public
    authority, replay = Authority({CLUSTER.public}), verify.ReplayWindow()
    connection = await connect(ConnectOptions(url=nats_server.url))
    seen: list[Invocation] = []

    def answer(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        invocation = Invocation.decode(payload)
        seen.append(invocation)
        try:
            verify.verify_invocation(invocation, target_key=actor, authority=authority, replay=replay, now=time.time())
        except NotAuthorized as error:
            response = InvocationResponse(
                invocation_id=invocation.id, error=f"Anti-forgery check failed: {error}", content_length=0
            )
        else:
            response = InvocationResponse(invocation_id=invocation.id, msg=invocation.msg, content_length=1)
        connection.publish(reply, response.encode())

    await connection.subscribe(subjects.actor_rpc(lattice, actor), answer)
    env = user_environment(tmp_path / "home", WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE=lattice)
    arguments = ["call", actor, "Any.Op", "7", "--cluster-seed", CLUSTER.seed]
    try:
        refused = await asyncio.to_thread(run, arguments, env=env)
        taken = await asyncio.to_thread(run, [*arguments, "--classic"], env=env)
    finally:
        await connection.drain()
    assert refused.returncode == 8, refused.stderr
    assert "--classic" in refused.stderr
    assert (taken.returncode, taken.stdout) == (0, "7\n"), taken.stderr
    assert seen[1].origin.public_key == seen[1].target.public_key, "whose claims a host can look up"
    assert seen[1].host_id.startswith("N") and len(seen[1].host_id) == 56


def test_calls_may_have_a_server_of_their_own(echo: Lattice, tmp_path: Path) -> None:
    from tests.support.nats import free_port

    nowhere = echo.call("parrot", "Any.Op", "1", code=6, WASMCLOUD_RPC_PORT=str(free_port()))
    assert "no NATS server" in nowhere.stderr
    assert echo.call("parrot", "Any.Op", "1", WASMCLOUD_RPC_TIMEOUT_MS="5000").stdout == "1\n"
