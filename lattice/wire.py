"""Typed reading and writing of msgpack: the only module that touches the msgpack library.

Everything is decoded *raw*: map keys and strings stay ``bytes`` until a field asks for them, because Elixir hosts send
byte payloads as msgpack strings that are not UTF-8 (lattice protocol, ``docs/protocol.md``). Whatever arrives, the one
exception that leaves this module while reading is :class:`~lattice.errors.MalformedMessage`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import msgpack  # type: ignore[import-untyped]

from lattice import cbor
from lattice.errors import MalformedMessage

MAX_ITEMS: Final = 262_144
"""Largest number of items in one array or map. The decoder reserves memory for an array as soon as it has read its
announced length, so that a small message of nested announcements could ask for gigabytes."""

_CBOR_PREFIX: Final = 0x7F
_MSGPACK_PREFIX: Final = 0xC1


def pack(value: object) -> bytes:
    """``value`` in the shortest msgpack form: ``str`` as str, ``bytes`` as bin, dicts in their order.

    Raises TypeError, OverflowError or ValueError for what msgpack cannot hold: a bug of the caller, not of a peer.
    """
    return cast(bytes, msgpack.packb(value))


_unpackb = msgpack.unpackb


def unpack_raw(what: str, data: bytes) -> object:
    """One msgpack value that fills ``data``; map keys and strings stay bytes. ``what`` names it in the error."""
    try:
        return _unpackb(data, raw=True, strict_map_key=False, max_array_len=MAX_ITEMS, max_map_len=MAX_ITEMS)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        # TypeError: a map or an array used as a map key
        raise MalformedMessage(f"{what}: not msgpack: {_reason(error, data)}") from error


def unpack_argument(what: str, data: bytes) -> object:
    """As :func:`unpack_raw`, for contract arguments: the optional first byte ``c1`` announces msgpack, ``7f`` CBOR."""
    if is_cbor(data):
        return cbor.unpack(what, data[1:], raw=True)
    return unpack_raw(what, unprefixed(data))


def is_cbor(data: bytes) -> bool:
    """Whether contract arguments announce CBOR. One byte alone is always msgpack."""
    return len(data) > 1 and data[0] == _CBOR_PREFIX


def unprefixed(data: bytes) -> bytes:
    """Contract arguments without the prefix that announces msgpack."""
    return data[1:] if len(data) > 1 and data[0] == _MSGPACK_PREFIX else data


def unpack_value(data: bytes, what: str = "value") -> object:
    """The plain Python value of contract arguments: text as ``str``, blobs as ``bytes``; None for zero bytes.

    A string that is not UTF-8 stays ``bytes``, as a blob sent by an Elixir peer does.
    """
    if not data:
        return None
    if is_cbor(data):
        return cbor.unpack(what, data[1:], raw=False)
    try:
        value: object = _unpackb(
            unprefixed(data),
            raw=False,
            unicode_errors="surrogateescape",
            strict_map_key=False,
            max_array_len=MAX_ITEMS,
            max_map_len=MAX_ITEMS,
        )
        return _plain(value)
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"{what}: not msgpack: {_reason(error, data)}") from error


def _plain(value: object) -> object:
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError:
            return value.encode(errors="surrogateescape")
        return value
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    return value


def read_text(what: str, data: bytes) -> str:
    """Contract arguments that are one bare string (``KeyValue.Get``)."""
    return text_of(what, unpack_argument(what, data))


def read_texts(what: str, data: bytes) -> tuple[str, ...]:
    """Contract arguments that are one bare list of strings (``KeyValue.SetUnion``)."""
    return texts_of(what, unpack_argument(what, data))


def read_flag(what: str, data: bytes) -> bool:
    """Contract arguments that are one bare boolean."""
    value = unpack_argument(what, data)
    if isinstance(value, bool):
        return value
    raise MalformedMessage(f"{what} is {kind(value)}, not a boolean")


def read_integer(what: str, data: bytes, low: int, high: int) -> int:
    """Contract arguments that are one bare integer from ``low`` to ``high``."""
    return integer_of(what, unpack_argument(what, data), low, high)


def kind(value: object) -> str:
    """What ``value`` is, in words for an error message; never its content, which may be secret or huge."""
    if value is None:
        return "nil"
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int):
        return "an integer"
    if isinstance(value, float):
        return "a float"
    if isinstance(value, bytes | str):
        return "text or bytes"
    if isinstance(value, list | tuple):
        return "an array"
    return "a map" if isinstance(value, Mapping) else "an extension value"


def text_of(what: str, value: object) -> str:
    """A raw msgpack string (or bin) as text."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise MalformedMessage(f"{what} is not UTF-8 text") from error
    raise MalformedMessage(f"{what} is {kind(value)}, not text")


def texts_of(what: str, value: object) -> tuple[str, ...]:
    """A raw msgpack array of strings."""
    if isinstance(value, list):
        return tuple([text_of(what, item) for item in value])
    raise MalformedMessage(f"{what} is {kind(value)}, not a list of texts")


def octets_of(what: str, value: object) -> bytes:
    """A blob: bin, a string of any bytes, or an array of small integers, as Rust decoders take it too."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, list):
        try:
            if bool not in set(map(type, value)):
                return bytes(value)
        except (TypeError, ValueError):
            pass
        raise MalformedMessage(f"{what} is an array that holds something else than bytes")
    raise MalformedMessage(f"{what} is {kind(value)}, not bytes")


def integer_of(what: str, value: object, low: int, high: int) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if low <= value <= high:
            return value
        raise MalformedMessage(f"{what} is {value}, which is not between {low} and {high}")
    raise MalformedMessage(f"{what} is {kind(value)}, not an integer")


def _reason(error: Exception, data: bytes) -> str:
    if not data:
        return "it is empty"
    name = type(error).__name__
    return {
        "ExtraData": "bytes follow the value",
        "StackError": "nested too deeply",
        "FormatError": "reserved byte c1",
        "TypeError": "a map key is an array or a map",
    }.get(name, "it is cut short or too large")


_U64_MAX: Final = 2**64 - 1


class Fields:
    """One msgpack map, read field by field; a member that is nil counts as absent, unknown members are ignored."""

    __slots__ = ("_members", "_what")

    def __init__(self, what: str, members: Mapping[object, object]) -> None:
        self._what = what
        self._members = members

    @classmethod
    def unpack(cls, what: str, data: bytes) -> Fields:
        """Read ``data`` as one map; ``what`` names the message in errors. Keys may be str or bin."""
        return cls.of(what, unpack_raw(what, data))

    @classmethod
    def argument(cls, what: str, data: bytes) -> Fields:
        """As :meth:`unpack`, for contract arguments, which may have a format prefix."""
        return cls.of(what, unpack_argument(what, data))

    @classmethod
    def of(cls, what: str, value: object) -> Fields:
        """A map that was already unpacked raw."""
        if isinstance(value, dict):
            return cls(what, value)
        raise MalformedMessage(f"{what} is {kind(value)}, not a map")

    def __contains__(self, name: str) -> bool:
        return self._members.get(name.encode()) is not None

    def raw(self, name: str) -> Any:
        """The member as unpacked, None when absent."""
        return self._members.get(name.encode())

    def _label(self, name: str) -> str:
        return f"{self._what}: {name}"

    def text(self, name: str, default: str = "") -> str:
        value = self.raw(name)
        return default if value is None else text_of(self._label(name), value)

    def required_text(self, name: str) -> str:
        """Text that must be there and not be empty."""
        value = self.text(name)
        if not value:
            raise MalformedMessage(f"{self._label(name)} is missing")
        return value

    def optional_text(self, name: str) -> str | None:
        value = self.raw(name)
        return None if value is None else text_of(self._label(name), value)

    def octets(self, name: str, default: bytes = b"") -> bytes:
        value = self.raw(name)
        return default if value is None else octets_of(self._label(name), value)

    def count(self, name: str, default: int = 0) -> int:
        """An integer of 0 or more."""
        value = self.raw(name)
        return default if value is None else integer_of(self._label(name), value, 0, _U64_MAX)

    def optional_count(self, name: str) -> int | None:
        value = self.raw(name)
        return None if value is None else integer_of(self._label(name), value, 0, _U64_MAX)

    def integer(self, name: str, low: int, high: int, default: int = 0) -> int:
        value = self.raw(name)
        return default if value is None else integer_of(self._label(name), value, low, high)

    def flag(self, name: str, default: bool = False) -> bool:
        value = self.raw(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise MalformedMessage(f"{self._label(name)} is {kind(value)}, not a boolean")

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self.raw(name)
        return () if value is None else texts_of(self._label(name), value)

    def mapping(self, name: str) -> dict[str, str]:
        """A map of text to text; empty when absent."""
        members = self._map(name)
        try:
            return {key.decode(): value.decode() for key, value in members.items()}
        except (AttributeError, UnicodeDecodeError):
            label = self._label(name)
            names = {key: self._key(label, key) for key in members}
            return {name: text_of(f"{label}.{name[:60]}", members[key]) for key, name in names.items()}

    def text_lists(self, name: str) -> dict[str, tuple[str, ...]]:
        """A map of text to lists of text, as HTTP headers are; empty when absent."""
        result = {}
        for key, values in self._map(name).items():
            try:
                if type(values) is not list:
                    raise TypeError
                result[key.decode()] = tuple([value.decode() for value in values])
            except (AttributeError, TypeError, UnicodeDecodeError):
                label = self._label(name)
                name_of_key = self._key(label, key)
                result[name_of_key] = texts_of(f"{label}.{name_of_key[:60]}", values)
        return result

    def fields(self, name: str) -> Fields:
        """A nested map; one without members when absent."""
        value = self.raw(name)
        return Fields(self._label(name), {}) if value is None else Fields.of(self._label(name), value)

    def _map(self, name: str) -> dict[Any, Any]:
        value = self.raw(name)
        if value is None:
            return {}
        if isinstance(value, dict):
            return value
        raise MalformedMessage(f"{self._label(name)} is {kind(value)}, not a map")

    @staticmethod
    def _key(label: str, key: object) -> str:
        return text_of(f"{label}: a key", key)


def packed_text(value: str) -> bytes:
    """``value`` as msgpack str, without the detour of a packer."""
    data = value.encode()
    size = len(data)
    if size < 32:
        return b"%c%b" % (0xA0 | size, data)
    if size < 256:
        return b"\xd9%c%b" % (size, data)
    if size < 65_536:
        return b"\xda%b%b" % (size.to_bytes(2), data)
    return b"\xdb%b%b" % (size.to_bytes(4), data)


def packed_octets_head(size: int) -> bytes:
    """What precedes ``size`` bytes of msgpack bin."""
    if size < 256:
        return b"\xc4%c" % size
    if size < 65_536:
        return b"\xc5" + size.to_bytes(2)
    return b"\xc6" + size.to_bytes(4)


def packed_count(value: int) -> bytes:
    """An integer of 0 or more in the shortest msgpack form."""
    if value < 128:
        return b"%c" % value
    if value < 256:
        return b"\xcc%c" % value
    if value < 65_536:
        return b"\xcd" + value.to_bytes(2)
    if value < 4_294_967_296:
        return b"\xce" + value.to_bytes(4)
    return b"\xcf" + value.to_bytes(8)
