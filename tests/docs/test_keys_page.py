"""docs/keys.md, followed from top to bottom by an operator with two hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.nats import NatsServer
from tests.support.pages import Terminal, steps
from tests.support.processes import Running


@pytest.fixture
def hosts(terminal: Terminal, tmp_path: Path) -> Iterator[list[Running]]:
    server = NatsServer(tmp_path / "nats").start()
    terminal.env["WASMHOST_NATS_URL"] = server.url
    running = [Running(["host", "--name", name], env=terminal.env) for name in ("one", "two")]
    try:
        for host in running:
            host.wait_for_output("host.started")
        yield running
    finally:
        for host in running:
            host.kill()
        server.stop()


def test_the_page_works_as_it_is_written(terminal: Terminal, hosts: list[Running]) -> None:
    terminal.type("wasmhost start provider bundled:keyvalue --host one")
    terminal.follow("keys")
    listed = json.loads(terminal.type("wasmhost cluster list -o json"))
    new = terminal.type("wasmhost keys get cluster").strip()
    assert [(host["signing"], host["accepted"]) for host in listed["hosts"]] == [(new, [new])] * 2
    assert [entry["generation"] for host in listed["hosts"] for entry in host["generations"]] == [1, 1]
    assert listed["todo"] == [] and all(len(host["removed"]) == 1 for host in listed["hosts"])
    shared = terminal.folder / "home" / ".local" / "state" / "wasmhost"
    assert (shared / "cluster.nk").stat().st_mode & 0o777 == 0o600 and not list((shared / "cluster").iterdir())


def test_every_block_of_the_page_is_a_command() -> None:
    assert {step.language for step in steps("keys")} == {"sh"}
    assert len(steps("keys")) == 6
