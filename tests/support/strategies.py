"""Inputs for property tests: values that msgpack and JSON can hold, and bytes that peers should never send."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import msgpack  # type: ignore[import-untyped]
from hypothesis import strategies as st

from lattice.invocation import Entity
from lattice.keys import KeyPair, Role

texts = st.text(max_size=40)
"""Any Unicode text without half surrogate pairs, which UTF-8 cannot hold."""
text_maps = st.dictionaries(texts, texts, max_size=4)
header_maps = st.dictionaries(texts, st.lists(texts, max_size=3).map(tuple), max_size=3)
entities = st.builds(Entity, texts, texts, texts)

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=20)
)


def msgpack_values(names: Sequence[str] = ()) -> st.SearchStrategy[Any]:
    """Anything msgpack can hold; maps like to use ``names``, so that typed readers get past their first check."""
    keys = st.sampled_from(list(names)) | _SCALARS if names else _SCALARS
    return st.recursive(
        _SCALARS,
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=8),
        max_leaves=20,
    )


def msgpack_junk(*names: str) -> st.SearchStrategy[bytes]:
    """Random bytes, random values, maps with the right names and wrong values, and cut or bent messages."""

    def pack(value: object) -> bytes:
        packed: bytes = msgpack.packb(value)
        return packed

    packed = (msgpack_values(names) | st.dictionaries(st.sampled_from(names or ("a",)), msgpack_values(names))).map(
        pack
    )
    return st.binary(max_size=200) | packed | bent(packed)


def bent(valid: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Valid bytes with one byte changed, or cut short, or with a tail."""

    def change(parts: tuple[bytes, int, int]) -> bytes:
        data, at, byte = parts
        if not data:
            return bytes([byte])
        at %= len(data) * 2
        if at >= len(data):
            return data[: at - len(data)]
        return data[:at] + bytes([byte]) + data[at + 1 :]

    return st.tuples(valid, st.integers(0, 10_000), st.integers(0, 255)).map(change)


def json_values(names: Sequence[str] = ()) -> st.SearchStrategy[Any]:
    """Anything JSON can hold, half surrogate pairs and huge numbers included."""
    scalars = (
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=()), max_size=20)
    )
    keys = st.sampled_from(list(names)) | st.text(max_size=10) if names else st.text(max_size=10)
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=8), max_leaves=20
    )


def json_junk(*names: str) -> st.SearchStrategy[bytes]:
    """Random bytes, random JSON, and bent JSON."""
    valid = (json_values(names) | st.dictionaries(st.sampled_from(names or ("a",)), json_values(names))).map(
        lambda value: json.dumps(value).encode()
    )
    return st.binary(max_size=200) | valid | bent(valid)


def key(role: Role, byte: int) -> KeyPair:
    """The test key of 32 equal bytes."""
    return KeyPair.from_raw(role, bytes([byte]) * 32)


CLUSTER = key(Role.CLUSTER, 1)
HOST = key(Role.HOST, 2)
ACTOR = key(Role.MODULE, 3)
PROVIDER = key(Role.SERVICE, 4)
ACCOUNT = key(Role.ACCOUNT, 5)
"""The fixed keys of the protocol vectors (docs/protocol.md), the account apart."""
