"""How mirrored calls are shown."""

from __future__ import annotations

from typing import Any

from lattice import cbor, wire
from lattice.invocation import Entity
from lattice.observation import MOST_MIRRORED, CallPart, MirroredCall
from wasmhost.cli.spy import Picture

ACTOR = "M" + "A" * 55


def mirrored(msg: bytes, size: int | None = None, **members: Any) -> MirroredCall:
    return MirroredCall(
        part=CallPart.REQUEST,
        host_id="N1",
        host_name="host",
        call="1",
        origin=Entity("V" + "B" * 55),
        target=Entity.actor(ACTOR),
        operation="HttpServer.HandleRequest",
        msg=msg,
        size=len(msg) if size is None else size,
        **members,
    )


def test_a_large_payload_is_shown_decoded_as_far_as_it_goes_with_its_size() -> None:
    whole = wire.pack({"method": "POST", "path": "/large", "body": b"hello " * 400_000})
    call = mirrored(whole[:MOST_MIRRORED], len(whole))
    document = Picture(ACTOR, {}).document(call)
    assert (document["size"], document["truncated"]) == (len(whole), True)
    assert document["value"]["path"] == "/large"
    assert document["value"]["body"].startswith("hello hello ")
    lines = Picture(ACTOR, {}).describe(call, 80).splitlines()
    assert '{"method": "POST", "path": "/large", "body": "hello hello' in lines[1]
    assert lines[-1].endswith(f"(the beginning of {len(whole)} bytes)")
    assert max(map(len, lines)) <= 80 and len(lines) < 50


def test_a_payload_that_nobody_read_is_shown_by_its_size() -> None:
    picture = Picture(ACTOR, {})
    assert picture.describe(mirrored(b"", 2_000_000), 80).splitlines()[1].strip() == "(2000000 bytes)"
    document = picture.document(mirrored(b"", 2_000_000))
    assert (document["value"], document["truncated"]) == (None, True)


def test_a_whole_payload_is_shown_in_whatever_form_it_came() -> None:
    for msg in (wire.pack(["a", 1]), b"\xc1" + wire.pack(["a", 1]), b"\x7f" + cbor.pack(["a", 1])):
        document = Picture(ACTOR, {}).document(mirrored(msg))
        assert (document["value"], document["truncated"]) == (["a", 1], False)
    cut = b"\x7f" + cbor.pack(["a" * 50])
    assert Picture(ACTOR, {}).document(mirrored(cut[:30], len(cut)))["truncated"]
