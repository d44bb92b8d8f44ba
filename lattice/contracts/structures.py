"""Contract types that are declared once and travel in every form: msgpack, and CBOR in both of its dialects.

A structure is a frozen dataclass::

    @dataclass(frozen=True, slots=True, kw_only=True)
    class ContainerObject(Structure):
        container_id: str = ""
        object_id: str = ""

The order of its fields is that of the member numbers, the name on the wire is the field in camelCase (``bytes_`` for
``bytes``). Field types:
``str``, ``bytes``, ``bool``, ``float``, the integers below, :class:`Timestamp`, other structures, unions, lists as
``tuple[X, ...]``, maps as ``Mapping[str, X]``; ``X | None`` may be absent. A field without a default must be there.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, ClassVar, Final, Self

from lattice import cbor, wire
from lattice.contracts.forms import Form
from lattice.errors import MalformedMessage


@dataclass(frozen=True, slots=True)
class Width:
    """The integers that a type holds."""

    low: int
    high: int


U8 = Annotated[int, Width(0, 2**8 - 1)]
U32 = Annotated[int, Width(0, 2**32 - 1)]
U64 = Annotated[int, Width(0, 2**64 - 1)]
I64 = Annotated[int, Width(-(2**63), 2**63 - 1)]

_ANY_WIDTH: Final = Width(-(2**63), 2**64 - 1)


class Shape(ABC):
    """How values of one type travel."""

    @abstractmethod
    def of(self, what: str, raw: object) -> Any:
        """The value of what was unpacked raw. ``what`` names it in errors."""

    def read(self, what: str, reader: cbor.Reader) -> Any:
        """The value that comes next in CBOR."""
        return self.of(what, reader.value())

    def named(self, value: Any) -> object:
        """``value`` for packing, structures as maps."""
        return value

    def positional(self, value: Any) -> object:
        """``value`` for packing, structures as arrays."""
        return self.named(value)


def read_as(what: str, shape: Shape, data: bytes) -> tuple[Any, Form]:
    """A value and the form in which it came. Raises MalformedMessage, and nothing else."""
    if wire.is_cbor(data):
        return _read_cbor(what, shape, data[1:]), Form.PREFIXED_CBOR
    try:
        return shape.of(what, wire.unpack_raw(what, wire.unprefixed(data))), Form.MSGPACK
    except MalformedMessage as as_msgpack:
        try:
            return _read_cbor(what, shape, data), Form.BARE_CBOR
        except MalformedMessage:
            raise as_msgpack from None  # it is what nearly everybody speaks


def _read_cbor(what: str, shape: Shape, data: bytes) -> Any:
    reader = cbor.Reader(what, data)
    value = shape.read(what, reader)
    reader.end()
    return value


def write_as(shape: Shape, value: Any, form: Form) -> bytes:
    """``value`` in ``form``."""
    match form:
        case Form.MSGPACK:
            return wire.pack(shape.named(value))
        case Form.BARE_CBOR:
            return cbor.pack(shape.named(value))
        case Form.PREFIXED_CBOR:
            return b"\x7f" + cbor.pack(shape.positional(value))


class Structure:
    """Base of contract types. Unknown members are ignored, absent ones and null take the default of their field."""

    __slots__ = ()

    def encode(self, form: Form = Form.MSGPACK) -> bytes:
        return write_as(shape_of(type(self)), self, form)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """In whatever form it came. Raises MalformedMessage, and nothing else."""
        value: Self = read_as(cls.__name__, shape_of(cls), data)[0]
        return value


class Union:
    """Base of a choice between variants: a subclass names their types in the order of ``numbers``.

    In msgpack a map of one variant name to its content, or the bare name of one without content; in CBOR an array of
    its number and its content.
    """

    __slots__ = ("content", "variant")

    variants: ClassVar[Mapping[str, tuple[int, Any]]]
    """Name to member number and type of the content; None is the type of a variant without any."""

    def __init__(self, variant: str, content: Any = None) -> None:
        if variant not in self.variants:
            raise ValueError(f"{type(self).__name__} has no variant {variant}")
        self.variant = variant
        self.content = content

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Union)
            and type(other) is type(self)
            and (self.variant, self.content) == (other.variant, other.content)
        )

    def __hash__(self) -> int:
        return hash((type(self), self.variant))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.variant!r}, {self.content!r})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamp(Structure):
    """A moment, UTC."""

    sec: I64 = 0
    """Seconds since the epoch."""
    nsec: U32 = 0


# --- shapes


class _Plain(Shape):
    """A value that is the same in all forms."""

    def __init__(self, of: Callable[[str, object], Any]) -> None:
        self._of = of

    def of(self, what: str, raw: object) -> Any:
        return self._of(what, raw)


def _flag(what: str, raw: object) -> bool:
    if isinstance(raw, bool):
        return raw
    raise MalformedMessage(f"{what} is {wire.kind(raw)}, not a boolean")


def _number(what: str, raw: object) -> float:
    if isinstance(raw, int | float) and not isinstance(raw, bool):
        return float(raw)
    raise MalformedMessage(f"{what} is {wire.kind(raw)}, not a number")


class _Optional(Shape):
    def __init__(self, inner: Shape) -> None:
        self._inner = inner

    def of(self, what: str, raw: object) -> Any:
        return None if raw is None else self._inner.of(what, raw)

    def read(self, what: str, reader: cbor.Reader) -> Any:
        return None if reader.null() else self._inner.read(what, reader)

    def named(self, value: Any) -> object:
        return None if value is None else self._inner.named(value)

    def positional(self, value: Any) -> object:
        return None if value is None else self._inner.positional(value)


class _List(Shape):
    def __init__(self, item: Shape, make: Callable[[list[Any]], Any]) -> None:
        self._item = item
        self._make = make

    def of(self, what: str, raw: object) -> Any:
        if isinstance(raw, list):
            return self._make([self._item.of(f"{what}: an item", item) for item in raw])
        raise MalformedMessage(f"{what} is {wire.kind(raw)}, not a list")

    def read(self, what: str, reader: cbor.Reader) -> Any:
        return self._make([self._item.read(f"{what}: an item", reader) for _ in reader.items()])

    def named(self, value: Any) -> object:
        return [self._item.named(item) for item in value]

    def positional(self, value: Any) -> object:
        return [self._item.positional(item) for item in value]


class _Map(Shape):
    def __init__(self, item: Shape) -> None:
        self._item = item

    def of(self, what: str, raw: object) -> Any:
        if isinstance(raw, dict):
            return {wire.text_of(f"{what}: a key", key): self._item.of(what, item) for key, item in raw.items()}
        raise MalformedMessage(f"{what} is {wire.kind(raw)}, not a map")

    def named(self, value: Any) -> object:
        return {key: self._item.named(item) for key, item in value.items()}

    def positional(self, value: Any) -> object:
        return {key: self._item.positional(item) for key, item in value.items()}


@dataclass(frozen=True, slots=True)
class _Member:
    field: str
    name: str
    shape: Shape
    required: bool


class _Structure(Shape):
    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls
        hints = typing.get_type_hints(cls, include_extras=True)
        self._members = [
            _Member(
                field.name,
                _camel_case(field.name),
                shape_of(hints[field.name]),
                field.default is MISSING and field.default_factory is MISSING,
            )
            for field in dataclasses.fields(cls)
        ]

    def of(self, what: str, raw: object) -> Any:
        if isinstance(raw, list):
            return self._make(what, dict(zip([member.name for member in self._members], raw, strict=False)))
        if not isinstance(raw, dict):
            raise MalformedMessage(f"{what} is {wire.kind(raw)}, not a map")
        return self._make(what, {wire.text_of(f"{what}: a key", key): item for key, item in raw.items()})

    def _make(self, what: str, found: Mapping[str, object]) -> Any:
        values = {}
        for member in self._members:
            raw = found.get(member.name)
            if raw is not None:
                values[member.field] = member.shape.of(f"{what}: {member.name}", raw)
            elif member.required:
                raise MalformedMessage(f"{what}: {member.name} is missing")
        return self._cls(**values)

    def read(self, what: str, reader: cbor.Reader) -> Any:
        if not reader.is_array():
            return self.of(what, reader.value())
        values = {}
        for index in reader.items():
            if index >= len(self._members):
                reader.value()  # a member of a later version
                continue
            member = self._members[index]
            if not reader.null():
                values[member.field] = member.shape.read(f"{what}: {member.name}", reader)
        for member in self._members:
            if member.required and member.field not in values:
                raise MalformedMessage(f"{what}: {member.name} is missing")
        return self._cls(**values)

    def named(self, value: Any) -> object:
        return {
            member.name: member.shape.named(content)
            for member in self._members
            if (content := getattr(value, member.field)) is not None
        }

    def positional(self, value: Any) -> object:
        return [
            None if (content := getattr(value, member.field)) is None else member.shape.positional(content)
            for member in self._members
        ]


class _Timestamp(_Structure):
    """Two items for one in the arrays of the Rust generator; a map in everything else, which older TinyGo writes with
    capital letters."""

    def of(self, what: str, raw: object) -> Any:
        if isinstance(raw, dict):
            raw = {key.lower() if isinstance(key, bytes) else key: item for key, item in raw.items()}
        return super().of(what, raw)

    def read(self, what: str, reader: cbor.Reader) -> Any:
        first = reader.value()
        return self.of(what, [first, reader.value()] if isinstance(first, int) else first)

    def positional(self, value: Any) -> object:
        return cbor.Uncounted((value.sec, value.nsec))


class _Union(Shape):
    def __init__(self, cls: type[Any]) -> None:
        self._cls = cls
        self._shapes = {
            name: None if content is None else shape_of(content) for name, (_, content) in cls.variants.items()
        }
        self._numbers = {number: name for name, (number, _) in cls.variants.items()}

    def of(self, what: str, raw: object) -> Any:
        if isinstance(raw, bytes):
            return self._make(what, wire.text_of(what, raw), None)
        if isinstance(raw, dict) and len(raw) == 1:
            [(name, content)] = raw.items()
            return self._make(what, wire.text_of(f"{what}: a key", name), content)
        raise MalformedMessage(f"{what} is {wire.kind(raw)}, not one variant of a union")

    def _make(self, what: str, name: str, raw: object) -> Any:
        if name not in self._shapes:
            name = name[:1].lower() + name[1:]  # serde writes the name of the Rust variant
        if name not in self._shapes:
            raise MalformedMessage(f"{what}: {name[:60]!r} is no variant of it")
        shape = self._shapes[name]
        return self._cls(name, None if shape is None else shape.of(f"{what}: {name}", raw))

    def read(self, what: str, reader: cbor.Reader) -> Any:
        if not reader.is_array():
            return self.of(what, reader.value())
        name, content = "", None
        for index in reader.items():
            if index == 0:
                number = reader.value()
                name = self._numbers.get(number, "") if isinstance(number, int) else ""
                if not name:
                    raise MalformedMessage(f"{what} is no variant of a union")
            elif index == 1 and (shape := self._shapes[name]) is not None:
                content = shape.read(f"{what}: {name}", reader)
            else:
                reader.value()
        if not name or (content is None and self._shapes[name] is not None):
            raise MalformedMessage(f"{what}: the content of a union is missing")
        return self._cls(name, content)

    def named(self, value: Any) -> object:
        shape = self._shapes[value.variant]
        return value.variant if shape is None else {value.variant: shape.named(value.content)}

    def positional(self, value: Any) -> object:
        shape = self._shapes[value.variant]
        return [self._cls.variants[value.variant][0], None if shape is None else shape.positional(value.content)]


_TEXT: Final = _Plain(wire.text_of)
_OCTETS: Final = _Plain(wire.octets_of)
_FLAG: Final = _Plain(_flag)
_NUMBER: Final = _Plain(_number)


def shape_of(annotation: Any) -> Shape:
    """How values of a type travel. TypeError for one that contracts do not have."""
    return _shape_of(annotation)


@functools.cache
def _shape_of(annotation: Any) -> Shape:
    simple = {str: _TEXT, bytes: _OCTETS, bool: _FLAG, float: _NUMBER}.get(annotation)
    if simple is not None:
        return simple
    if annotation is int:
        return _integer(_ANY_WIDTH)
    if isinstance(annotation, type) and issubclass(annotation, Structure):
        return _Timestamp(annotation) if annotation is Timestamp else _Structure(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Union):
        return _Union(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Annotated and isinstance(arguments[1], Width):
        return _integer(arguments[1])
    if origin in (types.UnionType, typing.Union) and len(arguments) == 2 and arguments[1] is types.NoneType:
        return _Optional(shape_of(arguments[0]))
    if origin is tuple and len(arguments) == 2 and arguments[1] is ...:
        return _List(shape_of(arguments[0]), tuple)
    if origin is list and len(arguments) == 1:
        return _List(shape_of(arguments[0]), list)
    if isinstance(origin, type) and issubclass(origin, Mapping) and len(arguments) == 2 and arguments[0] is str:
        return _Map(shape_of(arguments[1]))
    raise TypeError(f"no form on the wire for {annotation}")


def _integer(width: Width) -> Shape:
    return _Plain(lambda what, raw: wire.integer_of(what, raw, width.low, width.high))


def _camel_case(name: str) -> str:
    first, *others = name.rstrip("_").split("_")
    return first + "".join(other.capitalize() for other in others)
