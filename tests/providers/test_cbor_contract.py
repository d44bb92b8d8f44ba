"""A provider of a contract that generations of actors speak in different forms: each is answered in what it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
import pytest

from lattice import cbor
from lattice.contracts.blobstore import RECEIVE_CHUNK, Chunk, ContainerObject, GetObjectRequest, GetObjectResponse
from lattice.contracts.forms import Form
from lattice.errors import RemoteError
from lattice.invocation import Invocation
from lattice.keys import KeyPair, Role
from tests.support.nats import NatsServer
from tests.support.providers import HostSide

CONTRACT = "wasmcloud:blobstore"
BLOBS = """
from lattice.contracts.blobstore import (
    Chunk, ChunkResponse, ContainerObject, GetObjectRequest, GetObjectResponse, ObjectMetadata
)
from lattice.contracts.structures import Timestamp
from providers.runtime import Call, Provider, operation, run


class Blobs(Provider):
    contract_id = "wasmcloud:blobstore"
    spoken_in_cbor = True

    @operation("Blobstore.ContainerExists")
    async def container_exists(self, call: Call, name: str) -> bool:
        return name == "box"

    @operation("Blobstore.GetObjectInfo")
    async def get_object_info(self, call: Call, place: ContainerObject) -> ObjectMetadata:
        return ObjectMetadata(
            object_id=place.object_id, container_id=place.container_id, last_modified=Timestamp(sec=5, nsec=7)
        )

    @operation("Blobstore.GetObject")
    async def get_object(self, call: Call, request: GetObjectRequest) -> GetObjectResponse:
        rest = Chunk(object_id=request.object_id, bytes_=b"rest", offset=5, is_last=True)
        answer = await self.lattice.call(call.actor, "ChunkReceiver.ReceiveChunk", rest.encode(call.form))
        return GetObjectResponse(success=not ChunkResponse.decode(answer).cancel_download)

    @operation("Blobstore.CreateContainer")
    async def create_container(self, call: Call, name: str) -> None:
        pass

    @operation("Blobstore.ListContainers")
    async def list_containers(self, call: Call) -> list[str]:
        return ["box"]


run(Blobs)
"""


@pytest.fixture
async def host(nats_server: NatsServer, lattice: str) -> AsyncIterator[HostSide]:
    side = await HostSide.open(nats_server.url, lattice)
    yield side
    await side.close()


async def test_each_caller_is_answered_in_a_form_that_it_reads(host: HostSide, tmp_path: Path) -> None:
    script = tmp_path / "blobs.py"
    script.write_text(BLOBS)
    key, actor = KeyPair.generate(Role.SERVICE).public, KeyPair.generate(Role.MODULE).public
    blobs = await host.start(script, host.host_data(key, host.link(actor, key, CONTRACT)))

    async def call(method: str, payload: bytes) -> bytes:
        return await blobs.call(actor, f"Blobstore.{method}", payload, contract=CONTRACT)

    place = ContainerObject(container_id="c", object_id="o")
    named: dict[str, Any] = {
        "objectId": "o",
        "containerId": "c",
        "contentLength": 0,
        "lastModified": {"sec": 5, "nsec": 7},
    }
    for form in (Form.MSGPACK, Form.PREFIXED_CBOR):
        assert msgpack.unpackb(await call("GetObjectInfo", place.encode(form))) == named
    assert cbor.unpack("answer", await call("GetObjectInfo", place.encode(Form.BARE_CBOR)), raw=False) == named

    assert await call("ContainerExists", msgpack.packb("box")) == b"\xc3"
    assert await call("ContainerExists", b"\x7f" + cbor.pack("box")) == b"\xc3"
    assert await call("ContainerExists", cbor.pack("box")) == b"\xf5"
    assert await call("CreateContainer", cbor.pack("box")) == b""
    assert await call("ListContainers", b"") == cbor.pack(["box"])
    assert await call("ContainerExists", msgpack.packb("box")) == b"\xc3"
    assert await call("ListContainers", b"") == msgpack.packb(["box"])

    chunks: list[bytes] = []

    def on_chunk(invocation: Invocation) -> bytes:
        assert invocation.operation == RECEIVE_CHUNK
        chunks.append(invocation.msg)
        return cbor.pack({"cancelDownload": True}) if invocation.msg[0] == 0xA5 else msgpack.packb({})

    await host.actor(on_chunk, actor)
    rest = Chunk(object_id="o", bytes_=b"rest", offset=5, is_last=True)
    for form, answered in ((Form.MSGPACK, Form.MSGPACK), (Form.BARE_CBOR, Form.BARE_CBOR)):
        answer = await call("GetObject", GetObjectRequest(object_id="o", container_id="c").encode(form))
        assert GetObjectResponse.decode(answer).success is (form is Form.MSGPACK)
        assert chunks.pop() == rest.encode(answered)

    with pytest.raises(RemoteError, match=r"Blobstore.GetObjectInfo: not msgpack: bytes follow the value"):
        await call("GetObjectInfo", b"\x00\x00")
