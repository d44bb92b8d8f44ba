"""The engine of a host: compiles actors off the loop, keeps compiled code, runs long computations on threads."""

from __future__ import annotations

import asyncio
import hashlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from weakref import WeakValueDictionary

import structlog
import wasmtime

from lattice.errors import Code, LatticeError
from wasmhost.guest import bindings, bridge
from wasmhost.guest.cache import CompileCache
from wasmhost.guest.calls import Limits
from wasmhost.guest.instance import Instance, Parts
from wasmhost.guest.module import Module, UnusableModule, check_kind, describe
from wasmhost.guest.ticker import Ticker

log = structlog.get_logger(__name__)

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


class Engine:
    """One per process. Everything that runs guests gets it; make it with :meth:`open`, end it with :meth:`close`."""

    def __init__(self, cache_dir: Path, *, compile_threads: int, compute_threads: int) -> None:
        self._engine = bindings.new_engine()
        self._cache = CompileCache(cache_dir, self._engine)
        self._compilers = ThreadPoolExecutor(compile_threads, thread_name_prefix="wasmhost-compile")
        self._computers = ThreadPoolExecutor(compute_threads, thread_name_prefix="wasmhost-compute")
        self._ticker = Ticker(self._engine)
        self._modules: WeakValueDictionary[str, Module] = WeakValueDictionary()
        self._loading: dict[str, asyncio.Lock] = {}
        self._closed = False
        self.variant = "suspendable"
        """How guests run: ``suspendable`` = on the event loop, each on a stack of its own."""
        self.parts = Parts(
            engine=self._engine,
            ticker=self._ticker,
            trampolines=self._own_module(bridge.TRAMPOLINES),
            bridge=self._own_module(bridge.BRIDGE),
        )

    @classmethod
    def open(cls, cache_dir: Path, *, compile_threads: int = 2, compute_threads: int | None = None) -> Engine:
        """Start the engine and try it out; blocks for some milliseconds.

        ``compute_threads`` run guests that compute for more than two epoch ticks; as many as cores if not given.
        Raises EngineUnusable when the installed package behaves differently, CacheUnusable for a bad ``cache_dir``.
        """
        try:
            bindings.check()
            engine = cls(
                cache_dir, compile_threads=compile_threads, compute_threads=compute_threads or os.cpu_count() or 1
            )
            try:
                engine._probe()
            except BaseException:
                engine.close()
                raise
        except (bindings.BindingsMismatch, AttributeError, wasmtime.WasmtimeError) as error:
            raise EngineUnusable(f"this wasmtime package cannot be used: {error}; install wasmtime 50") from error
        return engine

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
        return describe(compiled, digest=digest, size=len(wasm))

    def compute(self, instance: Instance) -> Future[bool]:
        """Run a guest that computes for long on a worker thread, for one slice."""
        return self._computers.submit(instance.compute)

    def close(self) -> None:
        """End all threads. Pools are closed before; blocks until the last computing guest came to its next tick."""
        if self._closed:
            return
        self._closed = True
        self._compilers.shutdown(wait=True, cancel_futures=True)
        self._computers.shutdown(wait=True, cancel_futures=True)
        self._ticker.close()
        log.debug("engine.closed")

    def _own_module(self, text: str) -> wasmtime.Module:
        wasm = bytes(wasmtime.wat2wasm(text))
        return self._cache.load_or_compile(wasm, _sha256(wasm))

    def _probe(self) -> None:
        """One operation with a host call, on a guest of our own, before anybody depends on it."""
        module = describe(self._own_module(_PROBE), digest="probe", size=0)
        instance = Instance(self.parts, module, Limits(), log=lambda _texts, _dropped: None)
        try:
            for done in instance.steps():
                _run(instance, done)
            reply = b"x" * 300_000  # more than the mailbox holds at first
            if _run(instance, instance.invoke(b"probe", b"payload")):
                raise bindings.BindingsMismatch("a host call does not suspend the guest")
            asked = instance.host_call()
            if (asked.binding, asked.payload) != ("probe", b"payload"):
                raise bindings.BindingsMismatch("a host call did not arrive")
            instance.answer(reply)
            if not _run(instance, instance.poll()) or instance.conclude("probe") != reply:
                raise bindings.BindingsMismatch("a suspended guest was not continued")
        except LatticeError as error:
            raise bindings.BindingsMismatch(str(error)) from error
        finally:
            instance.close()


def _run(instance: Instance, done: bool) -> bool:
    while not done and not instance.wanted:  # an epoch passed
        done = instance.poll()
    return done


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
