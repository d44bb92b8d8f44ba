"""The only module that touches private parts of wasmtime-py: the C functions that its classes do not wrap.

Suspendable calls, asynchronous host functions, the yield at an epoch deadline and the setting ``concurrency_support``
exist in the C library that the package ships, not in its public classes. Here they get prototypes of our own on a
second handle of the same library, so that nothing in the package is changed; addresses travel as integers, which
costs a third of what typed pointers cost per call. Tested with wasmtime 50; :func:`check` refuses what looks different.

Rules that the callers keep, because the C side cannot check them:

- one thread at a time per store; a future may be polled on changing threads;
- a future is deleted before its store;
- once a store may yield, it is entered through asynchronous functions only.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import sys
from ctypes import CFUNCTYPE, c_bool, c_char_p, c_int64, c_size_t, c_uint8, c_uint64, c_void_p
from itertools import count
from typing import Any, Protocol

import wasmtime
from wasmtime import _bindings, _ffi

TESTED_MAJOR = 50
UNPROVEN_PYTHON = (3, 14)
"""It checks the C stack by its address, and whether callbacks on a guest's stack pass that check nobody has tried."""

_lib = ctypes.CDLL(str(_ffi.filename))


def _function(name: str, result: Any, *arguments: Any) -> Any:
    function = getattr(_lib, name)
    function.restype = result
    function.argtypes = arguments
    return function


store_new = _function("wasmtime_store_new", c_void_p, c_void_p, c_void_p, c_void_p)
store_context = _function("wasmtime_store_context", c_void_p, c_void_p)
store_delete = _function("wasmtime_store_delete", None, c_void_p)
store_limiter = _function("wasmtime_store_limiter", None, c_void_p, c_int64, c_int64, c_int64, c_int64, c_int64)
set_epoch_deadline = _function("wasmtime_context_set_epoch_deadline", None, c_void_p, c_uint64)
# Returns nothing, though the package declares an error pointer; looking at that "pointer" crashes the process.
epoch_yield = _function("wasmtime_context_epoch_deadline_async_yield_and_update", None, c_void_p, c_uint64)

linker_new = _function("wasmtime_linker_new", c_void_p, c_void_p)
linker_delete = _function("wasmtime_linker_delete", None, c_void_p)
linker_define = _function(
    "wasmtime_linker_define", c_void_p, c_void_p, c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p
)
_linker_define_async = _function(
    "wasmtime_linker_define_async_func",
    c_void_p,
    *(c_void_p, c_char_p, c_size_t, c_char_p, c_size_t, c_void_p, c_void_p, c_void_p, c_void_p),
)
linker_instantiate = _function(
    "wasmtime_linker_instantiate_async", c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p, c_void_p
)
instance_export = _function("wasmtime_instance_export_get", c_bool, c_void_p, c_void_p, c_char_p, c_size_t, c_void_p)
memory_data = _function("wasmtime_memory_data", c_void_p, c_void_p, c_void_p)
memory_data_size = _function("wasmtime_memory_data_size", c_size_t, c_void_p, c_void_p)
_memory_grow = _function("wasmtime_memory_grow", c_void_p, c_void_p, c_void_p, c_uint64, c_void_p)

func_call = _function(
    "wasmtime_func_call_async",
    c_void_p,
    *(c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p),
)
"""(context, function, arguments, count, results, count, trap slot, error slot) -> future; nothing runs yet."""
future_poll = _function("wasmtime_call_future_poll", c_bool, c_void_p)
"""Runs the guest until it ends (True) or waits for the host or an epoch (False). Releases the GIL."""
future_delete = _function("wasmtime_call_future_delete", None, c_void_p)

_trap_message = _function("wasm_trap_message", None, c_void_p, c_void_p)
_trap_delete = _function("wasm_trap_delete", None, c_void_p)
_error_message = _function("wasmtime_error_message", None, c_void_p, c_void_p)
_error_delete = _function("wasmtime_error_delete", None, c_void_p)
_byte_vec_delete = _function("wasm_byte_vec_delete", None, c_void_p)

_EXTERN_VALUE = _bindings.wasmtime_extern_t.of.offset
_EXPECTED_SIZES = {
    "wasmtime_extern_t": 32,
    "wasmtime_func_t": 16,
    "wasmtime_memory_t": 24,
    "wasmtime_instance_t": 16,
    "wasmtime_val_t": 32,
    "wasmtime_async_continuation_t": 24,
}


class BindingsMismatch(Exception):
    """The installed wasmtime package is not the one these bindings were written for."""


def check() -> None:
    """Raise :class:`BindingsMismatch` unless version and structure sizes are those this module was tested with."""
    if sys.version_info >= UNPROVEN_PYTHON:
        python = ".".join(map(str, sys.version_info[:2]))
        raise BindingsMismatch(f"guests on stacks of their own are not proven with Python {python}")
    version = importlib.metadata.version("wasmtime")
    if version.split(".", 1)[0] != str(TESTED_MAJOR):
        raise BindingsMismatch(f"wasmtime {version} is installed, {TESTED_MAJOR}.x is what this host was tested with")
    for name, size in _EXPECTED_SIZES.items():
        found = ctypes.sizeof(getattr(_bindings, name))
        if found != size:
            raise BindingsMismatch(f"wasmtime {version}: {name} has {found} bytes, expected {size}")


def new_engine() -> wasmtime.Engine:
    """An engine with epochs on, growing memories in place, without the component model's concurrency support.

    The last repairs a regression of resource borrows, and it is part of every compiled artefact, hence set at once.
    """
    config = wasmtime.Config()
    config.epoch_interruption = True
    _bindings.wasmtime_config_concurrency_support_set(config.ptr(), False)
    _bindings.wasmtime_config_memory_may_move_set(config.ptr(), False)
    return wasmtime.Engine(config)


ENGINE_SETTINGS = "epochs,no-concurrency,memory-fixed"
"""What :func:`new_engine` sets, as part of the name of a cached artefact."""


def address(managed: Any) -> int:
    """Where the C object behind an engine, module or type of the public classes is."""
    return ctypes.cast(managed.ptr(), c_void_p).value or 0


class _ByteVec(ctypes.Structure):
    _fields_ = (("size", c_size_t), ("data", ctypes.POINTER(c_uint8)))


def _take_text(fill: Any, delete: Any, pointer: int) -> str:
    vec = _ByteVec()
    fill(pointer, ctypes.addressof(vec))
    text = ctypes.string_at(vec.data, vec.size) if vec.size else b""
    _byte_vec_delete(ctypes.addressof(vec))
    delete(pointer)
    return text.rstrip(b"\0").decode("utf-8", "replace")


def take_trap(pointer: int) -> str:
    """The text of a trap, several lines with a backtrace; the trap is freed."""
    return _take_text(_trap_message, _trap_delete, pointer)


def take_error(pointer: int) -> str:
    """The text of an error, freed with it."""
    return _take_text(_error_message, _error_delete, pointer)


class EngineError(Exception):
    """The engine refused an operation; the text is its own."""


def check_error(pointer: int | None) -> None:
    """Raise :class:`EngineError` if a C function returned an error."""
    if pointer:
        raise EngineError(take_error(pointer))


class Extern:
    """A slot for an exported item; ``whole`` is what linkers take, ``value`` what functions and memories take."""

    __slots__ = ("_struct", "value", "whole")

    def __init__(self) -> None:
        self._struct = _bindings.wasmtime_extern_t()
        self.whole = ctypes.addressof(self._struct)
        self.value = self.whole + _EXTERN_VALUE


class InstanceSlot:
    """A slot for an instance that is being made."""

    __slots__ = ("_struct", "at")

    def __init__(self) -> None:
        self._struct = _bindings.wasmtime_instance_t()
        self.at = ctypes.addressof(self._struct)


class IntegerResult:
    """A slot for the one ``i32`` that a called function returns."""

    __slots__ = ("_struct", "at")

    def __init__(self) -> None:
        self._struct = _bindings.wasmtime_val_t()
        self.at = ctypes.addressof(self._struct)

    @property
    def value(self) -> int:
        return int(self._struct.of.i32)


class Failure:
    """Slots for the trap and the error that the C side may set when a guest was entered."""

    __slots__ = ("_pair", "error_at", "trap_at")

    def __init__(self) -> None:
        pair = (c_uint64 * 2)()
        self.trap_at = ctypes.addressof(pair)
        self.error_at = self.trap_at + 8
        self._pair = memoryview(pair).cast("B").cast("Q")

    def take(self) -> str | None:
        """The text of what was put there since the last call, which is freed; None if all went well."""
        pair = self._pair
        trap, error = pair[0], pair[1]
        if not trap and not error:
            return None
        pair[0] = pair[1] = 0
        texts = [take_trap(trap)] if trap else []
        if error:
            texts.append(take_error(error))
        return texts[0]


def grow_memory(context: int, memory: int, pages: int) -> None:
    """Add pages of 64 KiB. Only while no call is under way in the store. Raises EngineError at the limit."""
    before = c_uint64()
    check_error(_memory_grow(context, memory, pages, ctypes.addressof(before)))


class HostFunction(Protocol):
    """Who answers the host function of one store. Called on the guest's stack: never raises, never waits."""

    answered: bool
    """The guest may go on."""

    def called(self) -> None:
        """The guest calls; it goes on at the first poll that finds ``answered``."""


_targets: dict[int, HostFunction] = {}
_numbers = count(1)


def _may_continue(number: int) -> bool:
    target = _targets.get(number)
    return target is None or target.answered


def _host_called(
    number: int,
    _caller: int,
    _arguments: int,
    _argument_count: int,
    _results: int,
    _result_count: int,
    _trap: int,
    continuation: int,
) -> None:
    # First of all: what the engine finds here it calls, whatever happens below. An exception would be lost on this
    # foreign stack or surface in another guest.
    record = (c_void_p * 3).from_address(continuation)
    record[0], record[1], record[2] = _may_continue_at, number, None
    target = _targets.get(number)
    if target is not None:
        target.called()


_continuation_callback = CFUNCTYPE(c_bool, c_void_p)(_may_continue)
_may_continue_at = ctypes.cast(_continuation_callback, c_void_p).value
_host_callback = CFUNCTYPE(None, c_void_p, c_void_p, c_void_p, c_size_t, c_void_p, c_size_t, c_void_p, c_void_p)(
    _host_called
)
_host_called_at = ctypes.cast(_host_callback, c_void_p).value


def define_host_function(linker: int, module: bytes, name: bytes, target: HostFunction) -> int:
    """Define a function without parameters that suspends the guest until ``target.answered``.

    Returns a number for :func:`forget_host_function`; until then ``target`` is kept alive from here.
    """
    number = next(_numbers)
    _targets[number] = target
    # a new one each time: a type belongs to the first engine that sees it, and another engine aborts the process
    no_parameters = wasmtime.FuncType([], [])
    try:
        check_error(
            _linker_define_async(
                linker,
                *(module, len(module), name, len(name)),
                address(no_parameters),
                *(_host_called_at, number, None),
            )
        )
    except EngineError:
        del _targets[number]
        raise
    return number


def forget_host_function(number: int) -> None:
    """Undo :func:`define_host_function` once its store is gone."""
    _targets.pop(number, None)


def host_functions() -> int:
    """How many stores have a host function now: one per instance that is not closed."""
    return len(_targets)
