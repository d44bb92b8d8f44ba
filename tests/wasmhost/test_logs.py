"""What may and may not appear in a log line."""

from __future__ import annotations

import base64
import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from lattice.keys import KeyPair, Role
from wasmhost import logs


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level


@pytest.mark.parametrize("structured", [True, False])
def test_a_line_is_one_line_and_holds_no_seed(structured: bool) -> None:
    output = io.StringIO()
    logs.configure("info", structured=structured, stream=output)
    seed = KeyPair.generate(Role.CLUSTER).seed
    structlog.get_logger().info("guest.log", text=f"one\ntwo\x1b[2J {seed}", nested={"seed": seed})
    line = output.getvalue()
    assert line.count("\n") == 1 and "\x1b" not in line and "guest.log" in line
    assert seed not in line and line.count("<seed hidden>") == 2


@pytest.mark.parametrize("structured", [True, False])
def test_no_value_however_deep_and_of_whatever_type_escapes_that(structured: bool) -> None:
    output = io.StringIO()
    logs.configure("info", structured=structured, stream=output)
    seed = KeyPair.generate(Role.USER).seed

    class Told:
        def __repr__(self) -> str:
            return f"<{seed}\n\x9b2J>"

    # what a provider writes becomes fields of a log event, members' names and all
    structlog.get_logger().info(
        "provider.log", text="\u202egnp.exe", deep={"a": {"b": {"c": [{seed: seed}]}}}, odd=Told()
    )
    line = output.getvalue()
    assert seed not in line and line.count("<seed hidden>") == 3
    assert line.count("\n") == 1 and line.rstrip("\n").isprintable()


def test_structured_lines_are_json_with_level_and_time() -> None:
    output = io.StringIO()
    logs.configure("warning", structured=True, stream=output)
    structlog.get_logger().info("too.quiet")
    logging.getLogger("asyncio").error("Task exception was never retrieved")
    structlog.get_logger().warning("call.refused", actor="MABC")
    first, second = map(json.loads, output.getvalue().splitlines())
    assert (first["level"], first["event"]) == ("error", "Task exception was never retrieved")
    assert (second["level"], second["event"], second["actor"]) == ("warning", "call.refused", "MABC")
    assert second["timestamp"].endswith("Z")


def test_what_is_told_otherwise_is_not_logged() -> None:
    output = io.StringIO()
    logs.configure("warning", structured=True, stream=output, told_otherwise=["call.refused"])
    structlog.get_logger().warning("call.refused")
    structlog.get_logger().warning("connection.lost")
    (line,) = output.getvalue().splitlines()
    assert json.loads(line)["event"] == "connection.lost"


def test_tokens_and_host_data_are_hidden_wherever_they_stand() -> None:
    token = "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiJhYmMifQ.c2lnbmF0dXJl"
    host_data = base64.b64encode(b'{"host_id":"N","cluster_seed":"SC"}' * 3).decode()
    for secret in (token, host_data):
        shown = logs.hide(f"before {secret} after")
        assert shown == "before <token hidden> after"
    assert logs.hide("eyJust a word") == "eyJust a word"


@pytest.mark.parametrize("structured", [True, False])
def test_a_traceback_holds_no_seed_either(structured: bool) -> None:
    output = io.StringIO()
    logs.configure("info", structured=structured, stream=output)
    seed = KeyPair.generate(Role.CLUSTER).seed
    try:
        raise ValueError(f"not usable: {seed}")
    except ValueError:
        structlog.get_logger().exception("it.broke")
    assert "ValueError: not usable: <seed hidden>" in output.getvalue()
    assert seed not in output.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("structured", "stream", "json_lines"),
    [(None, io.StringIO, True), (None, Terminal, False), (True, Terminal, True), (False, io.StringIO, False)],
)
def test_the_form_follows_where_lines_go_unless_it_is_set(
    structured: bool | None, stream: type[io.StringIO], json_lines: bool
) -> None:
    output = stream()
    logs.configure("info", structured=structured, stream=output)
    structlog.get_logger().info("some.thing", answer=42)
    assert output.getvalue().startswith("{") is json_lines
