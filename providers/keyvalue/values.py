"""What the operations do to one stored value, as pure functions.

A key holds text, a list or a set, with an optional time of expiry; :mod:`providers.keyvalue.store` has the semantics.
Layout of a stored value, a msgpack map: ``{"text": str}``, ``{"list": [str]}`` or ``{"set": [str]}`` (sorted), with
``"expires"`` (milliseconds since the epoch) where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from lattice import wire
from lattice.contracts.keyvalue import I32_MAX, I32_MIN
from lattice.errors import Code, LatticeError, MalformedMessage
from providers.keyvalue.store import NotACounter, shown


class WrongKind(LatticeError):
    """The key holds another kind of value than the operation works on."""

    code = Code.CONFLICT
    confidential = True


Content = str | tuple[str, ...] | frozenset[str]


@dataclass(frozen=True, slots=True)
class Value:
    """Text, a list (tuple) or a set (frozenset), and when it ends."""

    content: Content
    expires: int = 0
    """Milliseconds since the epoch; 0 = never."""

    def encode(self) -> bytes:
        match self.content:
            case str():
                members: dict[str, object] = {"text": self.content}
            case tuple():
                members = {"list": self.content}
            case _:
                members = {"set": sorted(self.content)}
        if self.expires:
            members["expires"] = self.expires
        return wire.pack(members)

    @classmethod
    def decode(cls, data: bytes) -> Value:
        """Raises MalformedMessage: the bucket holds something else than this provider's values."""
        fields = wire.Fields.unpack("stored value", data)
        expires = fields.count("expires")
        if (text := fields.optional_text("text")) is not None:
            return cls(text, expires)
        if "list" in fields:
            return cls(fields.texts("list"), expires)
        if "set" in fields:
            return cls(frozenset(fields.texts("set")), expires)
        raise MalformedMessage("stored value: none of text, list and set is there")

    def ended(self, now: float) -> bool:
        """True when its expiry is over at ``now`` (seconds since the epoch)."""
        return bool(self.expires) and self.expires <= now * 1000


Stored = Value | None
"""What a key holds; None: nothing, or something that expired."""

Result = TypeVar("Result")
Change = tuple[Stored, Result]
"""The value afterwards (the same object when nothing changes) and the answer."""


def text(stored: Stored, key: str) -> str | None:
    if stored is None:
        return None
    if isinstance(stored.content, str):
        return stored.content
    raise _wrong_kind(stored, key, "text")


def items(stored: Stored, key: str) -> tuple[str, ...]:
    if stored is None:
        return ()
    if isinstance(stored.content, tuple):
        return stored.content
    raise _wrong_kind(stored, key, "a list")


def members(stored: Stored, key: str) -> frozenset[str]:
    if stored is None:
        return frozenset()
    if isinstance(stored.content, frozenset):
        return stored.content
    raise _wrong_kind(stored, key, "a set")


def set_text(value: str, expires: int, now: float) -> Value:
    """``expires`` in seconds from ``now``; 0 = never, which also lifts an earlier expiry."""
    return Value(value, int(now * 1000) + expires * 1000 if expires else 0)


def increment(stored: Stored, key: str, amount: int) -> Change[int]:
    """Raises NotACounter before anything is stored."""
    current = text(stored, key)
    number = 0 if current is None else _integer(current, key)
    total = number + amount
    if not I32_MIN <= total <= I32_MAX:
        raise NotACounter.beyond(key, amount)
    return Value(str(total), stored.expires if stored else 0), total


def list_add(stored: Stored, key: str, value: str) -> Change[int]:
    after = (*items(stored, key), value)
    return _with(stored, after), len(after)


def list_del(stored: Stored, key: str, value: str) -> Change[bool]:
    """Removes the first occurrence."""
    before = items(stored, key)
    if value not in before:
        return stored, False
    at = before.index(value)
    return _with(stored, before[:at] + before[at + 1 :]), True


def list_range(stored: Stored, key: str, start: int, stop: int) -> Sequence[str]:
    """Both ends inclusive; negative numbers count from the end."""
    everything = items(stored, key)
    size = len(everything)
    first = max(0, start + size if start < 0 else start)
    last = stop + size if stop < 0 else stop
    return everything[first : last + 1] if last >= first else ()


def list_clear(stored: Stored, key: str) -> Change[bool]:
    return None, bool(items(stored, key))


def set_add(stored: Stored, key: str, value: str) -> Change[int]:
    before = members(stored, key)
    return (stored, 0) if value in before else (_with(stored, before | {value}), 1)


def set_del(stored: Stored, key: str, value: str) -> Change[int]:
    before = members(stored, key)
    return (_with(stored, before - {value}), 1) if value in before else (stored, 0)


def set_clear(stored: Stored, key: str) -> Change[bool]:
    return None, bool(members(stored, key))


def _with(stored: Stored, content: Content) -> Stored:
    if not content:
        return None
    return Value(content, stored.expires if stored else 0)


def _wrong_kind(stored: Value, key: str, wanted: str) -> WrongKind:
    held = {str: "text", tuple: "a list"}.get(type(stored.content), "a set")
    return WrongKind(f"key {shown(key)} holds {held}, not {wanted}")


def _integer(text: str, key: str) -> int:
    """What Redis takes for one; ``int()`` alone is generous (spaces, underscores, leading zeros, other scripts)."""
    if len(text) <= 20 and text.isascii() and text.removeprefix("-").isdecimal():
        number = int(text)
        if str(number) == text:
            return number
    raise NotACounter(f"key {shown(key)} holds a text that is not an integer")
