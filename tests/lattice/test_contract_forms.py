"""Contracts that travel as msgpack and in two dialects of CBOR."""

from __future__ import annotations

import inspect
from contextlib import suppress
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import cbor
from lattice.contracts import blobstore, keyvalue, mlinference, testing
from lattice.contracts.blobstore import Chunk, ContainerObject, GetObjectRequest, ListObjectsResponse, ObjectMetadata
from lattice.contracts.forms import Form
from lattice.contracts.httpserver import HttpRequest
from lattice.contracts.structures import Structure, Timestamp, read_as, shape_of, write_as
from lattice.errors import MalformedMessage
from tests.support.strategies import bent, msgpack_junk, msgpack_values, texts

octets = st.binary(max_size=50)
u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
maybe_text = st.none() | texts
moments = st.builds(Timestamp, sec=st.integers(-(2**63), 2**63 - 1), nsec=u32)
chunks = st.builds(Chunk, object_id=texts, container_id=texts, bytes_=octets, offset=u64, is_last=st.booleans())
objects = st.builds(
    ObjectMetadata,
    object_id=texts,
    content_length=u64,
    last_modified=st.none() | moments,
    content_type=maybe_text,
    content_encoding=maybe_text,
)
ml_errors = st.builds(mlinference.MlError, st.sampled_from(list(mlinference.MlError.variants)), texts)
tensors = st.builds(
    mlinference.Tensor,
    dimensions=st.lists(u32, max_size=3).map(tuple),
    value_types=st.lists(
        st.builds(mlinference.ValueType, st.sampled_from(list(mlinference.ValueType.variants))), max_size=2
    ).map(tuple),
    flags=st.integers(0, 255),
    data=octets,
)
VALUES: dict[Any, st.SearchStrategy[Any]] = {
    ContainerObject: st.builds(ContainerObject, container_id=texts, object_id=texts),
    blobstore.ContainerMetadata: st.builds(
        blobstore.ContainerMetadata, container_id=texts, created_at=st.none() | moments
    ),
    ListObjectsResponse: st.builds(
        ListObjectsResponse,
        objects=st.lists(objects, max_size=3).map(tuple),
        is_last=st.booleans(),
        continuation=maybe_text,
    ),
    blobstore.ListObjectsRequest: st.builds(
        blobstore.ListObjectsRequest, container_id=texts, end_with=maybe_text, max_items=st.none() | u32
    ),
    blobstore.RemoveObjectsRequest: st.builds(
        blobstore.RemoveObjectsRequest, container_id=texts, objects=st.lists(texts, max_size=3).map(tuple)
    ),
    blobstore.ItemResult: st.builds(blobstore.ItemResult, key=texts, success=st.booleans(), error=maybe_text),
    blobstore.PutObjectRequest: st.builds(blobstore.PutObjectRequest, chunk=chunks, content_type=maybe_text),
    blobstore.PutObjectResponse: st.builds(blobstore.PutObjectResponse, stream_id=maybe_text),
    blobstore.PutChunkRequest: st.builds(
        blobstore.PutChunkRequest, chunk=chunks, stream_id=maybe_text, cancel_and_remove=st.booleans()
    ),
    GetObjectRequest: st.builds(GetObjectRequest, object_id=texts, range_start=st.none() | u64),
    blobstore.GetObjectResponse: st.builds(
        blobstore.GetObjectResponse,
        success=st.booleans(),
        error=maybe_text,
        initial_chunk=st.none() | chunks,
        content_length=u64,
    ),
    blobstore.ChunkResponse: st.builds(blobstore.ChunkResponse, cancel_download=st.booleans()),
    testing.TestOptions: st.builds(
        testing.TestOptions,
        patterns=st.lists(texts, max_size=3).map(tuple),
        options=st.dictionaries(texts, texts, max_size=3),
    ),
    testing.TestResult: st.builds(testing.TestResult, name=texts, passed=st.booleans(), snap_data=st.none() | octets),
    mlinference.InferenceInput: st.builds(mlinference.InferenceInput, model=texts, tensor=tensors, index=u32),
    mlinference.InferenceOutput: st.builds(
        mlinference.InferenceOutput,
        result=st.just(mlinference.Status("success")) | ml_errors.map(lambda error: mlinference.Status("error", error)),
        tensor=tensors,
    ),
}
MEMBERS = ("containerId", "objectId", "objects", "chunk", "bytes", "offset", "isLast", "lastModified", "sec", "tensor")


def test_no_type_of_a_contract_is_left_out_here() -> None:
    declared = {
        value
        for module in (blobstore, testing, mlinference)
        for _, value in inspect.getmembers(module, inspect.isclass)
        if issubclass(value, Structure) and value.__module__ == module.__name__
    }
    assert declared - set(VALUES) == {Chunk, ObjectMetadata, mlinference.Tensor}, "those are inside others"


@pytest.mark.parametrize("kind", VALUES, ids=lambda kind: str(kind.__name__))
@given(data=st.data())
def test_a_value_comes_back_in_every_form(kind: Any, data: st.DataObject) -> None:
    value = data.draw(VALUES[kind])
    for form in Form:
        assert read_as("x", shape_of(kind), value.encode(form)) == (value, form)
    assert kind.decode(b"\xc1" + value.encode()) == value


@given(
    msgpack_junk(*MEMBERS)
    | bent(msgpack_values(MEMBERS).map(cbor.pack))
    | msgpack_values(MEMBERS).map(lambda value: b"\x7f" + cbor.pack(value))
    | bent(chunks.map(lambda chunk: chunk.encode(Form.PREFIXED_CBOR)))
)
def test_garbage_is_malformed_and_nothing_worse(payload: bytes) -> None:
    for kind in VALUES:
        with suppress(MalformedMessage):
            kind.decode(payload)


def test_structures_are_arrays_for_the_rust_generator_and_a_timestamp_is_two_items_of_them() -> None:
    """Its array of six counts the timestamp once, so seven items follow."""
    found = ObjectMetadata(object_id="o", container_id="c", content_length=3, last_modified=Timestamp(sec=5, nsec=7))
    assert found.encode(Form.PREFIXED_CBOR).hex() == "7f86616f6163030507f6f6"
    assert found.encode(Form.BARE_CBOR) == cbor.pack(
        {"objectId": "o", "containerId": "c", "contentLength": 3, "lastModified": {"sec": 5, "nsec": 7}}
    )
    listed = ListObjectsResponse(objects=(found, found), is_last=True)
    assert ListObjectsResponse.decode(listed.encode(Form.PREFIXED_CBOR)) == listed


def test_absent_members_are_null_in_arrays_and_left_out_of_maps() -> None:
    """A TinyGo actor takes no null for a text or a number."""
    request = GetObjectRequest(object_id="o", container_id="c")
    assert request.encode(Form.PREFIXED_CBOR).hex() == "7f84616f6163f6f6"
    assert request.encode(Form.BARE_CBOR) == cbor.pack({"objectId": "o", "containerId": "c"})
    assert msgpack.unpackb(request.encode()) == {"objectId": "o", "containerId": "c"}


def test_a_union_is_a_variant_s_name_in_msgpack_and_its_number_in_arrays() -> None:
    failed = mlinference.Status("error", mlinference.MlError("onnxError", "no"))
    kind = shape_of(mlinference.Status)
    assert msgpack.unpackb(write_as(kind, failed, Form.MSGPACK)) == {"error": {"onnxError": "no"}}
    assert write_as(kind, failed, Form.PREFIXED_CBOR).hex() == "7f8201820562" + b"no".hex()
    assert write_as(kind, mlinference.Status("success"), Form.MSGPACK) == msgpack.packb("success")
    rust = msgpack.packb({"Error": {"OnnxError": "no"}})
    assert read_as("x", kind, rust) == (failed, Form.MSGPACK)
    for wrong in (b"\x7f\x82\x01\xf6", b"\x7f\x82\x09\xf6", b"\x7f\x80", b"\x7f\x81\x01", msgpack.packb({"no": 1})):
        with pytest.raises(MalformedMessage):
            read_as("x", kind, wrong)


@pytest.mark.parametrize(
    ("encoded", "kind", "value"),
    [
        # as TinyGo writes them: no prefix, maps by name, zeros for what is absent
        (cbor.pack("box"), str, "box"),
        (cbor.pack(""), str, ""),
        (cbor.pack("b" * 30), str, "b" * 30),
        (cbor.pack("b" * 300), str, "b" * 300),
        (cbor.pack(True), bool, True),
        (cbor.pack(["a", "b"]), list[str], ["a", "b"]),
        (
            cbor.pack({"objectId": "o", "containerId": "c", "rangeStart": 0, "rangeEnd": 0}),
            GetObjectRequest,
            GetObjectRequest(object_id="o", container_id="c", range_start=0, range_end=0),
        ),
        (
            cbor.pack({"containerId": "c", "createdAt": {"Nsec": 7, "Sec": 5}}),
            blobstore.ContainerMetadata,
            blobstore.ContainerMetadata(container_id="c", created_at=Timestamp(sec=5, nsec=7)),
        ),
    ],
)
def test_cbor_without_a_prefix_is_told_from_msgpack_by_its_shape(encoded: bytes, kind: Any, value: Any) -> None:
    assert read_as("x", shape_of(kind), encoded) == (value, Form.BARE_CBOR)


@pytest.mark.parametrize("value", ["k", "", "k" * 40, "k" * 300])
def test_bare_texts_in_msgpack_stay_msgpack(value: str) -> None:
    assert read_as("x", shape_of(str), msgpack.packb(value)) == (value, Form.MSGPACK)
    assert read_as("x", shape_of(str), b"\x7f" + cbor.pack(value)) == (value, Form.PREFIXED_CBOR)


def test_prefixed_cbor_is_answered_in_msgpack_and_bare_cbor_in_its_like() -> None:
    assert [form.of_answer for form in Form] == [Form.MSGPACK, Form.MSGPACK, Form.BARE_CBOR]


def test_what_is_neither_is_told_as_the_msgpack_that_it_should_be() -> None:
    with pytest.raises(MalformedMessage, match=r"^ContainerObject: not msgpack: it is cut short or too large$"):
        ContainerObject.decode(b"\x82\xa1")
    with pytest.raises(MalformedMessage, match=r"^PutObjectRequest: chunk is missing$"):
        blobstore.PutObjectRequest.decode(msgpack.packb({"contentType": "text/plain"}))
    with pytest.raises(MalformedMessage, match=r"^Chunk: offset is -1, which is not between 0 and"):
        Chunk.decode(msgpack.packb({"offset": -1}))


def test_later_members_and_indefinite_lengths_are_read() -> None:
    assert ContainerObject.decode(b"\x7f" + cbor.pack(["c", "o", "later", [1]])) == ContainerObject(
        container_id="c", object_id="o"
    )
    assert ContainerObject.decode(bytes.fromhex("7f9f6163616fff")).object_id == "o"
    assert ContainerObject.decode(bytes.fromhex("7f816163")).object_id == ""


def test_contracts_of_one_form_read_announced_cbor_maps_too() -> None:
    request = HttpRequest(method="POST", path="/p", header={"a": ("b",)}, body=b"\x00")
    as_map = {"method": "POST", "path": "/p", "header": {"a": ["b"]}, "body": b"\x00"}
    assert HttpRequest.decode(b"\x7f" + cbor.pack(as_map)) == request
    increment = {"key": "k", "value": -2}
    assert keyvalue.IncrementRequest.decode(b"\x7f" + cbor.pack(increment)).value == -2


def test_a_type_that_contracts_do_not_have_is_a_mistake_of_its_author() -> None:
    with pytest.raises(TypeError, match="no form on the wire"):
        shape_of(set[str])
    with pytest.raises(ValueError, match="Status has no variant nothing"):
        mlinference.Status("nothing")
