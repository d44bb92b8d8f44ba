"""How handler arguments and results travel: the annotations of a handler choose its codec.

============================  =======================================================================
annotation                    payload
============================  =======================================================================
none (argument), ``None``     zero bytes
``bytes``                     the payload as it is
a class with decode/encode    that class, as the modules of ``lattice.contracts`` define them
``str int bool float``        that value alone, in msgpack; also ``list[...]`` and ``dict[str, ...]`` of them
============================  =======================================================================

Providers of contracts that are also spoken in CBOR take the second pair of functions here: what is not ``bytes`` or
nothing may then be any type of :mod:`lattice.contracts.structures`, and is answered in the form in which it came.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from typing import Any

from lattice import wire
from lattice.contracts.forms import Form
from lattice.contracts.structures import read_as, shape_of, write_as
from lattice.errors import MalformedMessage

Decoder = Callable[[bytes], Any]
Encoder = Callable[[Any], bytes]
FormDecoder = Callable[[bytes], tuple[Any, Form]]
FormEncoder = Callable[[Any, Form], bytes]

_PLAIN = (str, int, bool, float)
_LEAST = -(2**63)
_MOST = 2**64 - 1


def decoder(annotation: Any, what: str) -> Decoder:
    """Payload to argument; raises MalformedMessage, naming ``what``. TypeError for an annotation without a codec."""
    if annotation is bytes:
        return bytes
    decode = getattr(annotation, "decode", None)
    if decode is not None and annotation is not str:
        return typing.cast(Decoder, decode)
    if annotation is str:
        return lambda payload: wire.read_text(what, payload)
    if annotation is bool:
        return lambda payload: wire.read_flag(what, payload)
    if annotation is int:
        return lambda payload: wire.read_integer(what, payload, _LEAST, _MOST)
    if annotation == list[str]:
        return lambda payload: list(wire.read_texts(what, payload))
    matches = _matcher(annotation)

    def read(payload: bytes) -> Any:
        value = wire.unpack_value(payload, what)
        if not matches(value):
            raise MalformedMessage(f"{what} is {wire.kind(value)}, not {_name(annotation)}")
        return value

    return read


def encoder(annotation: Any) -> Encoder:
    """Result to payload. TypeError for an annotation without a codec."""
    if annotation is None or annotation is types.NoneType:
        return lambda _: b""
    if annotation is bytes:
        return bytes
    if hasattr(annotation, "encode") and annotation is not str:
        return typing.cast(Encoder, lambda value: value.encode())
    _matcher(annotation)
    return wire.pack


def form_decoder(annotation: Any, what: str) -> FormDecoder:
    """Payload to argument and the form in which it came; otherwise as :func:`decoder`."""
    if annotation is bytes:
        return lambda payload: (payload, Form.MSGPACK)
    shape = shape_of(annotation)
    return lambda payload: read_as(what, shape, payload)


def form_encoder(annotation: Any) -> FormEncoder:
    """Result to payload, in a form; otherwise as :func:`encoder`."""
    if annotation in (None, types.NoneType, bytes):
        encode = encoder(annotation)
        return lambda value, form: encode(value)
    shape = shape_of(annotation)
    return lambda value, form: write_as(shape, value, form)


def _name(annotation: Any) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _matcher(annotation: Any) -> Callable[[Any], bool]:
    if annotation is float:
        return lambda value: isinstance(value, (int, float)) and not isinstance(value, bool)
    if annotation is int:
        return lambda value: isinstance(value, int) and not isinstance(value, bool)
    if annotation in _PLAIN:
        return lambda value: isinstance(value, annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is list and len(arguments) == 1:
        item = _matcher(arguments[0])
        return lambda value: isinstance(value, list) and all(item(member) for member in value)
    if origin is dict and len(arguments) == 2 and arguments[0] is str:
        item = _matcher(arguments[1])
        return lambda value: (
            isinstance(value, dict) and all(isinstance(key, str) and item(member) for key, member in value.items())
        )
    raise TypeError(
        f"no codec for {_name(annotation)}: use bytes, str, int, bool, float, list[...], dict[str, ...] of them, "
        "or a class with decode(bytes) and encode()"
    )
