"""``wasmcloud:blobstore``: objects in containers, read and written in chunks.

Actors built with interface 0.2 to 0.7 (March 2022 to August 2023) speak CBOR, later ones msgpack, TinyGo ones CBOR
without a prefix at any age; :mod:`lattice.contracts.forms` tells them apart. Operations whose argument or result is a
plain value take ``str``, ``bool`` or a list.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from lattice.contracts.structures import U32, U64, Structure, Timestamp

CONTRACT: Final = "wasmcloud:blobstore"

CONTAINER_EXISTS: Final = "Blobstore.ContainerExists"
CREATE_CONTAINER: Final = "Blobstore.CreateContainer"
GET_CONTAINER_INFO: Final = "Blobstore.GetContainerInfo"
LIST_CONTAINERS: Final = "Blobstore.ListContainers"
REMOVE_CONTAINERS: Final = "Blobstore.RemoveContainers"
OBJECT_EXISTS: Final = "Blobstore.ObjectExists"
GET_OBJECT_INFO: Final = "Blobstore.GetObjectInfo"
LIST_OBJECTS: Final = "Blobstore.ListObjects"
REMOVE_OBJECTS: Final = "Blobstore.RemoveObjects"
PUT_OBJECT: Final = "Blobstore.PutObject"
PUT_CHUNK: Final = "Blobstore.PutChunk"
GET_OBJECT: Final = "Blobstore.GetObject"
RECEIVE_CHUNK: Final = "ChunkReceiver.ReceiveChunk"
"""From the provider to the actor, in the form in which the actor asked for the object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerObject(Structure):
    container_id: str = ""
    object_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerMetadata(Structure):
    container_id: str = ""
    created_at: Timestamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectMetadata(Structure):
    object_id: str = ""
    container_id: str = ""
    content_length: U64 = 0
    last_modified: Timestamp | None = None
    content_type: str | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ListObjectsRequest(Structure):
    container_id: str = ""
    start_with: str | None = None
    continuation: str | None = None
    end_with: str | None = None
    """Inclusive."""
    end_before: str | None = None
    """Exclusive."""
    max_items: U32 | None = None
    """TinyGo actors cannot leave it out and send 0, and empty texts above."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListObjectsResponse(Structure):
    objects: tuple[ObjectMetadata, ...] = ()
    is_last: bool = False
    continuation: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveObjectsRequest(Structure):
    container_id: str = ""
    objects: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ItemResult(Structure):
    key: str = ""
    success: bool = False
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk(Structure):
    object_id: str = ""
    container_id: str = ""
    bytes_: bytes = field(default=b"", repr=False)
    offset: U64 = 0
    is_last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PutObjectRequest(Structure):
    chunk: Chunk
    """The first one, at offset 0."""
    content_type: str | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PutObjectResponse(Structure):
    stream_id: str | None = None
    """There when more chunks are expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutChunkRequest(Structure):
    chunk: Chunk
    stream_id: str | None = None
    cancel_and_remove: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class GetObjectRequest(Structure):
    object_id: str = ""
    container_id: str = ""
    range_start: U64 | None = None
    range_end: U64 | None = None
    """Inclusive. TinyGo actors cannot leave it out: 0 and 0 mean the whole object there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GetObjectResponse(Structure):
    success: bool = False
    error: str | None = None
    initial_chunk: Chunk | None = None
    content_length: U64 = 0
    content_type: str | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChunkResponse(Structure):
    cancel_download: bool = False
