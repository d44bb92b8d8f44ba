"""Invocations and responses: the bytes that classic peers send, and the bytes that they accept."""

from __future__ import annotations

import json
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import antiforgery, jwt, keys
from lattice.errors import MalformedMessage
from lattice.invocation import Entity, Invocation, InvocationResponse
from tests.support.strategies import ACTOR, CLUSTER, HOST, PROVIDER, entities, msgpack_junk, text_maps, texts

VECTORS: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "vectors" / "claims.json").read_text())[
    "invocations"
]
TOKEN = (
    "eyJ0eXAiOiJqd3QiLCJhbGciOiJFZDI1NTE5In0.eyJqdGkiOiJBQUFBQUFBQUFBQUFBQUFBQUFBQUFBIiwiaWF0IjoxNzAwMDAwMDAwLCJpc3MiO"
    "iJDQ0ZJUlk2NU9RRTdERlA1S0xOUzJQRjJMVlpNVVpZSlg0T1pJRVEzNk4ySVFBTlVCNVhWWktNSSIsInN1YiI6IjAwMDAwMDAwLTAwMDAtNDAwMC0"
    "4MDAwLTAwMDAwMDAwMDAwMSIsIndhc2NhcCI6eyJ0YXJnZXRfdXJsIjoid2FzbWJ1czovL3dhc21jbG91ZC9rZXl2YWx1ZS9kZWZhdWx0L1ZERkpIT"
    "EFYQVVNSEE0T1dQT0I0UDdZTzcyQVFSMkhNSVVZRk9YTFhFMkRaR002MzNLN0hZSUYzL0tleVZhbHVlLkdldCIsIm9yaWdpbl91cmwiOiJ3YXNtYnV"
    "zOi8vTURXVVNLR0dGREk0RlJYSzVFQlRSRUNaU1ZRU1NXSkhISk9HSDZKV0czQVVNRkZNUTQzNUMySloiLCJoYXNoIjoiRUNGOTM5MTlFQjA2RkNDO"
    "TQyMjE1RjE5NUYwRTI2MEY2OUU0Q0NENTVBMUM5QTY4MTEyM0RDMjNBQzVBNzU0NiJ9LCJ3YXNjYXBfcmV2aXNpb24iOjN9.hHTcHu3FW8fl3lNAT1"
    "t8UC__rBsMjky0TOIbm5GhY7CkYSbsQh0Kwgjb10mVyY0mAxG_A2dtoxyzbgbZ7cpiDw"
)


def packed(value: object) -> bytes:
    data: bytes = msgpack.packb(value)
    return data


# ---- vectors


def test_the_protocol_vector_is_built_byte_for_byte() -> None:
    origin = Entity.actor(ACTOR.public)
    target = Entity.provider(PROVIDER.public, "wasmcloud:keyvalue", "default")
    target_url = f"{target.url}/KeyValue.Get"
    msg = bytes.fromhex("a26b31")
    digest = antiforgery.invocation_hash(origin.url, target_url, "KeyValue.Get", msg)
    assert digest == "ECF93919EB06FCC942215F195F0E260F69E4CCD55A1C9A681123DC23AC5A7546"
    body = {
        "jti": "A" * 22,
        "iat": 1_700_000_000,
        "iss": CLUSTER.public,
        "sub": "00000000-0000-4000-8000-000000000001",
        "wascap": {"target_url": target_url, "origin_url": origin.url, "hash": digest},
        "wascap_revision": 3,
    }
    token = jwt.encode(json.dumps(body, separators=(",", ":")).encode(), CLUSTER)
    assert token == TOKEN
    encoded = Invocation(
        origin=origin,
        target=target,
        operation="KeyValue.Get",
        msg=msg,
        id="00000000-0000-4000-8000-000000000001",
        encoded_claims=token,
        host_id=HOST.public,
        content_length=3,
    ).encode()
    assert len(encoded) == 1152
    assert sha256(encoded).hexdigest() == "08aa08f37f8ba3cfd215c0f67d9e7eefdeb72f7f64e47eb7261683066e4abf31"


def test_the_shape_examples_are_built_byte_for_byte() -> None:
    call = Invocation(
        origin=Entity.actor("M1"),
        target=Entity.provider("V1", "a:b", "default"),
        operation="Op.X",
        msg=b"\xc0",
        id="i1",
        encoded_claims="J",
        host_id="N1",
        content_length=1,
    )
    assert call.encode().hex() == (
        "88a66f726967696e83aa7075626c69635f6b6579a24d31a96c696e6b5f6e616d65a0ab636f6e74726163745f6964a0a674617267657483aa"
        "7075626c69635f6b6579a25631a96c696e6b5f6e616d65a764656661756c74ab636f6e74726163745f6964a3613a62a96f7065726174696f"
        "6ea44f702e58a36d7367c401c0a26964a26931ae656e636f6465645f636c61696d73a14aa7686f73745f6964a24e31ae636f6e74656e745f"
        "6c656e67746801"
    )
    answer = InvocationResponse(msg=b"\xa2v1", invocation_id="i1", content_length=3)
    assert answer.encode().hex() == (
        "83a36d7367c403a27631ad696e766f636174696f6e5f6964a26931ae636f6e74656e745f6c656e67746803"
    )
    failure = InvocationResponse(invocation_id="i1", error="boom", content_length=0)
    assert failure.encode().hex() == (
        "84a36d7367c400ad696e766f636174696f6e5f6964a26931a56572726f72a4626f6f6dae636f6e74656e745f6c656e67746800"
    )


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: str(vector["name"]))
def test_published_invocations_have_these_urls_hashes_and_claims(vector: dict[str, Any]) -> None:
    origin, target = Entity(**vector["origin"]), Entity(**vector["target"])
    msg = bytes.fromhex(vector["msg_hex"])
    target_url = f"{target.url}/{vector['operation']}"
    assert (origin.url, target_url) == (vector["origin_url"], vector["target_url"])
    assert antiforgery.invocation_hash(origin.url, target_url, vector["operation"], msg) == vector["hash"]
    claims = antiforgery.parse(vector["encoded_claims"])
    expected = vector["claims"]
    assert (claims.issuer, claims.subject) == (expected["iss"], expected["sub"])
    assert (claims.issued_at, claims.expires) == (expected["iat"], expected.get("exp"))
    assert claims.not_before is None
    assert claims.hash == vector["hash"]
    assert keys.verify(claims.issuer, claims.signing_input, claims.signature)


# ---- entities


def test_the_pseudo_origin_of_the_classic_command_line_has_its_odd_url() -> None:
    assert Entity("__WASH__").url == "wasmbus:////__WASH__"


def test_an_entity_is_an_actor_by_the_first_letter_of_its_key_alone() -> None:
    assert Entity("M1", "link", "a:b").url == "wasmbus://M1"
    assert Entity("m1", "link", "a:b").url == "wasmbus://m1"
    assert Entity("V1", "My Link", "Acme Corp:Thing").url == "wasmbus://acme_corp/thing/my_link/V1"
    assert Entity("V1").is_provider
    assert not Entity("").is_actor


# ---- round trips

invocations = st.builds(
    Invocation,
    origin=entities,
    target=entities,
    operation=texts,
    msg=st.binary(max_size=300),
    id=texts,
    encoded_claims=texts,
    host_id=texts,
    content_length=st.integers(0, 2**64 - 1),
    trace_context=text_maps,
)
responses = st.builds(
    InvocationResponse, msg=st.binary(max_size=300), invocation_id=texts, content_length=st.integers(0, 2**64 - 1)
) | st.builds(
    InvocationResponse,
    msg=st.binary(max_size=20),
    invocation_id=texts,
    error=texts,
    content_length=st.integers(0, 2**64 - 1),
    code=st.none() | texts.filter(bool),
    retry_after=st.none() | st.integers(0, 10**6).map(lambda ms: ms / 1000),
)


@given(invocations)
def test_an_invocation_comes_back(call: Invocation) -> None:
    assert Invocation.decode(call.encode()) == call


@given(invocations)
def test_an_invocation_is_what_the_packer_would_make_of_a_named_map(call: Invocation) -> None:
    def entity(value: Entity) -> dict[str, str]:
        return {"public_key": value.public_key, "link_name": value.link_name, "contract_id": value.contract_id}

    document: dict[str, Any] = {
        "origin": entity(call.origin),
        "target": entity(call.target),
        "operation": call.operation,
        "msg": call.msg,
        "id": call.id,
        "encoded_claims": call.encoded_claims,
        "host_id": call.host_id,
        "content_length": call.content_length,
    }
    if call.trace_context:
        document["traceContext"] = dict(call.trace_context)
    assert call.encode() == packed(document)


@given(responses)
def test_a_response_comes_back(answer: InvocationResponse) -> None:
    assert InvocationResponse.decode(answer.encode()) == answer


def test_the_length_is_sent_even_when_it_was_not_given() -> None:
    """Rust hosts fail on a message without it, error replies included."""
    assert InvocationResponse.decode(InvocationResponse(msg=b"abc").encode()).content_length == 3
    assert InvocationResponse.decode(InvocationResponse(error="x").encode()).content_length == 0
    call = Invocation(origin=Entity("M1"), target=Entity("M2"), operation="x", msg=b"abc")
    assert Invocation.decode(call.encode()).content_length == 3


def test_a_code_and_a_retry_hint_travel_with_errors_only() -> None:
    answer = InvocationResponse(invocation_id="i", error="busy", code="overloaded", retry_after=0.25)
    assert msgpack.unpackb(answer.encode())["retry_after"] == 250
    assert InvocationResponse.decode(answer.encode()).retry_after == 0.25
    assert "code" not in msgpack.unpackb(InvocationResponse(msg=b"x", code="overloaded").encode())


# ---- what other implementations send


def call_of(**changes: Any) -> dict[str, Any]:
    entity = {"public_key": "M1", "link_name": "", "contract_id": ""}
    return {"origin": entity, "target": entity, "operation": "Op", "msg": b"m", "id": "i"} | changes


def test_members_that_only_some_senders_know_may_be_absent_or_unknown() -> None:
    call = Invocation.decode(packed(call_of(instance_id="x", traceContext={})))
    assert (call.encoded_claims, call.host_id, call.content_length, dict(call.trace_context)) == ("", "", None, {})


def test_an_elixir_host_sends_its_message_as_a_string_of_any_bytes() -> None:
    data = packed(call_of()).replace(b"\xc4\x01m", b"\xa2\xff\xfe")
    assert Invocation.decode(data).msg == b"\xff\xfe"
    assert InvocationResponse.decode(b"\x81\xa3msg\xa2\xff\xfe").msg == b"\xff\xfe"


def test_an_elixir_host_sends_an_empty_array_with_an_error() -> None:
    answer = InvocationResponse.decode(
        packed({"msg": [], "error": "Invocation received for actor M1 that is not running"})
    )
    assert (answer.msg, answer.content_length, answer.invocation_id) == (b"", None, "")
    assert answer.error == "Invocation received for actor M1 that is not running"


def test_positional_arrays_are_accepted_and_never_sent() -> None:
    call = Invocation.decode(packed([["M1"], ["V1", "default", "a:b"], "Op", b"m", "i", "J", "N1", 1]))
    assert call.origin == Entity("M1")
    assert call.target == Entity("V1", "default", "a:b")
    assert (call.operation, call.msg, call.host_id, call.content_length) == ("Op", b"m", "N1", 1)
    assert InvocationResponse.decode(packed([b"m", "i", None, 1])).msg == b"m"


def test_a_nil_error_means_success() -> None:
    assert InvocationResponse.decode(packed({"msg": b"m", "error": None, "code": "x"})).error is None
    assert InvocationResponse.decode(packed({"msg": b"m", "error": ""})).error == ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"msg": 1.5}, "invocation: msg is a float, not bytes"),
        ({"origin": None}, "invocation: origin is missing"),
        ({"target": "M1"}, "invocation: target is text or bytes, not a map"),
        ({"target": {"public_key": 1}}, "invocation: target: public_key is an integer, not text"),
        ({"origin": {"public_key": b"\xff"}}, "invocation: origin: public_key is not UTF-8 text"),
        ({"operation": 5}, "invocation: operation is an integer, not text"),
        ({"id": b"\xff"}, "invocation: id is not UTF-8 text"),
        ({"content_length": -1}, "invocation: content_length is -1, which is not between 0 and 18446744073709551615"),
        ({"traceContext": {"a": 1}}, "invocation: traceContext.a is an integer, not text"),
    ],
)
def test_a_wrong_member_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        Invocation.decode(packed(call_of(**changes)))
    assert str(caught.value) == message


def test_large_entities_are_not_kept() -> None:
    big = Entity("V" + "x" * 100_000, "default", "a:b")
    call = Invocation(origin=big, target=big, operation="x")
    assert Invocation.decode(call.encode()).origin == big
    small = Invocation(origin=Entity("M1"), target=Entity("M1"), operation="x").encode()
    assert Invocation.decode(small).origin is Invocation.decode(small).target


NAMES = ("origin", "target", "operation", "msg", "id", "content_length", "traceContext", "public_key", "link_name")


@given(msgpack_junk(*NAMES))
def test_a_garbage_invocation_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        Invocation.decode(data)


@given(msgpack_junk("msg", "invocation_id", "error", "content_length", "code", "retry_after"))
def test_a_garbage_response_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        InvocationResponse.decode(data)


@given(st.text(max_size=50) | st.just(TOKEN).flatmap(lambda text: st.integers(0, len(text)).map(lambda n: text[:n])))
def test_a_garbage_token_is_malformed_and_nothing_worse(text: str) -> None:
    with suppress(MalformedMessage):
        antiforgery.parse(text)
