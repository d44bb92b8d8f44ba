"""Contract arguments: the recorded bytes of public actors, and tolerance for what peers leave out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import wire
from lattice.contracts import keyvalue, logging, numbergen
from lattice.contracts.httpserver import HttpRequest, HttpResponse
from lattice.contracts.keyvalue import GetResponse, IncrementRequest, ListItem, ListRangeRequest, SetItem, SetRequest
from lattice.contracts.logging import LogEntry
from lattice.contracts.numbergen import RangeLimit
from lattice.errors import MalformedMessage
from tests.support.strategies import header_maps, msgpack_junk, texts

i32 = st.integers(-(2**31), 2**31 - 1)
u32 = st.integers(0, 2**32 - 1)
ARGUMENTS: dict[Any, st.SearchStrategy[Any]] = {
    HttpRequest: st.builds(
        HttpRequest, method=texts, path=texts, query_string=texts, header=header_maps, body=st.binary(max_size=100)
    ),
    HttpResponse: st.builds(
        HttpResponse, status_code=st.integers(0, 65_535), header=header_maps, body=st.binary(max_size=100)
    ),
    GetResponse: st.builds(GetResponse, value=texts, exists=st.booleans()),
    SetRequest: st.builds(SetRequest, key=texts, value=texts, expires=u32),
    IncrementRequest: st.builds(IncrementRequest, key=texts, value=i32),
    ListItem: st.builds(ListItem, list_name=texts, value=texts),
    ListRangeRequest: st.builds(ListRangeRequest, list_name=texts, start=i32, stop=i32),
    SetItem: st.builds(SetItem, set_name=texts, value=texts),
    LogEntry: st.builds(LogEntry, level=texts, text=texts),
    RangeLimit: st.builds(RangeLimit, min=u32, max=u32),
}
NAMES = ("method", "path", "queryString", "header", "body", "statusCode", "key", "value", "expires", "listName", "min")


def packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


@pytest.mark.parametrize("kind", ARGUMENTS, ids=lambda kind: str(kind.__name__))
@given(data=st.data())
def test_an_argument_comes_back(kind: Any, data: st.DataObject) -> None:
    argument = data.draw(ARGUMENTS[kind])
    assert kind.decode(argument.encode()) == argument
    assert kind.decode(b"\xc1" + argument.encode()) == argument


@given(msgpack_junk(*NAMES))
def test_garbage_is_malformed_and_nothing_worse(payload: bytes) -> None:
    for kind in ARGUMENTS:
        with suppress(MalformedMessage):
            kind.decode(payload)


def test_recorded_bytes_are_built_alike() -> None:
    request = HttpRequest(method="POST", path="/p", body=b"hello world")
    assert request.encode() == bytes.fromhex(
        "85a66d6574686f64a4504f5354a470617468a22f70ab7175657279537472696e67a0a668656164657280a4626f6479c40b"
    ) + (b"hello world")
    assert IncrementRequest(key="counter::counter1:x", value=1).encode() == bytes.fromhex(
        "82a36b6579b3636f756e7465723a3a636f756e746572313a78a576616c756501"
    )
    assert LogEntry(level="info", text="an info!").encode() == bytes.fromhex(
        "82a56c6576656ca4696e666fa474657874a8616e20696e666f21"
    )
    assert LogEntry(level="info", text="hi").encode().hex() == "82a56c6576656ca4696e666fa474657874a26869"
    assert RangeLimit(min=1, max=6).encode().hex() == "82a36d696e01a36d617806"
    assert RangeLimit(min=0, max=100).encode().hex() == "82a36d696e00a36d617864"
    assert wire.pack("k1").hex() == "a26b31"  # the argument of KeyValue.Get


def test_members_may_be_absent_nil_or_of_the_sister_type() -> None:
    assert HttpRequest.decode(packed({"method": "GET", "path": None})).path == ""
    assert HttpResponse.decode(packed({})) == HttpResponse(status_code=0)
    assert HttpResponse.decode(packed({"statusCode": 200, "body": "text"})).body == b"text"
    assert HttpResponse.decode(packed({"statusCode": 200, "body": [104, 105]})).body == b"hi"
    assert SetRequest.decode(packed({"key": b"k", "value": "v", "unknown": 1})) == SetRequest(key="k", value="v")
    assert GetResponse.decode(packed({"exists": True})) == GetResponse(exists=True)


def test_maps_are_sent_even_when_empty() -> None:
    """Rust actors fail on an absent map."""
    assert msgpack.unpackb(HttpRequest().encode())["header"] == {}
    assert msgpack.unpackb(HttpResponse().encode())["header"] == {}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (IncrementRequest, {"key": "k", "value": 2**31}, "IncrementRequest: value is 2147483648, which is not between"),
        (SetRequest, {"key": "k", "expires": -1}, "SetRequest: expires is -1"),
        (HttpResponse, {"statusCode": 70_000}, "HttpResponse: statusCode is 70000"),
        (HttpResponse, {"statusCode": "200"}, "HttpResponse: statusCode is text or bytes, not an integer"),
        (HttpResponse, {"header": {"a": "b"}}, "HttpResponse: header.a is text or bytes, not a list of texts"),
        (HttpRequest, [], "HttpRequest is an array, not a map"),
        (RangeLimit, {"min": -1}, "RangeLimit: min is -1"),
    ],
)
def test_a_wrong_member_is_named(kind: Any, value: object, message: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        kind.decode(packed(value))
    assert message in str(caught.value)


def test_operations_have_the_name_of_their_service() -> None:
    assert len(keyvalue.OPERATIONS) == 15
    assert all(operation.startswith("KeyValue.") for operation in keyvalue.OPERATIONS)
    assert logging.WRITE_LOG == "Logging.WriteLog"
    assert numbergen.RANDOM_IN_RANGE == "NumberGen.RandomInRange"
