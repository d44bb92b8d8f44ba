"""Typed reading of JSON objects, the encoding of control messages, events, metadata and host data.

Works on parsed values, so that the same message read from msgpack is checked by the same code. The one exception is
:class:`~lattice.errors.MalformedMessage`; it names the member and its type, never its value.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

from lattice.errors import MalformedMessage
from lattice.wire import kind

_U64_MAX: Final = 2**64 - 1


def parse(what: str, data: bytes | str) -> object:
    """The value of a JSON text; MalformedMessage if it is none, or spells half of a surrogate pair, which nobody
    could print or send afterwards."""
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value: object = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in text or not text.isascii():
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except (ValueError, RecursionError) as error:
        raise MalformedMessage(f"{what}: not JSON") from error


def encode(value: object) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode(errors="replace")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):  # 1e999: it could not be written as JSON again
        raise ValueError(text)
    return value


def _refuse_constant(name: str) -> Any:
    raise ValueError(name)


class Document:
    """One JSON object, read member by member; a null member counts as absent, unknown members are ignored."""

    __slots__ = ("_members", "what")

    def __init__(self, what: str, value: object) -> None:
        if not isinstance(value, Mapping):
            raise MalformedMessage(f"{what} is {kind(value)}, not an object")
        self.what = what
        self._members: Mapping[object, Any] = value

    @classmethod
    def parse(cls, what: str, data: bytes | str) -> Document:
        return cls(what, parse(what, data))

    def _wrong(self, name: str, wanted: str) -> MalformedMessage:
        value = self._members.get(name)
        found = "bytes" if isinstance(value, bytes) else kind(value)
        return MalformedMessage(f"{self.what}: {name} is {found}, not {wanted}")

    def names(self) -> list[str]:
        """The names of all members; MalformedMessage if one is not text, as msgpack allows."""
        for name in self._members:
            if not isinstance(name, str):
                raise MalformedMessage(f"{self.what}: a member's name is {kind(name)}, not text")
        return cast(list[str], list(self._members))

    def __contains__(self, name: str) -> bool:
        """Whether the member is there at all, be it null."""
        return name in self._members

    def raw(self, name: str) -> Any:
        """The member as parsed, None when absent."""
        return self._members.get(name)

    def optional_text(self, name: str) -> str | None:
        value = self._members.get(name)
        if value is None:
            return None
        if isinstance(value, str):
            return value
        raise self._wrong(name, "text")

    def text(self, name: str, default: str = "") -> str:
        value = self.optional_text(name)
        return default if value is None else value

    def required_text(self, name: str) -> str:
        """Text that must be there and not be empty."""
        value = self.optional_text(name)
        if not value:
            raise MalformedMessage(f"{self.what}: {name} is missing")
        return value

    def optional_count(self, name: str) -> int | None:
        value = self._members.get(name)
        if value is None:
            return None
        if isinstance(value, int) and not isinstance(value, bool):
            if 0 <= value <= _U64_MAX:
                return value
            raise MalformedMessage(f"{self.what}: {name} is negative or has more than 64 bits")
        raise self._wrong(name, "an integer")

    def count(self, name: str, default: int = 0) -> int:
        value = self.optional_count(name)
        return default if value is None else value

    def integer(self, name: str, default: int = 0) -> int:
        value = self._members.get(name)
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise self._wrong(name, "an integer")

    def flag(self, name: str, default: bool = False) -> bool:
        value = self._members.get(name)
        if value is None:
            return default
        if isinstance(value, bool):
            return value
        raise self._wrong(name, "true or false")

    def mapping(self, name: str) -> dict[str, str]:
        """An object of text to text; empty when absent."""
        value = self._members.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self._wrong(name, "an object")
        for key, member in value.items():
            if not isinstance(key, str) or not isinstance(member, str):
                raise MalformedMessage(f"{self.what}: {name}.{key!s:.60} is {kind(member)}, not text")
        return dict(cast(Mapping[str, str], value))

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of text; empty when absent."""
        value = self._members.get(name)
        if value is None:
            return ()
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise self._wrong(name, "a list of texts")

    def document(self, name: str) -> Document:
        """A nested object; one without members when absent."""
        value = self._members.get(name)
        return Document(f"{self.what}: {name}", {} if value is None else value)

    def documents(self, name: str) -> Iterator[Document]:
        """The objects of a list; none when absent."""
        for index, value in enumerate(self.items(name)):
            yield Document(f"{self.what}: {name}[{index}]", value)

    def items(self, name: str) -> list[object]:
        """A list of anything; empty when absent."""
        value = self._members.get(name)
        if value is None:
            return []
        if isinstance(value, list):
            return value
        raise self._wrong(name, "a list")
