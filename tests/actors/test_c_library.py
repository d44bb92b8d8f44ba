"""The C library of actors/c, through an actor that uses all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lattice.contracts.httpserver import HANDLE_REQUEST, HttpRequest, HttpResponse
from lattice.errors import GuestError
from tests.actors.conftest import Actor, Start
from tests.support.c import compiled

PROBE = Path(__file__).with_name("probe.c")
LIBRARY = Path(__file__).parents[2] / "actors" / "c"


@pytest.fixture
async def probe(start: Start) -> Actor:
    return await start(compiled(PROBE, "-mexec-model=reactor", f"-I{LIBRARY}"))


def pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


LEAVES = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=30)


async def test_values_are_read_and_written_as_the_msgpack_package_does(probe: Actor) -> None:
    cases: list[Any] = []

    @settings(max_examples=150, database=None)
    @given(VALUES)
    def collect(value: Any) -> None:
        cases.append(value)

    collect()
    for exponent in (5, 7, 8, 15, 16, 31, 32, 63):
        cases += [edge + step for edge in (2**exponent, -(2**exponent)) for step in (-1, 0) if edge + step >= -(2**63)]
    for length in (15, 16, 31, 32, 255, 256, 65_535, 65_536):
        cases += ["x" * length, b"x" * length, [0] * length, {str(number): 0 for number in range(length)}]
    for value in cases:
        assert await probe.call("Probe.Copy", pack(value)) == pack(value)


@pytest.mark.parametrize(
    ("wide", "shortest"),
    [("d007", "07"), ("cd0007", "07"), ("d200000007", "07"), ("d3ffffffffffffffff", "ff"), ("d1ff80", "d080"),
     ("cf0000000000000007", "07"), ("da000161", "a161"), ("db0000000161", "a161"), ("c6000000017a", "c4017a"),
     ("dc000107", "9107"), ("dd0000000107", "9107"), ("de0001a16107", "81a16107"),
     ("ca3fc00000", "cb3ff8000000000000")],
)  # fmt: skip
async def test_any_width_is_accepted(probe: Actor, wide: str, shortest: str) -> None:
    assert await probe.call("Probe.Copy", bytes.fromhex(wide)) == bytes.fromhex(shortest)


@pytest.mark.parametrize(
    "damaged",
    ["", "c1", "cd00", "a5616263", "c6ffffffff", "dbffffffff", "92", "9207", "81a161", "ddffffffff", "c70501"],
)
async def test_what_is_cut_off_or_no_value_is_an_error(probe: Actor, damaged: str) -> None:
    with pytest.raises(GuestError, match="no value"):
        await probe.call("Probe.Copy", bytes.fromhex(damaged))
    with pytest.raises(GuestError, match="no second number"):
        await probe.call("Probe.Second", bytes.fromhex(damaged))


async def test_unknown_values_are_skipped_whole(probe: Actor) -> None:
    @settings(max_examples=40, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(VALUES)
    def collect(value: Any) -> None:
        cases.append(value)

    cases: list[Any] = [msgpack.ExtType(5, b"12345"), msgpack.ExtType(5, b"1234"), {"a": [{"b": [1, 2]}, []]}]
    collect()
    for value in cases:
        assert await probe.call("Probe.Second", pack(value) + pack(-300)) == pack(-300)


async def test_http_requests_are_read_and_answered(probe: Actor) -> None:
    request = HttpRequest(
        method="PUT",
        path="/p",
        query_string="x=1&name=a%20b+c%2&n",
        header={"user-agent": ["probe", "2"]},
        body=b"\0\xff",
    )
    response = HttpResponse.decode(await probe.call(HANDLE_REQUEST, request.encode()))
    assert (response.status_code, response.body) == (404, b"PUT /p [a b c%2] [probe]")
    assert {name: list(values) for name, values in response.header.items()} == {"Content-Type": ["text/plain"]}
    response = HttpResponse.decode(await probe.call(HANDLE_REQUEST, HttpRequest(path="/echo", body=b"\0\xff").encode()))
    assert (response.status_code, response.body) == (200, b"\0\xff")
    with pytest.raises(GuestError, match="no request"):
        await probe.call(HANDLE_REQUEST, b"\x81\xa4path\x07")


async def test_the_key_value_store_and_the_log_are_asked_as_their_contracts_say(probe: Actor) -> None:
    replies = [b"", pack(1), pack({"value": "1", "exists": True}), b""]
    assert await probe.call("Probe.Store", pack("k"), *replies) == pack("1 1 1")
    assert [(call.binding, call.namespace, call.operation, call.payload) for call in probe.asked] == [
        ("default", "wasmcloud:keyvalue", "KeyValue.Set", pack({"key": "k", "value": "4", "expires": 60})),
        ("default", "wasmcloud:keyvalue", "KeyValue.Increment", pack({"key": "k", "value": -3})),
        ("default", "wasmcloud:keyvalue", "KeyValue.Get", pack("k")),
        ("default", "wasmcloud:builtin:logging", "Logging.WriteLog", pack({"level": "warn", "text": "k"})),
    ]
    with pytest.raises(GuestError, match=r"^add: no link$"):
        await probe.call("Probe.Store", pack("k"), b"", "no link")
    with pytest.raises(GuestError, match="the reply is no number"):
        await probe.call("Probe.Store", pack("k"), b"", pack("many"))


async def test_another_actor_is_called_by_its_alias(probe: Actor) -> None:
    assert await probe.call("Probe.Ask", pack("why"), pack("because")) == pack("because")
    (asked,) = probe.asked
    assert (asked.binding, asked.namespace, asked.operation, asked.payload) == (
        "",
        "demo/other",
        "Other.Ask",
        pack("why"),
    )
    with pytest.raises(GuestError, match=r"^nobody is there$"):
        await probe.call("Probe.Ask", pack("why"), "nobody is there")


async def test_health_and_unknown_operations_are_answered_as_by_other_actors(probe: Actor) -> None:
    assert await probe.call("Actor.HealthRequest", pack({})) == pack({"healthy": True})
    with pytest.raises(GuestError) as error:
        await probe.call("Foo.Bar", b"")
    assert str(error.value) == "Guest call failed for method Foo.Bar: method not handled Foo.Bar - unknown method"


async def test_calls_leave_no_memory_behind(probe: Actor) -> None:
    large = pack(["x" * 1000] * 500)
    for _ in range(300):
        await probe.call("Probe.Copy", large)
    assert probe.pool is not None
    assert probe.pool.started == 1, "an instance that grew would have been replaced"
