"""The annotations of a handler choose how its argument and result travel."""

from __future__ import annotations

from typing import Any

import pytest

from lattice import wire
from lattice.contracts.forms import Form
from lattice.contracts.keyvalue import GetResponse, SetRequest
from lattice.errors import MalformedMessage
from providers.codecs import decoder, encoder, form_decoder, form_encoder
from providers.provider import Call, Provider, operation


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (str, "ž"),
        (int, -(2**40)),
        (bool, True),
        (float, 1.5),
        (list[str], ["a", "b"]),
        (list[int], [1, 2]),
        (dict[str, list[str]], {"a": ["b"]}),
        (bytes, b"\x00\xc1"),
        (SetRequest, SetRequest(key="k", value="v", expires=3)),
        (GetResponse, GetResponse(value="v", exists=True)),
    ],
)
def test_a_value_survives_its_codec(annotation: Any, value: Any) -> None:
    assert decoder(annotation, "Op")(encoder(annotation)(value)) == value


def test_announced_cbor_is_read_whatever_the_contract() -> None:
    assert decoder(str, "Op")(b"\x7f\x61k") == "k"
    assert decoder(list[str], "Op")(b"\x7f\x81\x61k") == ["k"]
    assert decoder(dict[str, int], "Op")(b"\x7f\xa1\x61k\x01") == {"k": 1}
    assert decoder(SetRequest, "Op")(b"\x7f\xa1\x63key\x61k") == SetRequest(key="k")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [(str, "ž"), (bool, True), (int, -500), (list[str], ["a"]), (float, 1.5), (bytes, b"\x7f\x00")],
)
@pytest.mark.parametrize("form", list(Form))
def test_a_value_survives_its_codec_in_every_form(annotation: Any, value: Any, form: Form) -> None:
    came = Form.MSGPACK if annotation is bytes else form
    assert form_decoder(annotation, "Op")(form_encoder(annotation)(value, form)) == (value, came)


def test_nothing_travels_as_zero_bytes() -> None:
    assert encoder(None)(None) == b""
    assert encoder(type(None))(None) == b""


@pytest.mark.parametrize(
    ("annotation", "sent"),
    [
        (str, 1),
        (int, "1"),
        (int, True),
        (bool, 1),
        (float, True),
        (list[str], ["a", 1]),
        (list[int], "a"),
        (dict[str, int], {"a": "b"}),
        (SetRequest, "k"),
        (str, None),
    ],
)
def test_another_type_is_malformed_and_named(annotation: Any, sent: Any) -> None:
    with pytest.raises(MalformedMessage):
        decoder(annotation, "Op")(wire.pack(sent))


@pytest.mark.parametrize("annotation", [str, int, bool, float, list[str], dict[str, str], SetRequest])
@pytest.mark.parametrize("garbage", [b"", b"\xc1", b"\x93\x01", b"\xff\xff\xff"])
def test_garbage_is_malformed_and_nothing_worse(annotation: Any, garbage: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decoder(annotation, "Op")(garbage)


def test_a_binary_string_counts_as_text() -> None:
    assert decoder(str, "Op")(wire.pack(b"abc")) == "abc"


def test_a_handler_without_a_codec_is_a_mistake_told_at_start() -> None:
    class Odd(Provider):
        contract_id = "a:b"

        @operation("Odd.Do")
        async def do(self, call: Call, argument: set[str]) -> None: ...

    with pytest.raises(TypeError, match=r"Odd\.do: no codec for set\[str\]"):
        Odd().handlers()


def test_a_handler_without_annotations_is_a_mistake_told_at_start() -> None:
    class Bare(Provider):
        contract_id = "a:b"

        @operation("Bare.Do")
        async def do(self, call, argument):  # type: ignore[no-untyped-def]
            return argument

    with pytest.raises(TypeError, match=r"Bare\.do: annotate argument, return"):
        Bare().handlers()


def test_two_handlers_for_one_operation_are_a_mistake_told_at_start() -> None:
    class Twice(Provider):
        contract_id = "a:b"

        @operation("Twice.Do")
        async def one(self, call: Call) -> None: ...

        @operation("Twice.Do")
        async def two(self, call: Call) -> None: ...

    with pytest.raises(TypeError, match=r"Twice has two handlers for Twice\.Do"):
        Twice().handlers()
