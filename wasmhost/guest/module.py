"""A compiled actor, checked against the guest ABI before anything of it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import wasmtime

from lattice.errors import Code, GuestFailed
from wasmhost.guest import bridge

CORE_MAGIC = b"\0asm\x01\0\0\0"
_I32 = wasmtime.ValType.i32()


class UnusableModule(GuestFailed):
    """The file is no actor that this host can run; the sentence says what is missing or unknown."""

    code = Code.INVALID


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Module:
    """Compiled code with what an instance of it needs. Shared by all instances."""

    digest: str
    """Lower-case hex SHA-256 of the wasm bytes."""
    compiled: wasmtime.Module
    imports: tuple[tuple[bytes, bytes], ...]
    """(module, name) of each function to link, all from :data:`bridge.IMPORTS`."""
    init_exports: tuple[str, ...]
    version_export: str | None
    size: int
    """Bytes of the wasm file."""


def check_kind(wasm: bytes) -> None:
    """Raise :class:`UnusableModule` unless ``wasm`` begins like a core module."""
    if wasm.startswith(CORE_MAGIC):
        return
    if wasm.startswith(b"\0asm"):
        raise UnusableModule(
            "this is a WebAssembly component, not a core module; components are not supported yet",
            code=Code.UNSUPPORTED,
        )
    raise UnusableModule("this is not a WebAssembly module: it does not begin with the bytes 00 61 73 6d")


def describe(compiled: wasmtime.Module, *, digest: str, size: int) -> Module:
    """Check imports and exports, and note what an instance needs. Raises :class:`UnusableModule`."""
    exports = {export.name: export.type for export in compiled.exports}
    _check_exports(exports)
    return Module(
        digest=digest,
        compiled=compiled,
        imports=tuple(_checked_import(item) for item in compiled.imports),
        init_exports=tuple(name for name in bridge.INIT_EXPORTS if _is_function(exports.get(name), 0, 0)),
        version_export=next((name for name in bridge.VERSION_EXPORTS if _is_function(exports.get(name), 0, 1)), None),
        size=size,
    )


def _check_exports(exports: Mapping[str, object]) -> None:
    memory = exports.get("memory")
    if not isinstance(memory, wasmtime.MemoryType) or memory.is_64 or memory.is_shared:
        raise UnusableModule("no actor: it exports no 32-bit memory named 'memory'")
    if not _is_function(exports.get("__guest_call"), 2, 1):
        raise UnusableModule("no actor: it exports no function '__guest_call' that takes two i32 and returns one")


def _checked_import(item: wasmtime.ImportType) -> tuple[bytes, bytes]:
    name = item.name or ""
    if "wasi" in item.module:
        raise UnusableModule(
            f"imports {item.module}: not supported yet; build the actor for wasm32-unknown-unknown",
            code=Code.UNSUPPORTED,
        )
    if item.module not in bridge.IMPORT_MODULES or name not in bridge.IMPORTS:
        raise UnusableModule(f"imports {item.module}.{name}, which no actor host provides")
    parameters, results = bridge.IMPORTS[name]
    if not _is_function(item.type, parameters, results):
        raise UnusableModule(
            f"imports {item.module}.{name} with another type than ({parameters} x i32) -> ({results} x i32);"
            " actors from before 2020 do"
        )
    return item.module.encode(), name.encode()


def _is_function(kind: object, parameters: int, results: int) -> bool:
    return (
        isinstance(kind, wasmtime.FuncType)
        and len(kind.params) == parameters
        and len(kind.results) == results
        and all(value == _I32 for value in (*kind.params, *kind.results))
    )
