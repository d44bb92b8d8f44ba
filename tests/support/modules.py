"""Small WebAssembly files made by hand, section by section."""

from __future__ import annotations

MODULE_HEADER = b"\0asm\x01\0\0\0"
COMPONENT_HEADER = b"\0asm\x0d\0\x01\0"


def leb128(value: int, width: int = 0) -> bytes:
    """``width`` bytes at least: padded as some toolchains write it."""
    out = bytearray()
    while value > 0x7F or len(out) + 1 < width:
        out.append(0x80 | value & 0x7F)
        value >>= 7
    out.append(value)
    return bytes(out)


def section(id: int, body: bytes, width: int = 0) -> bytes:
    return bytes([id]) + leb128(len(body), width) + body


def custom(name: str, body: bytes, width: int = 0) -> bytes:
    return section(0, leb128(len(name)) + name.encode() + body, width)


def module(*sections: bytes) -> bytes:
    return MODULE_HEADER + b"".join(sections)


def component(*sections: bytes) -> bytes:
    return COMPONENT_HEADER + b"".join(sections)


TYPES = section(1, b"\x01\x60\x00\x00")
FUNCTIONS = section(3, b"\x01\x00")
CODE = section(10, b"\x01\x02\x00\x0b")
SMALL = module(TYPES, FUNCTIONS, CODE)
"""A valid module with one empty function."""
PADDED = module(section(1, b"\x01\x60\x00\x00", 5), section(3, b"\x01\x00", 5), section(10, b"\x01\x02\x00\x0b", 5))
"""The same with section lengths of five bytes."""
