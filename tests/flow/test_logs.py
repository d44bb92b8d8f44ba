"""What a run prints and stores: a line for every call, and nobody's seeds, tokens or payloads."""

from __future__ import annotations

import base64
import http.client
import json
import re
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from lattice.claims import read_actor
from tests.support import actors
from tests.support.http import answers
from tests.support.nats import NatsServer
from tests.support.operator import Operator
from tests.support.processes import ROOT, Running, run

Start = Callable[..., Running]
COUNTER = ROOT / "actors" / "kvcounter" / "kvcounter_s.wasm"

MARK = "Wq7Payload"
"""Stands in everything that a caller sends: paths, queries, headers, bodies, keys, error texts."""
_SEED = re.compile(rb"(?<![A-Z2-7])S[ACMNOUVX][A-Z2-7]{56}(?![A-Z2-7])")
_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_+/=-]{16,}")
_CERTIFICATE = re.compile(rb"eyJ[A-Za-z0-9_-]+\.(eyJ[A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+")

QUOTING = actors.module("""
  (func (export "__guest_call") (param $op i32) (param $len i32) (result i32)
    (call $request (i32.const 1024) (i32.const 65536))
    (call $error (i32.const 65536) (local.get $len))
    (i32.const 0))""")
"""Refuses every call in words that hold all that it was asked."""

MANIFEST = """
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {{name: marked}}
spec:
  components:
    - name: kvcounter
      type: actor
      properties: {{image: {counter}}}
      traits:
        - {{type: spreadscaler, properties: {{replicas: 2}}}}
        - {{type: linkdef, properties: {{target: httpserver, values: {{address: "127.0.0.1:{port}"}}}}}}
        - {{type: linkdef, properties: {{target: keyvalue}}}}
    - name: quoting
      type: actor
      properties: {{image: quoting.wasm}}
      traits:
        - {{type: spreadscaler, properties: {{replicas: 2}}}}
        - type: linkdef
          properties: {{target: httpserver, values: {{address: "127.0.0.1:{port}", path_prefix: /quote}}}}
    - name: httpserver
      type: capability
      properties: {{image: "bundled:httpserver", contract: "wasmcloud:httpserver"}}
    - name: keyvalue
      type: capability
      properties: {{image: "bundled:keyvalue", contract: "wasmcloud:keyvalue"}}
"""


@dataclass(frozen=True)
class Found:
    where: str
    what: bytes


def findings(where: str, data: bytes, seeds: tuple[str, ...], tokens: bool = True, marks: bool = True) -> list[Found]:
    """What must not stand in ``data``."""
    found = [*_SEED.findall(data), *(seed[4:20].encode() for seed in seeds if seed[4:20].encode() in data)]
    if tokens:
        found += _TOKEN.findall(data)
    if marks and MARK.lower().encode() in data.lower():
        at = data.lower().index(MARK.lower().encode())
        found.append(data[max(0, at - 200) : at + 40])
    return [Found(where, each) for each in found]


def without_certificates(data: bytes) -> bytes:
    """Without delegation tokens, which say in public which key signs for a provider, and are of no use without it."""

    def blot(found: re.Match[bytes]) -> bytes:
        body = json.loads(base64.urlsafe_b64decode(found[1] + b"=="))
        return b"" if body["wascap"].get("valid_signers") else found[0]

    return _CERTIFICATE.sub(blot, data)


def stored(home: Path) -> Iterator[tuple[Path, bytes]]:
    for path in home.rglob("*"):
        if path.is_file():
            yield path, path.read_bytes()


def seeds_of(home: Path) -> tuple[str, ...]:
    """All seeds that the run made, each in a file for its user alone."""
    files = list(home.rglob("*.nk"))
    assert files
    for file in files:
        assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
    return tuple(file.read_text().strip() for file in files)


def ask(port: int, method: str, path: str, body: str = "", **headers: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body=body.encode(), headers=headers)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()


def call_with_marks(port: int) -> None:
    """Calls that succeed and calls that fail in each of the usual ways, every one with something to betray."""
    token = f"Bearer eyJ0eXAiOiJKV1Qi{MARK}.{MARK}.{MARK}"
    assert ask(port, "POST", f"/{MARK}?amount=2&word={MARK}", MARK * 50, authorization=token, cookie=MARK) == 200
    ask(port, "GET", f"/{MARK}?amount={MARK}", cookie=MARK)
    assert ask(port, "GET", f"/{MARK}?amount=2147483647") != 200  # beyond what a counter holds
    assert ask(port, "PUT", f"/quote/{MARK}?{MARK}", MARK, authorization=token) == 500
    assert ask(port, "POST", f"/{MARK}", MARK, **{"transfer-encoding": MARK}) >= 400


def lines(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines() if line.startswith("{")]


@pytest.fixture
def application(tmp_path: Path, http_port: int) -> Path:
    """The counter, and the quoting actor below ``/quote``."""
    (tmp_path / "quoting.wasm").write_bytes(wasmtime.wat2wasm(QUOTING))
    manifest = tmp_path / "marked.yaml"
    manifest.write_text(MANIFEST.format(counter=COUNTER, port=http_port))
    return manifest


@pytest.mark.parametrize("form", ["text", "json"])
def test_up_at_debug_betrays_nothing_and_tells_every_call(
    start: Start, env: dict[str, str], application: Path, http_port: int, form: str
) -> None:
    home = Path(env["HOME"])
    up = start("up", "--log-level", "debug", "-o", form, str(application))
    up.wait_until(lambda: answers(http_port, "/warm"), timeout=20, what="the application")
    events = start("events", "-o", "json")
    call_with_marks(http_port)
    said = [
        run(["get", what, "-o", "json"], env=env) for what in ("inventory", "providers", "actors", "links", "claims")
    ]
    # Its answer goes to standard output, which is what was asked for; only what else it says counts.
    called = run(["call", "quoting", "Any.Thing", json.dumps(MARK)], env=env)
    assert called.returncode == 4
    assert up.stop() == 0
    events.stop()

    seeds = seeds_of(home)
    betrayed = findings("up", up.output.encode(), seeds)
    betrayed += findings("events", events.output.encode(), seeds)
    for result in said:
        assert result.returncode == 0, result.stderr
        betrayed += findings(str(result.args), (result.stdout + result.stderr).encode(), seeds)
    for path, data in stored(home):
        if path.suffix == ".nk":
            continue
        # What applications store is theirs: the key-value store is to hold the marked keys. Claims tokens are public
        # and part of every signed actor; a copy of one is kept as it is.
        inside = "jetstream" in path.parts
        agreed = any(part.startswith("KV_WASMHOST_") for part in path.parts)
        kept = without_certificates(data) if agreed else data
        betrayed += findings(str(path), kept, seeds, marks=not inside, tokens=path.suffix != ".wasm")
    assert betrayed == []

    if form == "json":
        told = lines(up.output)
        ends = [line for line in told if line.get("event") == "call.finished"]
        assert {line["outcome"] for line in ends} >= {"ok", "guest_error"}
        for line in ends:
            assert line["level"] == "debug"
            assert line["route"] == "nats"
            assert line["operation"] and line["actor"].startswith("M") and line["invocation"]
            assert 0 <= line["wait_s"] < 5 and 0 <= line["run_s"] < 5
        assert [line for line in told if line.get("event") == "host_call.finished" and line["outcome"] == "ok"]
        texts = {line.get("text") for line in told if line.get("event") == "provider.log"}
        assert texts >= {"http.request", "call.finished"}, "providers tell theirs, too"
    else:
        assert "call.finished outcome=ok" in up.output


def test_a_host_with_credentials_of_a_nats_user_betrays_none_of_them(
    start: Start, env: dict[str, str], tmp_path: Path
) -> None:
    home = Path(env["HOME"])
    operator = Operator()
    token, seed = operator.user()
    server = NatsServer(tmp_path / "nats", jetstream=False, config=operator.config).start()
    env.update(WASMHOST_NATS_URL=server.url, WASMCLOUD_NATS_JWT=token, WASMCLOUD_NATS_SEED=seed)
    try:
        account = read_actor(COUNTER.read_bytes()).issuer
        host = start("host", "--trust", account, "--allow-file-load", "--log-level", "debug")
        host.wait_for_output("host.started")
        said = [
            run(arguments, env=env)
            for arguments in (
                ["start", "provider", "bundled:keyvalue-memory"],
                ["start", "actor", str(COUNTER)],
                ["link", "put", "kvcounter", "bundled:keyvalue-memory", "wasmcloud:keyvalue"],
                ["call", "kvcounter", "HttpServer.HandleRequest", json.dumps({"path": f"/{MARK}", "body": MARK})],
                ["get", "inventory", "-o", "json"],
            )
        ]
        assert [result.returncode for result in said] == [0] * len(said), [result.stderr for result in said]
        assert host.stop() == 0
    finally:
        server.stop()
    seeds = (*seeds_of(home), seed)
    betrayed = findings("host", host.output.encode(), seeds)
    for result in said:
        betrayed += findings(str(result.args), (result.stdout + result.stderr).encode(), seeds)
    for path, data in stored(home):
        if path.suffix != ".nk":
            betrayed += findings(str(path), data, seeds)
    assert betrayed == []
    told = lines(host.output)
    assert len(told) == len(host.lines), "not a terminal: every line is JSON"
    (call,) = [line for line in told if line["event"] == "call.finished"]
    assert (call["outcome"], call["operation"]) == ("ok", "HttpServer.HandleRequest")
    asked = [line for line in told if line["event"] == "host_call.finished"]
    assert [(line["contract"], line["route"]) for line in asked] == [("wasmcloud:keyvalue", "nats")]
