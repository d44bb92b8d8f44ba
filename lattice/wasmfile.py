"""The sections of a WebAssembly file, as far as claims need them: find, remove and append the token, hash the rest.

Core modules and components are walked alike; nothing is interpreted but section boundaries and the names of custom
sections. Every reader raises MalformedMessage for a file that is not well formed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from typing import Final, Literal

from lattice.errors import MalformedMessage

SECTION_NAME: Final = "wasmcloud_jwt"
"""The custom section that carries the token; files from before December 2022 call it ``jwt``."""
_CLAIMS_NAMES: Final = (b"wasmcloud_jwt", b"jwt")
_MAGIC: Final = b"\0asm"
_CUSTOM: Final = 0
_NESTED_IN_COMPONENT: Final = (1, 4)
"""Core module and component, the sections of a component that hold a whole file."""
_DEEPEST: Final = 32

Kind = Literal["module", "component"]


@dataclass(frozen=True, slots=True)
class Section:
    """One section: ``data[start:end]`` with its id and length, ``data[body:end]`` without."""

    id: int
    start: int
    body: int
    end: int


@dataclass(frozen=True, slots=True)
class ClaimsSection:
    """A custom section with claims; ``depth`` 0 is the file itself, more is a module nested in a component."""

    name: str
    token: bytes
    depth: int
    start: int
    end: int


def kind(data: bytes) -> Kind:
    """Core module or component, from bytes 4 to 8; neither claims nor file names are reliable."""
    return _kind(data, 0, len(data))


def _check_depth(depth: int) -> None:
    if depth > _DEEPEST:
        raise MalformedMessage(f"WebAssembly components are nested more than {_DEEPEST} deep")


def _kind(data: bytes, start: int, end: int) -> Kind:
    if end - start < 8 or data[start : start + 4] != _MAGIC:
        if start:
            raise MalformedMessage("a nested module does not begin with the WebAssembly magic number")
        raise MalformedMessage("not a WebAssembly file: it does not begin with the magic number \\0asm")
    layer = int.from_bytes(data[start + 6 : start + 8], "little")
    if layer == 0:
        return "module"
    if layer == 1:
        return "component"
    raise MalformedMessage(f"neither a WebAssembly module nor a component: its layer is {layer}")


def _leb128(data: bytes, at: int, end: int) -> tuple[int, int]:
    """An unsigned 32-bit number and the offset after it."""
    value = 0
    for index in range(5):
        if at + index >= end:
            raise MalformedMessage("a WebAssembly section length is cut short")
        byte = data[at + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            if value > 0xFFFF_FFFF:
                break
            return value, at + index + 1
    raise MalformedMessage("a WebAssembly section length has more than 32 bits")


def _encoded(value: int) -> bytes:
    """Shortest-form LEB128."""
    out = bytearray()
    while value > 0x7F:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def sections(data: bytes, start: int = 0, end: int | None = None) -> Iterator[Section]:
    """The top-level sections of the file at ``data[start:end]``."""
    end = len(data) if end is None else end
    _kind(data, start, end)
    at = start + 8
    while at < end:
        size, body = _leb128(data, at + 1, end)
        if size > end - body:
            raise MalformedMessage(
                f"a WebAssembly section at offset {at} claims {size} bytes where {end - body} are left"
            )
        yield Section(data[at], at, body, body + size)
        at = body + size


def _claims_name(data: bytes, section: Section) -> tuple[str, int] | None:
    """Name and payload offset of a claims section, None for any other."""
    if section.id != _CUSTOM:
        return None
    size, at = _leb128(data, section.body, section.end)
    if size > section.end - at:
        raise MalformedMessage(f"the name of the custom section at offset {section.start} overruns it")
    name = data[at : at + size]
    return (name.decode(), at + size) if name in _CLAIMS_NAMES else None


def claims_tokens(data: bytes) -> list[ClaimsSection]:
    """Every claims section of the file in order, those of nested modules included."""
    return list(_claims(data, 0, len(data), 0))


def _claims(data: bytes, start: int, end: int, depth: int) -> Iterator[ClaimsSection]:
    _check_depth(depth)
    component = _kind(data, start, end) == "component"
    for section in sections(data, start, end):
        if (claims := _claims_name(data, section)) is not None:
            name, at = claims
            yield ClaimsSection(name, data[at : section.end], depth, section.start, section.end)
        elif component and section.id in _NESTED_IN_COMPONENT:
            yield from _claims(data, section.body, section.end, depth + 1)


def strip(data: bytes) -> bytes:
    """The file without its top-level claims sections, every other byte unchanged."""
    return b"".join(_kept(data))


def _kept(data: bytes) -> Iterator[memoryview]:
    view = memoryview(data)
    at = 0
    for section in sections(data):
        if _claims_name(data, section) is not None:
            yield view[at : section.start]
            at = section.end
    yield view[at:]


def reencode(data: bytes) -> bytes:
    """The file with shortest-form section lengths and without claims at any depth: what a signer hashes."""
    return _reencoded(data, 0, len(data), 0)


def _reencoded(data: bytes, start: int, end: int, depth: int) -> bytes:
    _check_depth(depth)
    component = _kind(data, start, end) == "component"
    parts = [data[start : start + 8]]
    for section in sections(data, start, end):
        if _claims_name(data, section) is not None:
            continue
        if component and section.id in _NESTED_IN_COMPONENT:
            body = _reencoded(data, section.body, section.end, depth + 1)
        else:
            body = data[section.body : section.end]
        parts += (bytes([section.id]), _encoded(len(body)), body)
    return b"".join(parts)


def _is_canonical(data: bytes, start: int, end: int, depth: int) -> bool:
    """Whether re-encoding would change nothing but claims sections at the top."""
    _check_depth(depth)
    component = _kind(data, start, end) == "component"
    for section in sections(data, start, end):
        if section.body - section.start - 1 != len(_encoded(section.end - section.body)):
            return False
        if component and section.id in _NESTED_IN_COMPONENT:
            nested = _is_canonical(data, section.body, section.end, depth + 1)
            if not nested or any(_claims_name(data, inner) for inner in sections(data, section.body, section.end)):
                return False
    return True


def module_hashes(data: bytes) -> tuple[str, ...]:
    """The hashes that claims may name: of the file without its claims, and of its re-encoded form where that differs.

    Upper-case hex SHA-256. Both bind every byte that can influence execution.
    """
    digest = sha256()
    for part in _kept(data):
        digest.update(part)
    raw = digest.hexdigest().upper()
    if _is_canonical(data, 0, len(data), 0):
        return (raw,)
    return (raw, sha256(reencode(data)).hexdigest().upper())


def append_token(data: bytes, token: str) -> bytes:
    """The file with the token as its last section."""
    name = SECTION_NAME.encode()
    body = _encoded(len(name)) + name + token.encode("ascii")
    return data + bytes([_CUSTOM]) + _encoded(len(body)) + body
