"""CBOR, as far as contracts use it, read item by item.

Written here and not taken from a library: the Rust code generator writes a timestamp as two items where the array that
holds it counts one, so a reader has to follow the type; text must stay bytes until somebody asks for it, as in
:mod:`lattice.wire`; and tags, which can make general libraries build dates, fractions, shared or cyclic values from a
peer's bytes, mean nothing in contracts. Sources: RFC 8949; wasmCloud/weld ``codegen/src/encode_rust.rs``;
wasmCloud/tinygo-cbor.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any, Final

from lattice.errors import MalformedMessage

MAX_ITEMS: Final = 262_144
"""Largest number of items in one message."""
MAX_DEPTH: Final = 64
"""Arrays, maps and tags inside one another."""

_UNSIGNED, _NEGATIVE, _BYTES, _TEXT, _ARRAY, _MAP, _TAG, _OTHER = range(8)
_NAMES: Final = ("an integer", "an integer", "bytes", "text", "an array", "a map", "a tag", "a simple value")
_INDEFINITE: Final = 31
_BREAK: Final = 0xFF
_NULL: Final = 0xF6
_UNDEFINED: Final = 0xF7
_FLOATS: Final = {25: ">e", 26: ">f", 27: ">d"}


class Uncounted(tuple[Any, ...]):
    """Items that stand in an array without a head of their own: the array counts all of them as one."""

    __slots__ = ()


def pack(value: object) -> bytes:
    """``value``, made of None, booleans, numbers, text, bytes, lists, tuples and dicts, in the shortest form.

    Raises TypeError, OverflowError or ValueError for anything else: a bug of the caller, not of a peer.
    """
    parts: list[bytes] = []
    _pack(value, parts)
    return b"".join(parts)


def _pack(value: object, parts: list[bytes]) -> None:
    if value is None:
        parts.append(b"\xf6")
    elif isinstance(value, bool):
        parts.append(b"\xf5" if value else b"\xf4")
    elif isinstance(value, int):
        parts.append(_head(_UNSIGNED, value) if value >= 0 else _head(_NEGATIVE, -1 - value))
    elif isinstance(value, float):
        parts.append(struct.pack(">Bd", 0xFB, value))
    elif isinstance(value, str):
        data = value.encode()
        parts += (_head(_TEXT, len(data)), data)
    elif isinstance(value, bytes):
        parts += (_head(_BYTES, len(value)), value)
    elif isinstance(value, list | tuple):
        if not isinstance(value, Uncounted):
            parts.append(_head(_ARRAY, len(value)))
        for item in value:
            _pack(item, parts)
    elif isinstance(value, Mapping):
        parts.append(_head(_MAP, len(value)))
        for key, item in value.items():
            _pack(key, parts)
            _pack(item, parts)
    else:
        raise TypeError(f"CBOR of a contract cannot hold {type(value).__name__}")


def _head(major: int, argument: int) -> bytes:
    major <<= 5
    if argument < 24:
        return bytes((major | argument,))
    if argument < 1 << 8:
        return bytes((major | 24, argument))
    if argument < 1 << 16:
        return bytes((major | 25,)) + argument.to_bytes(2)
    if argument < 1 << 32:
        return bytes((major | 26,)) + argument.to_bytes(4)
    return bytes((major | 27,)) + argument.to_bytes(8)


def unpack(what: str, data: bytes, *, raw: bool) -> object:
    """One value that fills ``data``. ``what`` names it in the error.

    ``raw`` leaves text as bytes; otherwise it becomes ``str`` where it is UTF-8. Raises MalformedMessage, and nothing
    else.
    """
    reader = Reader(what, data, raw=raw)
    value = reader.value()
    reader.end()
    return value


class Reader:
    """Reads one message; every method raises MalformedMessage, and nothing else."""

    __slots__ = ("_at", "_data", "_depth", "_left", "_raw", "_what")

    def __init__(self, what: str, data: bytes, *, raw: bool = True) -> None:
        self._what = what
        self._data = data
        self._raw = raw
        self._at = 0
        self._left = MAX_ITEMS
        self._depth = 0

    def value(self) -> object:
        """The next item with all that is in it; tags are passed over, undefined counts as null."""
        major, argument = self._next()
        if major == _UNSIGNED:
            return argument
        if major == _NEGATIVE:
            return -1 - argument
        if major == _BYTES:
            return self._string(major, argument)
        if major == _TEXT:
            return self._text(self._string(major, argument))
        if major == _OTHER:
            return self._other(argument)
        with _Deeper(self):
            if major == _ARRAY:
                return [self.value() for _ in self._items(argument)]
            if major == _TAG:
                return self.value()
            members: dict[Any, Any] = {}
            for _ in self._items(argument):
                key = self.value()
                if isinstance(key, list | dict):
                    raise self._malformed("a map key is an array or a map")
                members[key] = self.value()
            return members

    def is_array(self) -> bool:
        """Whether the next item is an array."""
        return self._peek() >> 5 == _ARRAY

    def null(self) -> bool:
        """Pass over a null; False when the next item is something else."""
        if self._peek() in (_NULL, _UNDEFINED):
            self._next()
            return True
        return False

    def items(self) -> Iterator[int]:
        """Enter the array that comes next: yields the index of each item, which must be read before the next."""
        major, argument = self._next()
        if major != _ARRAY:
            raise self._malformed(f"{_NAMES[major]} instead of an array")
        with _Deeper(self):
            yield from self._items(argument)

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise self._malformed("bytes follow the value")

    def _items(self, count: int) -> Iterator[int]:
        if count >= 0:
            if count > self._left:
                raise self._malformed("too many items")
            yield from range(count)
            return
        index = 0
        while self._peek() != _BREAK:
            yield index
            index += 1
        self._at += 1

    def _peek(self) -> int:
        if self._at >= len(self._data):
            raise self._malformed("it is cut short" if self._data else "it is empty")
        return self._data[self._at]

    def _next(self) -> tuple[int, int]:
        """Major type and argument of the next item; -1 for an indefinite length, the byte itself for simple values."""
        self._left -= 1
        if self._left < 0:
            raise self._malformed("too many items")
        first = self._peek()
        self._at += 1
        major, info = first >> 5, first & 31
        if major == _OTHER:
            return major, first
        if info < 24:
            return major, info
        if info <= 27:
            return major, int.from_bytes(self._take(1 << (info - 24)))
        if info == _INDEFINITE and major in (_BYTES, _TEXT, _ARRAY, _MAP):
            return major, -1
        raise self._malformed("a reserved length")

    def _take(self, size: int) -> bytes:
        begin, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise self._malformed("it is cut short")
        return self._data[begin : self._at]

    def _string(self, major: int, size: int) -> bytes:
        if size >= 0:
            return self._take(size)
        pieces = []
        for _ in self._items(-1):
            piece, length = self._next()
            if piece != major or length < 0:
                raise self._malformed(f"{_NAMES[piece]} inside {_NAMES[major]}")
            pieces.append(self._take(length))
        return b"".join(pieces)

    def _text(self, data: bytes) -> object:
        if self._raw:
            return data
        try:
            return data.decode()
        except UnicodeDecodeError:
            return data

    def _other(self, first: int) -> object:
        if first in (0xF4, 0xF5):
            return first == 0xF5
        if first in (_NULL, _UNDEFINED):
            return None
        if (form := _FLOATS.get(first & 31)) is not None:
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        raise self._malformed("a simple value without a meaning")

    def _malformed(self, reason: str) -> MalformedMessage:
        return MalformedMessage(f"{self._what}: not CBOR: {reason}")


class _Deeper:
    """One more level, for as long as it is read."""

    __slots__ = ("_reader",)

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def __enter__(self) -> None:
        self._reader._depth += 1
        if self._reader._depth > MAX_DEPTH:
            raise self._reader._malformed("nested too deeply")

    def __exit__(self, *_: object) -> None:
        self._reader._depth -= 1
