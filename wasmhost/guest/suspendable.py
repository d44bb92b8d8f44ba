"""Guests as coroutines: each runs on a stack of its own, on the event loop, and hands control back when it waits.

The usual variant. It needs C functions that wasmtime-py does not wrap; ``bindings.py`` has them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import wasmtime

from wasmhost.guest import bindings
from wasmhost.guest.calls import CallContext, HostCallHandler, Limits
from wasmhost.guest.driving import STRAY_TICK, Driver, no_thread_left
from wasmhost.guest.instance import MAX_TABLE_ELEMENTS, MAX_TABLES, GuestLog, Instance, MailboxFull, last_line
from wasmhost.guest.module import Module, Parts, cannot_instantiate
from wasmhost.guest.ticker import Ticker

_SLICE = 0.05
"""Seconds a worker thread gives to one guest before others get their turn."""
_TICKS_INLINE = 2
"""Epochs a guest may spend on the loop thread during one call; then it goes on in a worker thread."""
_TURN = 0.002
"""Seconds of host calls that are answered at once before others get their turn."""

# Names of this module, since each look-up counts on the path of every call.
poll, func_call, future_delete = bindings.future_poll, bindings.func_call, bindings.future_delete


class Suspendable:
    """The variant: what makes and carries on its instances. Implements :class:`wasmhost.guest.variant.Variant`."""

    name = "suspendable"
    settings = bindings.ENGINE_SETTINGS

    def __init__(self, *, compute_threads: int) -> None:
        """Raises BindingsMismatch when the installed wasmtime package is not the one this was written for."""
        bindings.check()
        self.engine = bindings.new_engine()
        self.ticker = Ticker(self.engine)
        self._computers = ThreadPoolExecutor(compute_threads, thread_name_prefix="wasmhost-compute")

    @property
    def instances(self) -> int:
        """How many instances exist that are not closed."""
        return bindings.host_functions()

    def instance(self, parts: Parts, module: Module, limits: Limits, *, log: GuestLog) -> Instance:
        """A new instance, to be made ready by its steps."""
        return SuspendableInstance(self.engine, self.ticker, parts, module, limits, log=log)

    def driver(self, host_calls: HostCallHandler, limits: Limits, *, actor: str) -> Driver:
        """What carries on the instances of one actor."""
        return SuspendableDriver(self._computers, host_calls, limits, actor=actor)

    def close(self) -> None:
        """End all threads; blocks until the last computing guest came to its next tick."""
        self._computers.shutdown(wait=True, cancel_futures=True)
        self.ticker.close()


class SuspendableInstance(Instance):
    """A store whose guest is polled: it ends, waits for the host, or comes back because an epoch passed.

    Belongs to one thread at a time.
    """

    def __init__(
        self, engine: wasmtime.Engine, ticker: Ticker, parts: Parts, module: Module, limits: Limits, *, log: GuestLog
    ) -> None:
        super().__init__(module, limits, log=log)
        self._ticker = ticker
        self._parts = parts
        self._store = bindings.store_new(bindings.address(engine), None, None)
        self._context = bindings.store_context(self._store)
        modules = 5 if module.wasi_imports else 3
        bindings.store_limiter(self._store, limits.memory, MAX_TABLE_ELEMENTS, modules, MAX_TABLES + modules // 5, 2)
        # Set before instantiation: with epochs on, a store whose deadline was never set traps at once.
        bindings.set_epoch_deadline(self._context, 1)
        bindings.epoch_yield(self._context, 1)
        self._linker = bindings.linker_new(bindings.address(engine))
        self._failure = bindings.Failure()
        self._trap_at, self._error_at = self._failure.trap_at, self._failure.error_at
        self._actor = bindings.InstanceSlot()
        self._mailbox, self._invoke, self._export = bindings.Extern(), bindings.Extern(), bindings.Extern()
        self._invoke_at = self._invoke.value
        self._version = bindings.IntegerResult()
        self._future: int | None = None
        self._host_function = 0

    # --- making an instance -------------------------------------------------------------------------------------

    @property
    def api_version(self) -> int:
        return self._version.value

    def steps(self) -> Iterator[bool]:
        try:
            yield from self._assemble()
            for name in self._module.init_exports:
                yield self._enter_export(name, None)
                self._settle(f"its export {name} failed")
            if self._module.version_export is not None:
                yield self._enter_export(self._module.version_export, self._version)
                self._settle(f"its export {self._module.version_export} failed")
        except (bindings.EngineError, MailboxFull) as error:
            self.poisoned = True
            raise cannot_instantiate(last_line(str(error))) from error

    def _assemble(self) -> Iterator[bool]:
        front, wasi_front, back = bindings.InstanceSlot(), bindings.InstanceSlot(), bindings.InstanceSlot()
        yield from self._instantiate(self._parts.trampolines, front)
        for module, name in self._module.imports:
            self._pass_on(front, name, module, name)
        if self._module.wasi_imports:
            yield from self._instantiate(self._parts.wasi_front, wasi_front)
            for module, name, source in self._module.wasi_imports:
                self._pass_on(wasi_front, source, module, name)
        yield from self._instantiate(self._module.compiled, self._actor)

        self._pass_on(front, b"table", b"trampolines", b"table")
        for name in (b"memory", b"__guest_call"):
            self._pass_on(self._actor, name, b"actor", name)
        self._host_function = bindings.define_host_function(self._linker, b"host", b"call", self)
        yield from self._instantiate(self._parts.bridge, back)
        self._find(back, b"mailbox", self._mailbox)
        self._find(back, b"invoke", self._invoke)
        if self._module.wasi_imports:
            self._pass_on(wasi_front, b"table", b"wasi", b"table")
            self._pass_on(back, b"mailbox", b"bridge", b"mailbox")
            yield from self._instantiate(self._parts.wasi, bindings.InstanceSlot())
        bindings.linker_delete(self._linker)
        self._linker = None
        self._open_mailbox()

    def _instantiate(self, module: wasmtime.Module, slot: bindings.InstanceSlot) -> Iterator[bool]:
        self._future = bindings.linker_instantiate(
            self._linker, self._context, bindings.address(module), slot.at, self._trap_at, self._error_at
        )
        yield self.poll()
        self._settle("cannot be instantiated")

    def _pass_on(self, slot: bindings.InstanceSlot, export: bytes, module: bytes, name: bytes) -> None:
        """Offer an export of one module to those that follow."""
        item = bindings.Extern()
        self._find(slot, export, item)
        bindings.check_error(
            bindings.linker_define(self._linker, self._context, module, len(module), name, len(name), item.whole)
        )

    def _find(self, slot: bindings.InstanceSlot, name: bytes, item: bindings.Extern) -> None:
        if not bindings.instance_export(self._context, slot.at, name, len(name), item.whole):
            raise bindings.EngineError(f"export {name.decode()} is missing")

    def _enter_export(self, name: str, result: bindings.IntegerResult | None) -> bool:
        self._find(self._actor, name.encode(), self._export)
        self._future = func_call(
            self._context,
            self._export.value,
            *(None, 0),
            *((None, 0) if result is None else (result.at, 1)),
            *(self._trap_at, self._error_at),
        )
        return self.poll()

    # --- one operation ------------------------------------------------------------------------------------------

    def invoke(self, operation: bytes, payload: bytes) -> bool:
        self._place(operation, payload)
        self._future = future = func_call(
            self._context, self._invoke_at, None, 0, None, 0, self._trap_at, self._error_at
        )
        ticker = self._ticker
        ticker.inline = ticker.used = True
        if ticker.asleep:
            ticker.wake()
        done: bool = poll(future)
        ticker.inline = False
        return done

    def poll(self) -> bool:
        ticker = self._ticker
        ticker.inline = ticker.used = True
        if ticker.asleep:
            ticker.wake()
        done: bool = poll(self._future)
        ticker.inline = False
        return done

    def wait(self) -> bool:
        while not self.wanted:
            if self.poll():
                return True
        return False

    def compute(self) -> bool:
        """As :meth:`poll`, on a worker thread, for a slice of 50 ms; ends early when ``interrupted``.

        If that is so already nothing is touched, since it may be closed.
        """
        end = time.monotonic() + _SLICE
        with self._ticker.computing():
            while not self.interrupted:
                if poll(self._future):
                    return True
                if self.wanted or time.monotonic() >= end:
                    break
        return False

    def called(self) -> None:
        """The guest asks the host. On the guest's stack: never raises, never waits."""
        if not self._serve_at_once():
            self.wanted = True
            self.answered = False

    def conclude(self, operation: str) -> bytes:
        future_delete(self._future)
        self._future = None
        return Instance.conclude(self, operation)

    # --- ending -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """As :meth:`Instance.close`; a suspended guest is unwound. Any thread, as long as no other one is inside."""
        if not self._store:
            return
        self.poisoned = True
        self._forget_memory()
        self._drop_future()  # before the store
        if self._linker is not None:
            bindings.linker_delete(self._linker)
            self._linker = None
        bindings.store_delete(self._store)
        self._store = None
        bindings.forget_host_function(self._host_function)
        self._failure.take()

    def _drop_future(self) -> None:
        if self._future is not None:
            future_delete(self._future)
            self._future = None

    def _take_failure(self) -> str | None:
        self._drop_future()
        return self._failure.take()

    def _mailbox_memory(self) -> tuple[int, int]:
        at = self._mailbox.value
        return bindings.memory_data(self._context, at), bindings.memory_data_size(self._context, at)

    def _grow_mailbox(self, pages: int) -> None:
        try:
            bindings.grow_memory(self._context, self._mailbox.value, pages)
        except bindings.EngineError as error:
            raise MailboxFull(str(error)) from error

    def _actor_memory(self) -> int:
        memory = bindings.Extern()
        self._find(self._actor, b"memory", memory)
        size: int = bindings.memory_data_size(self._context, memory.value)
        return size


class SuspendableDriver(Driver):
    """Polls a guest on the loop, and on worker threads once it computes for long."""

    def __init__(
        self, computers: ThreadPoolExecutor, host_calls: HostCallHandler, limits: Limits, *, actor: str
    ) -> None:
        super().__init__(host_calls, limits, actor=actor)
        self._computers = computers

    async def finish(self, instance: Instance, context: CallContext) -> None:
        assert isinstance(instance, SuspendableInstance)
        ticks = 1
        done = False
        turn = self._time()
        while not done:
            waited = instance.wanted
            if waited:
                await self._answer(instance, context)
                if self._time() - turn > _TURN:
                    await asyncio.sleep(0)  # answers may have come without waiting
                    turn = self._time()
            elif ticks < _TICKS_INLINE:
                await asyncio.sleep(0)  # others first; the caller's deadline decides when it is enough
            # Once a guest computed for long it stays on threads to the end of its call: it may do so again.
            done = await self._compute(instance) if ticks >= _TICKS_INLINE else self._poll(instance, waited)
            if not done and not instance.wanted:
                ticks += 1
                instance.flush_log()

    def _poll(self, instance: SuspendableInstance, waited: bool) -> bool:
        start = self._time()
        done = instance.poll()
        if waited and not done and not instance.wanted and self._time() - start < STRAY_TICK:
            done = instance.poll()  # the epochs that passed while it waited are not of its own doing
        return done

    async def _compute(self, instance: SuspendableInstance) -> bool:
        try:
            slice_: Future[bool] = self._computers.submit(instance.compute)
        except RuntimeError as error:
            instance.interrupted = True  # it stands in the queue of the threads all the same
            raise no_thread_left() from error
        try:
            return await asyncio.wrap_future(slice_)
        except asyncio.CancelledError:
            # A thread may be inside the guest until the next tick. Only then can the instance be closed.
            instance.interrupted = True
            instance.lent = True
            slice_.add_done_callback(lambda _: instance.close())
            raise
