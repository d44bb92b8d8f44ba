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


@dataclass(frozen=True, slots=True)
class Parts:
    """The compiled auxiliary modules that every instance shares."""

    trampolines: wasmtime.Module
    bridge: wasmtime.Module
    wasi_front: wasmtime.Module
    wasi: wasmtime.Module

    def wasi_functions(self) -> Mapping[str, wasmtime.FuncType]:
        """The functions of WASI preview 1 with their types."""
        return {item.name: item.type for item in self.wasi_front.exports if isinstance(item.type, wasmtime.FuncType)}


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Module:
    """Compiled code with what an instance of it needs. Shared by all instances."""

    digest: str
    """Lower-case hex SHA-256 of the wasm bytes."""
    compiled: wasmtime.Module
    imports: tuple[tuple[bytes, bytes], ...]
    """(module, name) of each function to link, all from :data:`bridge.IMPORTS`."""
    wasi_imports: tuple[tuple[bytes, bytes, bytes], ...]
    """(module, name, name in ``wasi_front.wat``) of each function of WASI; empty for an actor without WASI."""
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


def describe(compiled: wasmtime.Module, *, digest: str, size: int, wasi: Mapping[str, wasmtime.FuncType]) -> Module:
    """Check imports and exports, and note what an instance needs. Raises :class:`UnusableModule`.

    ``wasi`` is :meth:`Parts.wasi_functions`.
    """
    exports = {export.name: export.type for export in compiled.exports}
    _check_exports(exports)
    imports, wasi_imports = [], []
    for item in compiled.imports:
        if "wasi" in item.module:
            wasi_imports.append(_checked_wasi_import(item, wasi))
        else:
            imports.append(_checked_import(item))
    return Module(
        digest=digest,
        compiled=compiled,
        imports=tuple(imports),
        wasi_imports=tuple(wasi_imports),
        init_exports=tuple(name for name in bridge.INIT_EXPORTS if _is_function(exports.get(name), 0, 0)),
        version_export=next((name for name in bridge.VERSION_EXPORTS if _is_function(exports.get(name), 0, 1)), None),
        size=size,
    )


def cannot_instantiate(reason: str) -> GuestFailed:
    """The error of an actor whose module cannot be put together."""
    return GuestFailed(f"cannot be instantiated: {reason}")


def _check_exports(exports: Mapping[str, object]) -> None:
    memory = exports.get("memory")
    if not isinstance(memory, wasmtime.MemoryType) or memory.is_64 or memory.is_shared:
        raise UnusableModule("no actor: it exports no 32-bit memory named 'memory'")
    if not _is_function(exports.get("__guest_call"), 2, 1):
        raise UnusableModule("no actor: it exports no function '__guest_call' that takes two i32 and returns one")


def _checked_import(item: wasmtime.ImportType) -> tuple[bytes, bytes]:
    name = item.name or ""
    if item.module not in bridge.IMPORT_MODULES or name not in bridge.IMPORTS:
        raise UnusableModule(f"imports {item.module}.{name}, which no actor host provides")
    parameters, results = bridge.IMPORTS[name]
    if not _is_function(item.type, parameters, results):
        raise UnusableModule(
            f"imports {item.module}.{name} with another type than ({parameters} x i32) -> ({results} x i32);"
            " actors from before 2020 do"
        )
    return item.module.encode(), name.encode()


def _checked_wasi_import(
    item: wasmtime.ImportType, functions: Mapping[str, wasmtime.FuncType]
) -> tuple[bytes, bytes, bytes]:
    name = item.name or ""
    if item.module not in bridge.WASI_MODULES:
        raise UnusableModule(
            f"imports {item.module}.{name}: only WASI preview 1 is supported (wasi_snapshot_preview1, and the older"
            " wasi_unstable); build the actor for wasm32-wasi, or without WASI for wasm32-unknown-unknown",
            code=Code.UNSUPPORTED,
        )
    source = name
    if item.module != bridge.WASI_MODULES[0] and bridge.UNSTABLE + name in functions:
        source = bridge.UNSTABLE + name
    wanted = functions.get(source)
    if wanted is None:
        raise UnusableModule(f"imports {item.module}.{name}, which is not part of WASI preview 1")
    kind = item.type
    if (
        not isinstance(kind, wasmtime.FuncType)
        or list(kind.params) != list(wanted.params)
        or list(kind.results) != list(wanted.results)
    ):
        raise UnusableModule(f"imports {item.module}.{name} with another type than WASI preview 1 gives it")
    return item.module.encode(), name.encode(), source.encode()


def _is_function(kind: object, parameters: int, results: int) -> bool:
    return (
        isinstance(kind, wasmtime.FuncType)
        and len(kind.params) == parameters
        and len(kind.results) == results
        and all(value == _I32 for value in (*kind.params, *kind.results))
    )
