"""The engine of a host: compiles actors off the loop, keeps compiled code, chooses how guests run."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal
from weakref import WeakValueDictionary

import structlog
import wasmtime

from lattice.errors import Code, LatticeError
from wasmhost.guest import bridge
from wasmhost.guest.cache import CompileCache
from wasmhost.guest.calls import HostCallHandler, Limits
from wasmhost.guest.driving import Driver
from wasmhost.guest.instance import GuestLog, Instance
from wasmhost.guest.module import Module, Parts, UnusableModule, check_kind, describe
from wasmhost.guest.threads import Threads
from wasmhost.guest.ticker import Ticker
from wasmhost.guest.variant import Variant

log = structlog.get_logger(__name__)

_PROBE_TIME = 5.0
"""Seconds."""

VariantName = Literal["suspendable", "threads"]

_PROBE = """
(module
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (import "wasmbus" "__host_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasmbus" "__host_response_len" (func $length (result i32)))
  (import "wasmbus" "__host_response" (func $take (param i32)))
  (memory (export "memory") 8)
  (func (export "__guest_call") (param i32 i32) (result i32)
    (call $request (i32.const 0) (i32.const 64))
    (drop (call $call
      (i32.const 0) (local.get 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
      (i32.const 64) (local.get 1)))
    (call $take (i32.const 128))
    (call $response (i32.const 128) (call $length))
    (i32.const 1)))
"""


class EngineUnusable(LatticeError):
    """The installed wasmtime package does not do what this host needs."""

    code = Code.UNSUPPORTED


class _ProbeFailed(Exception):
    """The probe's guest did not run as it has to."""


class Engine:
    """One per process. Everything that runs guests gets it; make it with :meth:`open`, end it with :meth:`close`."""

    def __init__(self, cache_dir: Path, variant: Variant, *, compile_threads: int) -> None:
        self._variant = variant
        self._cache = CompileCache(cache_dir, variant.engine, variant.settings)
        self._compilers = ThreadPoolExecutor(compile_threads, thread_name_prefix="wasmhost-compile")
        self._modules: WeakValueDictionary[str, Module] = WeakValueDictionary()
        self._loading: dict[str, asyncio.Lock] = {}
        self._closed = False
        self._parts = Parts(
            trampolines=self._own_module(bridge.TRAMPOLINES),
            bridge=self._own_module(bridge.BRIDGE),
            wasi_front=self._own_module(bridge.WASI_FRONT),
            wasi=self._own_module(bridge.WASI),
        )
        self._wasi = self._parts.wasi_functions()
        self.fallback = ""
        """Why guests run on threads although nobody asked for that; empty otherwise."""

    @classmethod
    def open(
        cls,
        cache_dir: Path,
        *,
        compile_threads: int = 2,
        compute_threads: int | None = None,
        variant: VariantName | None = None,
    ) -> Engine:
        """Start the engine and try it out; blocks for some milliseconds.

        ``variant`` None: suspendable guests, or threads where the installed package does not offer what those need.
        ``compute_threads`` run suspendable guests that compute for more than two epoch ticks; as many as cores if not
        given. Raises EngineUnusable when the package behaves differently, CacheUnusable for a bad ``cache_dir``.
        """
        reason = ""
        if variant != "threads":
            try:
                return cls._try(cache_dir, compile_threads, _suspendable(compute_threads or os.cpu_count() or 1))
            except EngineUnusable as error:
                if variant is not None:
                    raise
                reason = str(error)
                log.warning("engine.fallback", guests="threads", reason=reason, hint="calls cost several times as much")
        engine = cls._try(cache_dir, compile_threads, Threads)
        engine.fallback = reason
        return engine

    @classmethod
    def _try(cls, cache_dir: Path, compile_threads: int, make: Callable[[], Variant]) -> Engine:
        try:
            variant = make()
            try:
                engine = cls(cache_dir, variant, compile_threads=compile_threads)
            except BaseException:
                variant.close()
                raise
            try:
                engine._probe()
            except BaseException:
                engine.close()
                raise
        except (ImportError, AttributeError, TypeError, ValueError, wasmtime.WasmtimeError, _ProbeFailed) as error:
            raise EngineUnusable(f"this wasmtime package cannot be used: {error}; install wasmtime 50") from error
        return engine

    @property
    def variant(self) -> str:
        """How guests run: ``suspendable`` = on the event loop, each on a stack of its own; or ``threads``."""
        return self._variant.name

    @property
    def ticker(self) -> Ticker:
        return self._variant.ticker

    @property
    def instances(self) -> int:
        """How many instances of all actors exist."""
        return self._variant.instances

    def instance(self, module: Module, limits: Limits, *, log: GuestLog) -> Instance:
        """A new instance, to be made ready by its steps."""
        return self._variant.instance(self._parts, module, limits, log=log)

    def driver(self, host_calls: HostCallHandler, limits: Limits, *, actor: str) -> Driver:
        """What carries on the instances of one actor. Inside a running loop."""
        return self._variant.driver(host_calls, limits, actor=actor)

    async def load(self, wasm: bytes, digest: str | None = None) -> Module:
        """Compile an actor in a worker thread, or take it from the cache. Raises UnusableModule.

        ``digest`` is the lower-case hex SHA-256 of ``wasm``, where the caller knows it.
        """
        check_kind(wasm)
        loop = asyncio.get_running_loop()
        if digest is None:
            digest = await loop.run_in_executor(self._compilers, _sha256, wasm)
        lock = self._loading.setdefault(digest, asyncio.Lock())
        try:
            async with lock:  # two starts of one actor compile once
                loaded = self._modules.get(digest)
                if loaded is None:
                    loaded = await loop.run_in_executor(self._compilers, self._load, wasm, digest)
                    self._modules[digest] = loaded
                return loaded
        finally:
            if not lock.locked():
                self._loading.pop(digest, None)

    def _load(self, wasm: bytes, digest: str) -> Module:
        try:
            compiled = self._cache.load_or_compile(wasm, digest)
        except wasmtime.WasmtimeError as error:
            raise UnusableModule(f"this module cannot be compiled: {' '.join(str(error).split())}") from error
        return describe(compiled, digest=digest, size=len(wasm), wasi=self._wasi)

    def close(self) -> None:
        """End all threads. Pools are closed before; blocks until no thread is inside a guest."""
        if self._closed:
            return
        self._closed = True
        self._compilers.shutdown(wait=True, cancel_futures=True)
        self._variant.close()
        log.debug("engine.closed")

    def _own_module(self, text: str) -> wasmtime.Module:
        wasm = bytes(wasmtime.wat2wasm(text))
        return self._cache.load_or_compile(wasm, _sha256(wasm))

    def _probe(self) -> None:
        """One operation with a host call, on a guest of our own, before anybody depends on it."""
        module = describe(self._own_module(_PROBE), digest="probe", size=0, wasi=self._wasi)
        instance = self.instance(module, Limits(), log=lambda _texts, _dropped: None)
        try:
            instance.deadline = time.monotonic() + _PROBE_TIME
            for done in instance.steps():
                if not done and not instance.wait():
                    raise _ProbeFailed("a guest that starts waits for the host")
            reply = b"x" * 300_000  # more than the mailbox holds at first
            if instance.invoke(b"probe", b"payload") or instance.wait():
                raise _ProbeFailed("a host call does not suspend the guest")
            asked = instance.host_call()
            if (asked.binding, asked.payload) != ("probe", b"payload"):
                raise _ProbeFailed("a host call did not arrive")
            instance.answer(reply)
            if not instance.wait() or instance.conclude("probe") != reply:
                raise _ProbeFailed("a suspended guest was not continued")
        except LatticeError as error:
            raise _ProbeFailed(str(error)) from error
        finally:
            instance.close()


def _suspendable(compute_threads: int) -> Callable[[], Variant]:
    def make() -> Variant:
        try:  # a package without these C functions fails at the import already
            from wasmhost.guest.bindings import BindingsMismatch
            from wasmhost.guest.suspendable import Suspendable
        except OSError as error:
            raise _ProbeFailed(str(error)) from error
        try:
            return Suspendable(compute_threads=compute_threads)
        except BindingsMismatch as error:
            raise _ProbeFailed(str(error)) from error

    return make


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
