"""Guests on threads: the fallback for a wasmtime package without the C functions that suspend a guest.

It uses the public classes of wasmtime-py alone. A guest that waits for the host blocks its thread, while the call's own
task on the event loop fetches the answer; so deadlines, cancellation and logging context are the same in both variants.
A call costs about 70 µs more here, and a host call 50. A guest that computes for too long is stopped by a trap at its
deadline: there is no way to stop one earlier, so what is cancelled while it computes goes on until then, unheard.
"""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

import structlog
import wasmtime

from wasmhost.guest import bridge
from wasmhost.guest.calls import CallContext, HostCallHandler, Limits
from wasmhost.guest.driving import Driver, no_thread_left
from wasmhost.guest.instance import MAX_TABLE_ELEMENTS, MAX_TABLES, GuestLog, Instance, MailboxFull
from wasmhost.guest.module import Module, Parts
from wasmhost.guest.ticker import INTERVAL, Ticker

log = structlog.get_logger()

_MOST_THREADS = 4096
"""More guests than this do not run at a time. Threads start when they are needed; waiting ones are reused."""
_STACK = 8 * 2**20
"""Bytes of a thread's stack: a recursing guest uses it, and ends with a trap only if there is enough of it."""
_LONGEST = 24 * 3600.0


class Threads:
    """The variant: what makes and carries on its instances. Implements :class:`wasmhost.guest.variant.Variant`."""

    name = "threads"
    settings = "epochs"

    def __init__(self) -> None:
        config = wasmtime.Config()
        config.epoch_interruption = True
        self.engine = wasmtime.Engine(config)
        self.ticker = Ticker(self.engine)
        threading.stack_size(_STACK)
        self._threads = ThreadPoolExecutor(_MOST_THREADS, thread_name_prefix="wasmhost-guest")
        self._open: set[ThreadInstance] = set()
        self._lock = threading.Lock()

    @property
    def instances(self) -> int:
        """How many instances exist that are not closed."""
        return len(self._open)

    def instance(self, parts: Parts, module: Module, limits: Limits, *, log: GuestLog) -> Instance:
        """A new instance, to be made ready by its steps."""
        instance = ThreadInstance(self, parts, module, limits, log=log)
        with self._lock:
            self._open.add(instance)
        return instance

    def driver(self, host_calls: HostCallHandler, limits: Limits, *, actor: str) -> Driver:
        """What carries on the instances of one actor."""
        return ThreadDriver(host_calls, limits, actor=actor)

    def submit(self, work: Callable[[], None]) -> None:
        """Run on a thread that may block."""
        self._threads.submit(work)

    def gone(self, instance: ThreadInstance) -> None:
        """Forget a closed instance."""
        with self._lock:
            self._open.discard(instance)

    def close(self) -> None:
        """End all threads. A guest that still computes traps at once: its epoch deadline is made to pass."""
        with self._lock:
            left = list(self._open)
        for instance in left:
            instance.close()
        while any(instance.running for instance in left):
            for _ in range(100):
                self.engine.increment_epoch()
            time.sleep(0.001)
        self._threads.shutdown(wait=True)
        self.ticker.close()


class ThreadInstance(Instance):
    """A store whose guest runs on a thread of the pool from the start of a step to its end.

    The store is entered by one thread at a time; the loop thread looks at the mailbox only while the guest stands
    still: blocked in a host call, or not running.
    """

    def __init__(self, variant: Threads, parts: Parts, module: Module, limits: Limits, *, log: GuestLog) -> None:
        super().__init__(module, limits, log=log)
        self._variant = variant
        self._parts = parts
        self._store = wasmtime.Store(variant.engine)
        modules = 5 if module.wasi_imports else 3
        self._store.set_limits(
            memory_size=limits.memory,
            table_elements=MAX_TABLE_ELEMENTS,
            instances=modules,
            tables=MAX_TABLES + modules // 5,
            memories=2,
        )
        self._exports: Any = None
        self._mailbox: Any = None
        self._invoke: Any = None
        self._version = 0
        self._failure: str | None = None
        self._still = threading.Condition()
        self._waiter: Callable[[], None] | None = None
        self._stands = True
        self._go_on = threading.Semaphore(0)
        self._closing = False
        self._closed = False
        self.running = False
        """A thread is inside."""
        self._ticks = 0
        """Epochs after its start at which the present step traps."""

    # --- making an instance -------------------------------------------------------------------------------------

    @property
    def api_version(self) -> int:
        return self._version

    def steps(self) -> Iterator[bool]:
        yield self._start(self._assemble)
        self._settle("cannot be instantiated")
        for name in self._module.init_exports:
            yield self._start(partial(self._enter, name))
            self._settle(f"its export {name} failed")
        version = self._module.version_export
        if version is not None:
            yield self._start(lambda: setattr(self, "_version", self._enter(version)))
            self._settle(f"its export {version} failed")

    def _assemble(self) -> None:
        store, module = self._store, self._module
        linker = wasmtime.Linker(self._variant.engine)
        try:
            front = linker.instantiate(store, self._parts.trampolines).exports(store)
            for place, name in module.imports:
                linker.define(store, place.decode(), name.decode(), front[name.decode()])
            if module.wasi_imports:
                wasi_front = linker.instantiate(store, self._parts.wasi_front).exports(store)
                for place, name, source in module.wasi_imports:
                    linker.define(store, place.decode(), name.decode(), wasi_front[source.decode()])
            self._exports = linker.instantiate(store, module.compiled).exports(store)

            linker.define(store, "trampolines", "table", front["table"])
            for export in ("memory", "__guest_call"):
                linker.define(store, "actor", export, self._exports[export])
            called = wasmtime.Func(store, wasmtime.FuncType([], []), self._called)
            linker.define(store, "host", "call", called)
            back = linker.instantiate(store, self._parts.bridge).exports(store)
            self._mailbox, self._invoke = back["mailbox"], back["invoke"]
            if module.wasi_imports:
                linker.define(store, "wasi", "table", wasi_front["table"])
                linker.define(store, "bridge", "mailbox", self._mailbox)
                linker.instantiate(store, self._parts.wasi)
        finally:
            linker.close()
        self._open_mailbox()

    def _enter(self, name: str) -> int:
        result: int = self._exports[name](self._store)
        return result

    # --- one operation ------------------------------------------------------------------------------------------

    def invoke(self, operation: bytes, payload: bytes) -> bool:
        self._place(operation, payload)
        return self._start(lambda: self._invoke(self._store))

    def poll(self) -> bool:
        return not self.running

    def wait(self) -> bool:
        with self._still:
            self._still.wait_for(lambda: self._stands)
        return not self.wanted

    async def stands_still(self) -> None:
        """Return when the guest waits for the host, or its step is done."""
        loop = asyncio.get_running_loop()
        turn = loop.create_future()

        def take_turn() -> None:
            if not turn.done():
                turn.set_result(None)

        def notice() -> None:
            with suppress(RuntimeError):  # the loop has ended meanwhile
                loop.call_soon_threadsafe(take_turn)

        with self._still:
            if self._stands:
                return
            self._waiter = notice
        try:
            await turn
        finally:
            self._waiter = None

    def resume(self) -> None:
        super().resume()
        self._stands = False
        self._go_on.release()

    def _start(self, work: Callable[[], object]) -> bool:
        left = min(self.deadline - time.monotonic(), _LONGEST)
        # Later than the deadline that the caller watches: it has the better words.
        self._ticks = max(1, int(left / INTERVAL) + 3)
        self._failure = None
        self._stands = False
        self.running = True
        try:
            self._variant.submit(lambda: self._run(work))
        except RuntimeError as error:
            # It stands in the queue of the threads all the same, and must find that nobody wants it any more.
            self.poisoned = self.interrupted = self._stands = True
            self.running = False
            raise no_thread_left() from error
        return False

    def _run(self, work: Callable[[], object]) -> None:
        """On a thread of the pool."""
        try:
            if not self.interrupted:
                with self._variant.ticker.computing():
                    self._store.set_epoch_deadline(self._ticks)
                    work()
        except (wasmtime.Trap, wasmtime.WasmtimeError, MailboxFull) as error:
            self._failure = str(error)
        except BaseException as error:  # nothing may end the thread while somebody waits for it
            log.exception("guest.broke")
            self._failure = f"internal error: {error!r}"
        with self._still:
            closing = self._closing  # from here on nobody else frees it, as long as it counts as running
            self.running = closing
        if closing:
            self._free()
            self.running = False
        self._stand()

    def _called(self) -> None:
        """The guest asks the host. On its thread: never raises, as wasmtime-py has one slot for that in a process."""
        if not self._serve_at_once():
            self.wanted = True
            self._stand()
            self._go_on.acquire()
        if self.interrupted:
            self._words[bridge.GIVEN_UP] = 1

    def _stand(self) -> None:
        with self._still:
            self._stands = True
            waiter = self._waiter
            self._still.notify_all()
        if waiter is not None:
            waiter()

    # --- ending -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """As :meth:`Instance.close`. Any thread, at any time: a guest that runs is told to end, and freed then."""
        with self._still:
            self.poisoned = True
            self._closing = True
            if self.running:
                self.interrupted = True
                self._go_on.release()
                return
        self._free()

    def _free(self) -> None:
        if self._closed:
            return
        self._closed = True
        with suppress(Exception):  # a last word of the guest is worth nothing else failing
            self.flush_log(last=True)
        self._forget_memory()
        self._exports = self._mailbox = self._invoke = None
        self._store.close()
        self._variant.gone(self)

    def _take_failure(self) -> str | None:
        failure, self._failure = self._failure, None
        return failure

    def _mailbox_memory(self) -> tuple[int, int]:
        at = ctypes.cast(self._mailbox.data_ptr(self._store), ctypes.c_void_p).value or 0
        return at, self._mailbox.data_len(self._store)

    def _grow_mailbox(self, pages: int) -> None:
        try:
            self._mailbox.grow(self._store, pages)
        except wasmtime.WasmtimeError as error:
            raise MailboxFull(str(error)) from error

    def _actor_memory(self) -> int:
        memory: wasmtime.Memory = self._exports["memory"]
        return memory.data_len(self._store)


class ThreadDriver(Driver):
    """Waits for a guest that runs on a thread, and answers its host calls."""

    async def finish(self, instance: Instance, context: CallContext) -> None:
        assert isinstance(instance, ThreadInstance)
        while True:
            await instance.stands_still()
            if not instance.wanted:
                return
            await self._answer(instance, context)
