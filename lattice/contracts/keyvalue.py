"""``wasmcloud:keyvalue``: text values under text keys, counters, lists and sets.

Operations whose argument or result is a plain value (a string, a boolean, an integer, a list) use ``pack`` and the
``read_…`` functions of :mod:`lattice.wire`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lattice import wire
from lattice.wire import Fields

CONTRACT: Final = "wasmcloud:keyvalue"

GET: Final = "KeyValue.Get"
SET: Final = "KeyValue.Set"
CONTAINS: Final = "KeyValue.Contains"
DEL: Final = "KeyValue.Del"
INCREMENT: Final = "KeyValue.Increment"
LIST_ADD: Final = "KeyValue.ListAdd"
LIST_DEL: Final = "KeyValue.ListDel"
LIST_RANGE: Final = "KeyValue.ListRange"
LIST_CLEAR: Final = "KeyValue.ListClear"
SET_ADD: Final = "KeyValue.SetAdd"
SET_DEL: Final = "KeyValue.SetDel"
SET_QUERY: Final = "KeyValue.SetQuery"
SET_INTERSECTION: Final = "KeyValue.SetIntersection"
SET_UNION: Final = "KeyValue.SetUnion"
SET_CLEAR: Final = "KeyValue.SetClear"
OPERATIONS: Final = (
    GET,
    SET,
    CONTAINS,
    DEL,
    INCREMENT,
    LIST_ADD,
    LIST_DEL,
    LIST_RANGE,
    LIST_CLEAR,
    SET_ADD,
    SET_DEL,
    SET_QUERY,
    SET_INTERSECTION,
    SET_UNION,
    SET_CLEAR,
)

I32_MIN: Final = -(2**31)
I32_MAX: Final = 2**31 - 1
U32_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class GetResponse:
    value: str = ""
    exists: bool = False

    def encode(self) -> bytes:
        return wire.pack({"value": self.value, "exists": self.exists})

    @classmethod
    def decode(cls, data: bytes) -> GetResponse:
        """Raise MalformedMessage, and nothing else."""
        fields = Fields.argument("GetResponse", data)
        return cls(value=fields.text("value"), exists=fields.flag("exists"))


@dataclass(frozen=True, slots=True, kw_only=True)
class SetRequest:
    key: str
    value: str = ""
    expires: int = 0
    """Seconds; 0 means never."""

    def encode(self) -> bytes:
        return wire.pack({"key": self.key, "value": self.value, "expires": self.expires})

    @classmethod
    def decode(cls, data: bytes) -> SetRequest:
        """Raise MalformedMessage, and nothing else."""
        fields = Fields.argument("SetRequest", data)
        return cls(key=fields.text("key"), value=fields.text("value"), expires=fields.integer("expires", 0, U32_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class IncrementRequest:
    key: str
    value: int = 0
    """Signed 32 bits."""

    def encode(self) -> bytes:
        return wire.pack({"key": self.key, "value": self.value})

    @classmethod
    def decode(cls, data: bytes) -> IncrementRequest:
        """Raise MalformedMessage, and nothing else."""
        fields = Fields.argument("IncrementRequest", data)
        return cls(key=fields.text("key"), value=fields.integer("value", I32_MIN, I32_MAX))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListItem:
    """Argument of ListAdd and ListDel."""

    list_name: str
    value: str = ""

    def encode(self) -> bytes:
        return wire.pack({"listName": self.list_name, "value": self.value})

    @classmethod
    def decode(cls, data: bytes) -> ListItem:
        """Raise MalformedMessage, and nothing else."""
        fields = Fields.argument("list request", data)
        return cls(list_name=fields.text("listName"), value=fields.text("value"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRangeRequest:
    """Zero-based, both ends inclusive, negative counts from the end."""

    list_name: str
    start: int = 0
    stop: int = 0

    def encode(self) -> bytes:
        return wire.pack({"listName": self.list_name, "start": self.start, "stop": self.stop})

    @classmethod
    def decode(cls, data: bytes) -> ListRangeRequest:
        """Raise MalformedMessage, and nothing else."""
        fields = Fields.argument("ListRangeRequest", data)
        return cls(
            list_name=fields.text("listName"),
            start=fields.integer("start", I32_MIN, I32_MAX),
            stop=fields.integer("stop", I32_MIN, I32_MAX),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SetItem:
    """Argument of SetAdd and SetDel."""

    set_name: str
    value: str = ""

    def encode(self) -> bytes:
        return wire.pack({"setName": self.set_name, "value": self.value})

    @classmethod
    def decode(cls, data: bytes) -> SetItem:
        """Raise MalformedMessage, and nothing else."""
        fields = Fields.argument("set request", data)
        return cls(set_name=fields.text("setName"), value=fields.text("value"))
