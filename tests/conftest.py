"""Fixtures shared by all tests: one server of each kind per run, a fresh lattice name per test."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator

import pytest
from hypothesis import settings

from tests.support.nats import NatsServer
from tests.support.processes import Running
from tests.support.redis import RedisServer

# A busy machine makes single examples slow; that says nothing about the code.
settings.register_profile("wasmhost", deadline=None)
settings.load_profile("wasmhost")


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """The run's shared server, with JetStream. Tests that stop or configure a server start their own NatsServer."""
    server = NatsServer(tmp_path_factory.mktemp("nats")).start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """The run's shared server; each test takes a database of its own. Tests that stop one start their own."""
    server = RedisServer(tmp_path_factory.mktemp("redis")).start()
    yield server
    server.stop()


@pytest.fixture
def start(env: dict[str, str]) -> Iterator[Callable[..., Running]]:
    """Start wasmhost commands that are killed at the end of the test, whatever happened."""
    running: list[Running] = []

    def begin(*arguments: str, **kwargs: object) -> Running:
        process = Running(list(arguments), env=env, **kwargs)  # type: ignore[arg-type]
        running.append(process)
        return process

    yield begin
    for process in running:
        process.kill()


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say something at the end of the run, whichever process the test runs in."""
    return lambda text: record_property("note", text)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name no test after binary data: what a run made (a compressed file holds the time) differs between workers."""
    return argname if isinstance(val, bytes) and not (val.isascii() and val.decode().isprintable()) else None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.stats.get("passed", []), *terminalreporter.stats.get("failed", [])]
    notes = {str(value): None for report in reports for name, value in report.user_properties if name == "note"}
    for text in notes:
        terminalreporter.write_line(text)


@pytest.fixture
def lattice() -> str:
    """A lattice name that no other test uses."""
    return f"t{secrets.token_hex(6)}"
