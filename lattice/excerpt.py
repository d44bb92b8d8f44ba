"""What can be told of a msgpack value of which only the beginning is there.

For people who look at calls: containers have the items that arrived, and the text or blob in which the bytes end has
what arrived of it. Nothing that works on values may use this.
"""

from __future__ import annotations

import codecs
import struct
from typing import Any, Final

MOST_ITEMS: Final = 10_000
"""Of all containers together; what follows is left out."""
MOST_DEPTH: Final = 32

_SIZES: Final = {  # after the first byte: how many bytes say the length, and of what
    0xC4: (1, "blob"),
    0xC5: (2, "blob"),
    0xC6: (4, "blob"),
    0xD9: (1, "text"),
    0xDA: (2, "text"),
    0xDB: (4, "text"),
    0xDC: (2, "array"),
    0xDD: (4, "array"),
    0xDE: (2, "map"),
    0xDF: (4, "map"),
}
_NUMBERS: Final = {
    0xCA: ">f",
    0xCB: ">d",
    0xCC: ">B",
    0xCD: ">H",
    0xCE: ">I",
    0xCF: ">Q",
    0xD0: ">b",
    0xD1: ">h",
    0xD2: ">i",
    0xD3: ">q",
}
_CONSTANTS: Final = {0xC0: None, 0xC2: False, 0xC3: True}


class _End(Exception):
    """The bytes, or what is shown of them, end here."""


def excerpt(beginning: bytes) -> object:
    """The value that begins with these bytes, as far as it goes: text as ``str`` where it is UTF-8, blobs as ``bytes``.

    Raises ValueError for what is not the beginning of a map or an array: nothing is gained over the bytes then.
    """
    reader = _Reader(beginning)
    try:
        value = reader.value(0)
    except _End:
        value = None
    if isinstance(value, dict | list) and value:
        return value
    raise ValueError("not the beginning of a msgpack map or array")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._left = MOST_ITEMS
        self._over = False

    def value(self, depth: int) -> Any:
        first = self._take(1)[0]
        if first <= 0x7F:
            return first
        if first >= 0xE0:
            return first - 256
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if (form := _NUMBERS.get(first)) is not None:
            return struct.unpack(form, self._take(struct.calcsize(form)))[0]
        if first <= 0x8F:
            return self._container("map", first & 0x0F, depth)
        if first <= 0x9F:
            return self._container("array", first & 0x0F, depth)
        if first <= 0xBF:
            return self._string("text", first & 0x1F)
        if first not in _SIZES:
            raise _End  # extension values do not occur in contracts
        width, kind = _SIZES[first]
        size = int.from_bytes(self._take(width))
        if kind in ("map", "array"):
            return self._container(kind, size, depth)
        return self._string(kind, size)

    def _take(self, size: int) -> bytes:
        if self._over or len(self._data) - self._at < size:
            raise _End
        self._at += size
        return self._data[self._at - size : self._at]

    def _string(self, kind: str, size: int) -> str | bytes:
        piece = self._data[self._at : self._at + size]
        self._at += len(piece)
        if len(piece) < size:
            self._over = True
            piece = _whole_characters(piece)
        if kind == "blob":
            return piece
        try:
            return piece.decode()
        except UnicodeDecodeError:
            return piece

    def _container(self, kind: str, size: int, depth: int) -> Any:
        if depth >= MOST_DEPTH:
            raise _End
        items: list[Any] = []
        members: dict[Any, Any] = {}
        try:
            for _ in range(size):
                self._left -= 1
                if self._left < 0:
                    raise _End
                item = self.value(depth + 1)
                if kind == "array":
                    items.append(item)
                    continue
                key = repr(item) if isinstance(item, list | dict) else item
                members[key] = self.value(depth + 1)
        except _End:
            self._over = True
        return items if kind == "array" else members


def _whole_characters(piece: bytes) -> bytes:
    """Without the first bytes of a last character, so that a text that was cut off still is one."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        return decoder.decode(piece).encode()
    except UnicodeDecodeError:
        return piece
