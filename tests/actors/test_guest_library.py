"""The Rust guest library, through an actor that uses all of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.build import build
from lattice.contracts.httpserver import HANDLE_REQUEST, HttpRequest, HttpResponse
from lattice.errors import GuestError, GuestFailed
from tests.actors.conftest import Actor, Start

PROBE = Path(__file__).with_name("probe.rs")
STORE = "wasmcloud:keyvalue"


@pytest.fixture(scope="session")
def probe_module(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    module = tmp_path_factory.mktemp("probe") / "probe.wasm"
    build(PROBE, module)
    return module.read_bytes()


@pytest.fixture
async def probe(start: Start, probe_module: bytes) -> Actor:
    return await start(probe_module)


def pack(value: Any) -> bytes:
    return bytes(msgpack.packb(value))


async def unpacked(actor: Actor, operation: str, argument: bytes = b"", *replies: bytes | str) -> Any:
    return msgpack.unpackb(await actor.call(operation, argument, *replies))


I64 = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from(
        [
            edge + step
            for exponent in (5, 7, 8, 15, 16, 31, 32)
            for edge in (2**exponent, -(2**exponent))
            for step in (-1, 0, 1)
        ]
    ),
)


async def test_numbers_and_texts_are_written_in_the_shortest_form(probe: Actor) -> None:
    """Same bytes as the msgpack package, whose integers, texts and lists are the shortest."""
    cases: list[tuple[str, Any]] = []

    @settings(max_examples=60, database=None)
    @given(st.lists(I64, max_size=40), st.lists(st.text(), max_size=20), st.integers(0, 2**64 - 1))
    def collect(numbers: list[int], texts: list[str], unsigned: int) -> None:
        cases.extend([("Numbers", numbers), ("Texts", texts), ("Unsigned", [unsigned])])

    collect()
    cases += [("Texts", ["x" * length]) for length in (31, 32, 255, 256, 65_535, 65_536)]
    cases += [("Numbers", [0] * length) for length in (15, 16, 65_535, 65_536)]
    for operation, value in cases:
        assert await probe.call(f"Probe.{operation}", pack(value)) == pack(value)


@pytest.mark.parametrize(
    "wide", ["cc07", "cd0007", "ce00000007", "cf0000000000000007", "d007", "d10007", "d200000007", "d30000000000000007"]
)
async def test_integers_of_any_width_are_read(probe: Actor, wide: str) -> None:
    assert await probe.call("Probe.Numbers", b"\x91" + bytes.fromhex(wide)) == b"\x91\x07"
    assert await probe.call("Probe.Unsigned", b"\x91" + bytes.fromhex(wide)) == b"\x91\x07"


@pytest.mark.parametrize(
    ("operation", "argument"),
    [
        ("Numbers", pack([2**63])),
        ("Unsigned", pack([-1])),
        ("Numbers", pack([1.5])),
        ("Numbers", pack(7)),
        ("Numbers", b"\xdd\xff\xff\xff\xff\x01"),
        ("Texts", pack([1])),
        ("Text", b"\xdb\xff\xff\xff\xff"),
        ("Boolean", pack(1)),
        ("Text", b""),
    ],
)
async def test_a_wrong_argument_is_an_error_and_no_trap(probe: Actor, operation: str, argument: bytes) -> None:
    with pytest.raises(GuestError, match=f"^Guest call failed for method Probe.{operation}: "):
        await probe.call(f"Probe.{operation}", argument)


async def test_garbage_never_traps(probe: Actor) -> None:
    garbage: list[bytes] = []

    @settings(max_examples=200, database=None, suppress_health_check=[HealthCheck.too_slow])
    @given(
        st.one_of(
            st.binary(max_size=60),
            st.dictionaries(
                st.sampled_from(["method", "path", "queryString", "header", "body", "x"]),
                st.one_of(
                    st.none(),
                    st.integers(-(2**63), 2**64 - 1),
                    st.binary(),
                    st.text(),
                    st.floats(),
                    st.lists(st.integers(0, 300)),
                    st.dictionaries(st.text(), st.lists(st.text())),
                ),
            ).map(pack),
        )
    )
    def collect(data: bytes) -> None:
        garbage.append(data)

    collect()
    for data in garbage:
        try:
            await probe.call(HANDLE_REQUEST, data)
        except GuestError as error:
            assert "deserialization" in str(error)


async def test_no_argument_and_no_result_are_zero_bytes(probe: Actor) -> None:
    for argument in (b"", b"\xc0", b"\x80"):
        assert await probe.call("Probe.Nothing", argument) == b""
    assert await unpacked(probe, "Probe.Boolean", pack(False)) is True
    assert await unpacked(probe, "Probe.Text", pack("h\u00e9")) == "h\u00e9"


async def test_an_error_of_the_actor_reaches_the_caller(probe: Actor) -> None:
    with pytest.raises(GuestError, match=r"^Guest call failed for method Probe\.Fails: because$"):
        await probe.call("Probe.Fails", pack("because"))


async def test_a_panic_is_a_trap_and_the_next_call_works(probe: Actor) -> None:
    with pytest.raises(GuestFailed, match="unreachable"):
        await probe.call("Probe.Panics", pack(3))
    assert await unpacked(probe, "Probe.Panics", pack(2)) == 3


async def test_every_key_value_operation_has_its_documented_form(probe: Actor) -> None:
    script: list[tuple[str, Any, Any, str | None]] = [
        ("Set", {"key": "k", "value": "v", "expires": 60}, None, None),
        ("Set", {"key": "d", "value": "v", "expires": 0}, None, None),
        ("Get", "k", {"value": "v", "exists": True}, 'Some("v")'),
        ("Get", "absent", {"value": "", "exists": False}, "None"),
        ("Contains", "k", True, "true"),
        ("Del", "k", False, "false"),
        ("Increment", {"key": "n", "value": -200}, -200, "-200"),
        ("ListAdd", {"listName": "l", "value": "x"}, 70_000, "70000"),
        ("ListDel", {"listName": "l", "value": "x"}, True, "true"),
        ("ListRange", {"listName": "l", "start": 0, "stop": -1}, ["x", "y"], '["x", "y"]'),
        ("ListClear", "l", True, "true"),
        ("SetAdd", {"setName": "s", "value": "x"}, 1, "1"),
        ("SetDel", {"setName": "s", "value": "x"}, 0, "0"),
        ("SetQuery", "s", [], "[]"),
        ("SetIntersection", ["s", "t"], ["x"], '["x"]'),
        ("SetUnion", ["s", "t"], ["x"], '["x"]'),
        ("SetClear", "s", True, "true"),
    ]
    replies = [b"" if reply is None else pack(reply) for _, _, reply, _ in script]
    lines = await unpacked(probe, "Probe.KeyValue", b"", *replies)
    assert lines == [line for *_, line in script if line is not None]
    assert [(call.namespace, call.operation) for call in probe.asked] == [
        (STORE, f"KeyValue.{step[0]}") for step in script
    ]
    assert [call.payload for call in probe.asked] == [pack(argument) for _, argument, *_ in script]
    bindings = ["default" if n in (1, 3) else "second" for n in range(len(script))]
    assert [call.binding for call in probe.asked] == bindings


async def test_log_lines_go_to_the_host_with_their_level(probe: Actor) -> None:
    await probe.call("Probe.Log", pack("hi"), b"", b"", b"", b"")
    assert [(call.binding, call.namespace, call.operation) for call in probe.asked] == [
        ("default", "wasmcloud:builtin:logging", "Logging.WriteLog")
    ] * 4
    levels = ("debug", "info", "warn", "error")
    assert [call.payload for call in probe.asked] == [pack({"level": level, "text": "hi"}) for level in levels]


async def test_random_numbers_come_from_the_host(probe: Actor) -> None:
    replies = [pack(2**32 - 1), pack(6), pack("8a0f6e2e-1d7c-4c53-9d3e-0b1f6f3a7d11")]
    result = await unpacked(probe, "Probe.Random", b"", *replies)
    assert result == ["8a0f6e2e-1d7c-4c53-9d3e-0b1f6f3a7d11", "4294967295", "6"]
    assert [(call.operation, call.payload) for call in probe.asked] == [
        ("NumberGen.Random32", b""),
        ("NumberGen.RandomInRange", pack({"min": 1, "max": 6})),
        ("NumberGen.GenerateGuid", b""),
    ]


async def test_another_actor_is_called_with_an_empty_binding(probe: Actor) -> None:
    assert await unpacked(probe, "Probe.Actor", pack("wasmhost/pong"), pack("pong")) == "pong"
    (call,) = probe.asked
    assert (call.binding, call.namespace, call.operation, call.payload) == ("", "wasmhost/pong", "Pingpong.Ping", b"")
    with pytest.raises(GuestError, match=r"Pingpong\.Ping \(actor wasmhost/pong\): nobody is there$"):
        await probe.call("Probe.Actor", pack("wasmhost/pong"), "nobody is there")


async def test_headers_are_read_on_demand_and_written_as_lists(probe: Actor) -> None:
    request = HttpRequest(header={"accept": ["text/html", "*/*"], "host": ["localhost:8080"]})
    response = HttpResponse.decode(await probe.call(HANDLE_REQUEST, request.encode()))
    assert (response.status_code, response.body) == (201, b"localhost:8080 text/html|*/*")
    assert {name: list(values) for name, values in response.header.items()} == {
        "content-type": ["text/plain; charset=utf-8"],
        "x-probe": ["1"],
        "x-probe-2": ["\u00e9"],
    }
