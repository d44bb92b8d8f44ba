"""Control documents: the classic members in JSON and in msgpack, and the classic words in front of errors."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.control import (
    NO_LIMIT,
    Ack,
    ActorDescription,
    Encoding,
    HostPing,
    InstanceDescription,
    Inventory,
    LaunchActor,
    ProviderDescription,
    ScaleActor,
    StartProvider,
    StopActor,
    StopHost,
    StopProvider,
    UpdateActor,
    decode_body,
    encode_reply,
    encoding_of,
)
from lattice.errors import Code, MalformedMessage
from tests.support.strategies import json_junk, json_values, msgpack_junk, msgpack_values, text_maps, texts

filled = texts.filter(bool)
counts = st.integers(0, 65_535)
i32 = st.integers(-(2**31), 2**31 - 1)

instances = st.builds(
    InstanceDescription,
    instance_id=texts,
    revision=i32,
    image_ref=st.none() | texts,
    annotations=text_maps,
    max_concurrent=counts,
)
actors = st.builds(
    ActorDescription,
    id=filled,
    image_ref=st.none() | texts,
    name=st.none() | texts,
    instances=st.lists(instances, max_size=2).map(tuple),
)
providers = st.builds(
    ProviderDescription,
    id=filled,
    image_ref=st.none() | texts,
    contract_id=texts,
    link_name=filled,
    name=st.none() | texts,
    revision=i32,
    annotations=text_maps,
    instance_id=texts,
    state=texts,
    error=texts,
    links=st.dictionaries(texts, text_maps, max_size=2),
    restarts=counts,
)
DOCUMENTS: dict[Any, st.SearchStrategy[Any]] = {
    Ack: st.builds(Ack, st.booleans(), texts, st.none() | texts),
    LaunchActor: st.builds(
        LaunchActor, actor_ref=filled, host_id=texts, count=counts.filter(bool), annotations=text_maps
    ),
    StopActor: st.builds(StopActor, actor_ref=filled, host_id=texts, count=counts, annotations=text_maps),
    ScaleActor: st.builds(
        ScaleActor,
        actor_ref=filled,
        actor_id=texts,
        host_id=texts,
        count=st.none() | counts.filter(lambda count: count not in NO_LIMIT),
        annotations=text_maps,
    ),
    UpdateActor: st.builds(UpdateActor, actor_id=texts, new_actor_ref=filled, host_id=texts, annotations=text_maps),
    StartProvider: st.builds(
        StartProvider,
        provider_ref=filled,
        host_id=texts,
        link_name=filled,
        configuration=st.none() | texts,
        annotations=text_maps,
    ),
    StopProvider: st.builds(
        StopProvider, provider_ref=filled, link_name=filled, contract_id=texts, host_id=texts, annotations=text_maps
    ),
    StopHost: st.builds(StopHost, host_id=texts, timeout=st.none() | counts.map(lambda ms: ms / 1000)),
    HostPing: st.builds(
        HostPing,
        id=filled,
        issuer=texts,
        labels=text_maps,
        friendly_name=texts,
        uptime_seconds=counts,
        uptime_human=texts,
        version=texts,
        cluster_issuers=st.lists(st.text("ABC", min_size=1), max_size=3).map(tuple),
        js_domain=st.none() | texts,
        ctl_host=texts,
        rpc_host=texts,
        prov_rpc_host=texts,
        lattice=filled,
    ),
    Inventory: st.builds(
        Inventory,
        host_id=filled,
        issuer=texts,
        friendly_name=texts,
        labels=text_maps,
        actors=st.lists(actors, max_size=2).map(tuple),
        providers=st.lists(providers, max_size=2).map(tuple),
        version=texts,
        uptime_human=texts,
        uptime_seconds=counts,
        degraded=st.none() | texts,
    ),
}
NAMES = (
    "accepted",
    "error",
    "actor_ref",
    "provider_ref",
    "count",
    "annotations",
    "id",
    "host_id",
    "labels",
    "actors",
    "providers",
    "links",
    "instances",
    "timeout",
)


@pytest.mark.parametrize("encoding", Encoding)
@pytest.mark.parametrize("kind", DOCUMENTS, ids=lambda kind: str(kind.__name__))
@given(data=st.data())
def test_a_document_comes_back_in_both_encodings(kind: Any, encoding: Encoding, data: st.DataObject) -> None:
    document = data.draw(DOCUMENTS[kind])
    value, found = decode_body(encode_reply(document.to_dict(), encoding))
    assert found is encoding
    assert kind.from_dict(value) == document


@given(json_values(NAMES) | msgpack_values(NAMES))
def test_any_value_is_malformed_and_nothing_worse(value: Any) -> None:
    for kind in DOCUMENTS:
        with suppress(MalformedMessage):
            kind.from_dict(value)


@given(json_junk(*NAMES) | msgpack_junk(*NAMES), st.sampled_from([None, "application/json", "application/msgpack"]))
def test_any_body_is_malformed_and_nothing_worse(payload: bytes, content_type: str | None) -> None:
    headers = {"Content-Type": content_type} if content_type else None
    with suppress(MalformedMessage):
        value, encoding = decode_body(payload, headers)
        encode_reply(value, encoding)  # what could be read can be echoed


# ---- encodings


def test_the_answer_uses_the_encoding_of_the_request() -> None:
    assert decode_body(b'{"a":1}') == ({"a": 1}, Encoding.JSON)
    assert decode_body(b' \n {"a":1}') == ({"a": 1}, Encoding.JSON)
    assert decode_body(b"\xef\xbb\xbf{}") == ({}, Encoding.JSON)
    assert decode_body(b"\x81\xa1a\x01") == ({"a": 1}, Encoding.MSGPACK)
    assert decode_body(b"\xde\x00\x01\xa1a\x01") == ({"a": 1}, Encoding.MSGPACK)
    assert encode_reply(Ack().to_dict(), Encoding.JSON) == b'{"accepted":true,"error":""}'
    assert msgpack.unpackb(encode_reply(Ack().to_dict(), Encoding.MSGPACK)) == {"accepted": True, "error": ""}


def test_an_empty_request_gets_json_unless_its_header_asks_otherwise() -> None:
    assert decode_body(b"") == (None, Encoding.JSON)
    assert decode_body(b"", {"Content-Type": "application/msgpack"}) == (None, Encoding.MSGPACK)
    assert encoding_of(b"", {"content-type": "Application/MsgPack; v=1"}) is Encoding.MSGPACK
    assert encoding_of(b"", {"traceparent": "x"}) is Encoding.JSON


def test_a_header_that_contradicts_the_body_makes_it_malformed() -> None:
    for payload, kind in ((b"{}", "application/msgpack"), (b"\x80", "application/json")):
        with pytest.raises(MalformedMessage):
            decode_body(payload, {"Content-Type": kind})


@pytest.mark.parametrize(
    "payload", [b"{", b"\xff", b"NaN", b'{"a":1e999}', b'{"a":"\\ud800"}', b"[" * 100_000, b"\x81", b"text"]
)
def test_a_body_that_is_none_is_refused(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_body(payload)


# ---- classic forms


def test_an_acknowledgement_always_has_both_members_and_a_code_only_when_refused() -> None:
    assert Ack().to_dict() == {"accepted": True, "error": ""}
    assert Ack(False, 'say "why"', Code.NOT_FOUND).to_dict() == {
        "accepted": False,
        "error": 'say "why"',
        "code": "not_found",
    }
    assert json.loads(encode_reply(Ack(False, 'say "why"').to_dict(), Encoding.JSON))["error"] == 'say "why"'


def test_absent_and_null_annotations_are_none() -> None:
    assert LaunchActor.from_dict({"actor_ref": "r"}).annotations == {}
    assert LaunchActor.from_dict({"actor_ref": "r", "annotations": None}).annotations == {}


def test_counts_that_clients_leave_out_have_their_classic_meaning() -> None:
    assert LaunchActor.from_dict({"actor_ref": "r"}).count == 1
    assert LaunchActor.from_dict({"actor_ref": "r", "count": 0}).count == 1
    assert StopActor.from_dict({"actor_ref": "M1"}).count == 0
    assert UpdateActor.from_dict({"actor_ref": "M1", "new_actor_ref": "r"}).actor_id == "M1"  # a Go client says so
    assert ScaleActor.from_dict({"actor_ref": "r", "count": None}).count is None
    assert ScaleActor.from_dict({"actor_ref": "r", "count": 0}).count == 0
    for largest in (2**16 - 1, 2**32 - 1):  # what later clients send when nobody named a number
        assert ScaleActor.from_dict({"actor_ref": "r", "count": largest}).count is None
    with pytest.raises(MalformedMessage, match="at most 65535"):
        LaunchActor.from_dict({"actor_ref": "r", "count": 65_536})


def test_a_running_actor_may_be_scaled_without_its_reference() -> None:
    assert ScaleActor.from_dict({"actor_id": "M1", "actor_ref": "", "count": 1}).actor_ref == ""
    assert ScaleActor.from_dict({"actor_id": "M1", "count": 1}).actor_ref == ""


def test_an_update_may_call_the_key_by_its_name_in_the_go_client() -> None:
    assert UpdateActor.from_dict({"actor_ref": "M1", "new_actor_ref": "r"}).actor_id == "M1"


def test_a_start_without_link_name_means_the_default_one() -> None:
    assert StartProvider.from_dict({"provider_ref": "r"}).link_name == "default"
    assert StartProvider.from_dict({"provider_ref": "r", "configuration": None}).configuration is None


def test_the_timeout_of_a_stop_travels_in_milliseconds() -> None:
    assert StopHost.from_dict({"host_id": "N1", "timeout": 2000}).timeout == 2.0
    assert StopHost(host_id="N1", timeout=1.5).to_dict() == {"host_id": "N1", "timeout": 1500}
    assert StopHost.from_dict({"host_id": "N1"}).timeout is None


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (LaunchActor, {}, "Invalid launch actor JSON request: actor_ref is missing"),
        (LaunchActor, [], "Invalid launch actor JSON request is an array, not an object"),
        (LaunchActor, {"actor_ref": "r", "count": "2"}, "Invalid launch actor JSON request: count is text"),
        (StopActor, {"count": 1}, "Invalid request to stop actor: actor_ref is missing"),
        (ScaleActor, {"count": 1}, "Invalid scale actor JSON request: actor_ref is missing"),
        (ScaleActor, {"actor_ref": "r"}, "Invalid scale actor JSON request: count is missing"),
        (ScaleActor, {"actor_ref": "r", "count": 70_000}, "Invalid scale actor JSON request: count is 70000"),
        (UpdateActor, {"actor_id": "M1"}, "Invalid JSON request to update actor: new_actor_ref is missing"),
        (StopHost, {"timeout": -1}, "Unable to parse stop host command: timeout is negative"),
        (StartProvider, {}, "Improperly formed start provider command JSON: provider_ref is missing"),
        (StopProvider, {}, "Invalid JSON request for stop provider: provider_ref is missing"),
        (LaunchActor, {"actor_ref": "r", "annotations": {"a": 1}}, "annotations.a is an integer, not text"),
        (LaunchActor, {"actor_ref": b"\xff"}, "actor_ref is bytes, not text"),
    ],
)
def test_a_bad_command_is_refused_in_classic_words(kind: Any, value: object, message: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        kind.from_dict(value)
    assert message in str(caught.value)


def test_a_ping_has_both_names_of_the_lattice_and_its_issuers_in_one_text() -> None:
    document = HostPing(id="N1", cluster_issuers=("C1", "C2"), lattice="blue").to_dict()
    assert document["lattice"] == document["lattice_prefix"] == "blue"
    assert document["cluster_issuers"] == "C1,C2"
    assert set(document) >= {"id", "issuer", "labels", "friendly_name", "uptime_seconds", "uptime_human", "version"}
    assert set(document) >= {"js_domain", "ctl_host", "rpc_host", "prov_rpc_host"}
    assert HostPing.from_dict({"id": "N1", "lattice_prefix": "old"}).lattice == "old"


def test_an_inventory_has_the_members_that_classic_clients_demand() -> None:
    document = Inventory(
        host_id="N1",
        actors=[
            ActorDescription(id="M1", image_ref="r", instances=[InstanceDescription(instance_id="i", revision=2**40)])
        ],
        providers=[ProviderDescription(id="V1", links={"M1": {"state": "failed", "reason": "in use"}}, state="failed")],
    ).to_dict()
    assert {"actors", "providers", "labels"} <= set(document)
    (instance,) = document["actors"][0]["instances"]
    assert instance["revision"] == 2**31 - 1
    assert instance["max_concurrent"] == instance["max_instances"] == 1
    assert instance["annotations"] == {}
    assert document["providers"][0]["links"] == {"M1": {"state": "failed", "reason": "in use"}}
    assert "degraded" not in document


def test_annotations_are_bounded_since_every_event_repeats_them() -> None:
    with pytest.raises(MalformedMessage, match="Invalid launch actor JSON request: annotations hold 20001 characters"):
        LaunchActor.from_dict({"actor_ref": "r", "annotations": {"x" * 20_000: "y"}})
