"""More clients than an actor can serve: some are served in time, the others hear at once that they should come back."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import wasmtime

from lattice.contracts.httpserver import HttpResponse
from tests.support.http import answers, get
from tests.support.processes import ROOT, Running

Start = Callable[..., Running]
CLIENTS = 60
SECONDS = 3.0
BUSY_MS = 10
"""What one call takes, on a machine of any speed: 60 clients wait longer for that than the 0.3 s the link allows."""


def slow_actor() -> bytes:
    response = HttpResponse(body=b"done").encode()
    data = "".join(f"\\{byte:02x}" for byte in response)
    text = f"""(module
      (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
      (import "wasi_snapshot_preview1" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "{data}")
      (func $now (result i64)
        (drop (call $clock (i32.const 1) (i64.const 0) (i32.const 4096)))
        (i64.load (i32.const 4096)))
      (func (export "__guest_call") (param i32 i32) (result i32)
        (local $end i64)
        (local.set $end (i64.add (call $now) (i64.const {BUSY_MS * 1_000_000})))
        (loop $again
          (br_if $again (i64.lt_u (call $now) (local.get $end))))
        (call $response (i32.const 0) (i32.const {len(response)}))
        (i32.const 1)))"""
    return bytes(wasmtime.wat2wasm(text))


@dataclass
class Crowd:
    """Clients that each ask, and wait a moment after a refusal."""

    port: int
    served: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def run(self) -> None:
        end = time.monotonic() + SECONDS
        threads = [threading.Thread(target=self._client, args=(end,)) for _ in range(CLIENTS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

    def _client(self, end: float) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        while time.monotonic() < end:
            began = time.monotonic()
            connection.request("GET", "/")
            response = connection.getresponse()
            body = response.read()
            took = time.monotonic() - began
            if response.status == 200 and body == b"done":
                self.served.append(took)
            elif response.status == 503 and int(response.headers["Retry-After"]) >= 1 and b"overloaded" in body:
                self.refused.append(took)
                time.sleep(0.1)
            elif response.status == 504:
                self.late.append(took)
            else:
                self.wrong.append(f"{response.status} {body!r}")
        connection.close()


def test_a_crowd_is_served_in_part_and_refused_at_once_for_the_rest(
    start: Start, manifest: Callable[[str], Path], tmp_path: Path, http_port: int
) -> None:
    (tmp_path / "slow.wasm").write_bytes(slow_actor())
    path = manifest("echo")
    text = path.read_text()
    for shipped, ours in (
        (str(ROOT / "actors" / "echo" / "echo_s.wasm"), "slow.wasm"),
        ("replicas: 4", "replicas: 1"),
        ("values:", 'values:\n              timeout_ms: "300"'),
    ):
        assert shipped in text
        text = text.replace(shipped, ours)
    path.write_text(text)
    up = start("up", str(path))
    up.wait_until(lambda: answers(http_port), timeout=20, what="the application")

    crowd = Crowd(http_port)
    crowd.run()
    print(
        len(crowd.served),
        len(crowd.refused),
        len(crowd.late),
        median(crowd.refused or [0]),
        median(crowd.served or [0]),
    )
    assert crowd.wrong == []
    assert len(crowd.served) > 20, "who is let in is served"
    assert len(crowd.refused) > CLIENTS, "most are too many"
    assert len(crowd.late) < len(crowd.served), "few are let in and then told that it took too long"
    assert median(crowd.refused) < median(crowd.served), "at once"
    assert get(http_port)[0] == 200, "and when they are gone it is as before"
    assert up.stop() == 0
    assert up.output.count("is overloaded") < 200, "nor does the log overflow"
