"""One instance of an actor: a store with the three modules, entered by one call at a time."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

import wasmtime

from lattice.errors import Code, GuestError, GuestFailed, TooLarge
from wasmhost.guest import bindings, bridge
from wasmhost.guest.bridge import ERROR, GIVEN, HOST_LENGTHS, LENGTH, PAGE, REFUSED, RESPONSE, WHERE
from wasmhost.guest.calls import HostCall, Limits
from wasmhost.guest.module import Module
from wasmhost.guest.ticker import Ticker

_LENGTHS = struct.Struct("<II")
_HEAD = _LENGTHS.size
_SLICE = 0.05
"""Seconds a worker thread gives to one guest before others get their turn."""
_MAX_TABLE_ELEMENTS = 100_000
_MAX_TABLES = 4
"""Tables are outside the memory limit: 8 bytes per element. Compilers make one, of hundreds of elements."""

GuestLog = Callable[[list[bytes], int], None]
"""Takes the texts a guest logged and the number of bytes that were dropped."""

# Names of this module, since each look-up counts on the path of every call.
poll, func_call, future_delete = bindings.future_poll, bindings.func_call, bindings.future_delete
_PLAIN, _RESPONSE_WHERE, _RESPONSE_LENGTH = bridge.PLAIN, RESPONSE + WHERE, RESPONSE + LENGTH


@dataclass(frozen=True, slots=True)
class Parts:
    """What every instance shares: the engine, its ticker and the two compiled auxiliary modules."""

    engine: wasmtime.Engine
    ticker: Ticker
    trampolines: wasmtime.Module
    bridge: wasmtime.Module


class Instance:
    """A store that runs one actor. Each step is started, then polled until it is done, then concluded.

    Belongs to one thread at a time. After a trap, a deadline, a cancelled call or an error it is ``poisoned`` and only
    :meth:`close` may follow: the guest's own executor is left in the middle of something (seen with real actors).
    """

    def __init__(self, parts: Parts, module: Module, limits: Limits, *, log: GuestLog) -> None:
        self._module = module
        self._limits = limits
        self._log = log
        self._ticker = parts.ticker
        self._parts = parts
        self._store = bindings.store_new(bindings.address(parts.engine), None, None)
        self._context = bindings.store_context(self._store)
        bindings.store_limiter(self._store, limits.memory, _MAX_TABLE_ELEMENTS, 3, _MAX_TABLES, 2)
        # Set before instantiation: with epochs on, a store whose deadline was never set traps at once.
        bindings.set_epoch_deadline(self._context, 1)
        bindings.epoch_yield(self._context, 1)
        self._linker = bindings.linker_new(bindings.address(parts.engine))
        self._failure = bindings.Failure()
        self._trap_at, self._error_at = self._failure.trap_at, self._failure.error_at
        self._actor = bindings.InstanceSlot()
        self._mailbox, self._invoke, self._export = bindings.Extern(), bindings.Extern(), bindings.Extern()
        self._invoke_at = self._invoke.value
        self._version = bindings.IntegerResult()
        self._future: int | None = None
        self._host_function = 0
        self._reply = b""
        self._base = 0
        self._size = 0
        self._words = memoryview(b"")
        self._bytes = memoryview(b"")
        self._retained_pages = limits.retain_memory // PAGE
        self._request_at = 0
        self._logged = 0
        self._dropped = 0
        self.wanted = False
        """The guest waits for the answer to a host call."""
        self.answered = True
        self.poisoned = False
        self.interrupted = False
        """Set from the loop thread to end :meth:`compute` at the next tick."""
        self.lent = False
        """A worker thread may still be inside; whoever lent it closes it."""
        self.oversized = False
        """Its memory or its mailbox grew above what an idle instance may keep."""

    # --- making an instance -------------------------------------------------------------------------------------

    @property
    def api_version(self) -> int:
        """What the actor's version export returned; 0 if it has none."""
        return self._version.value

    def steps(self) -> Iterator[bool]:
        """Make the instance ready. Each item tells whether the step just started is done; if not, poll until it is.

        Raises GuestFailed when the module cannot be instantiated or one of its init exports traps.
        """
        try:
            yield from self._assemble()
            for name in self._module.init_exports:
                yield self._enter_export(name, None)
                self._settle(f"its export {name} failed")
            if self._module.version_export is not None:
                yield self._enter_export(self._module.version_export, self._version)
                self._settle(f"its export {self._module.version_export} failed")
        except bindings.EngineError as error:
            self.poisoned = True
            raise GuestFailed(f"cannot be instantiated: {last_line(str(error))}") from error

    def _assemble(self) -> Iterator[bool]:
        trampolines = bindings.InstanceSlot()
        yield self._instantiate(self._parts.trampolines, trampolines)
        self._settle("cannot be instantiated")
        item = bindings.Extern()
        for module, name in self._module.imports:
            self._find(trampolines, name, item)
            self._define(module, name, item)
        yield self._instantiate(self._module.compiled, self._actor)
        self._settle("cannot be instantiated")

        self._find(trampolines, b"table", item)
        self._define(b"trampolines", b"table", item)
        for name in (b"memory", b"__guest_call"):
            self._find(self._actor, name, item)
            self._define(b"actor", name, item)
        self._host_function = bindings.define_host_function(self._linker, b"host", b"call", self)
        bridge_slot = bindings.InstanceSlot()
        yield self._instantiate(self._parts.bridge, bridge_slot)
        self._settle("cannot be instantiated")
        self._find(bridge_slot, b"mailbox", self._mailbox)
        self._find(bridge_slot, b"invoke", self._invoke)
        bindings.linker_delete(self._linker)
        self._linker = None
        self._open_mailbox()

    def _open_mailbox(self) -> None:
        # The engine is set never to move a memory, so this address holds for the life of the store.
        self._base = bindings.memory_data(self._context, self._mailbox.value)
        self._words = bindings.words_at(self._base, bridge.HEADER_WORDS)
        self._view()
        capacity = self._limits.log_bytes_per_call // bridge.LOG_RECORD * bridge.LOG_RECORD
        request = bridge.LOG + capacity
        self._reserve(request + _HEAD)
        self._words[bridge.BOX_PAGES] = self._size // PAGE
        self._words[bridge.LOG_CAPACITY] = capacity
        self._words[bridge.REQUEST] = request
        self._words[bridge.REPLY_LIMIT] = min(self._limits.reply, 0xFFFF_FFFF)
        self._words[bridge.HOST_CALL_LIMIT] = min(self._limits.request, 0xFFFF_FFFF)
        self._words[bridge.NEXT_FREE] = request + _HEAD  # init exports come before any request
        self._words[bridge.RETAINED_PAGES] = self._retained_pages
        self._request_at = request
        self._room = self._size - request - _HEAD

    def _instantiate(self, module: wasmtime.Module, slot: bindings.InstanceSlot) -> bool:
        self._future = bindings.linker_instantiate(
            self._linker, self._context, bindings.address(module), slot.at, self._trap_at, self._error_at
        )
        return self.poll()

    def _find(self, slot: bindings.InstanceSlot, name: bytes, item: bindings.Extern) -> None:
        if not bindings.instance_export(self._context, slot.at, name, len(name), item.whole):
            raise bindings.EngineError(f"export {name.decode()} is missing")

    def _define(self, module: bytes, name: bytes, item: bindings.Extern) -> None:
        bindings.check_error(
            bindings.linker_define(self._linker, self._context, module, len(module), name, len(name), item.whole)
        )

    def _enter_export(self, name: str, result: bindings.IntegerResult | None) -> bool:
        self._find(self._actor, name.encode(), self._export)
        self._future = bindings.func_call(
            self._context,
            self._export.value,
            *(None, 0),
            *((None, 0) if result is None else (result.at, 1)),
            *(self._trap_at, self._error_at),
        )
        return self.poll()

    def _settle(self, failure: str) -> None:
        """End a step that is done; raise GuestFailed if it trapped."""
        self._drop_future()
        self.flush_log()
        self._logged = self._dropped = 0
        if self._words:
            self._words[bridge.LOG_USED] = self._words[bridge.LOG_DROPPED] = 0
        text = self._failure.take()
        if text is not None:
            self.poisoned = True
            raise GuestFailed(f"{failure}: {last_line(text)}")

    # --- one operation ------------------------------------------------------------------------------------------

    def invoke(self, operation: bytes, payload: bytes) -> bool:
        """Start an operation and run it until it ends or waits; tells whether it is done.

        Raises TooLarge, without entering the guest, if the request cannot be placed.
        """
        length, total = len(operation), len(operation) + len(payload)
        if total > self._room:
            self._make_room(total)
        start = self._request_at
        middle = start + _HEAD + length
        self._bytes[start:middle] = _LENGTHS.pack(length, total - length) + operation
        self._bytes[middle : start + _HEAD + total] = payload
        self._logged = self._dropped = 0
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
        """Run the guest on the loop thread until it ends, asks for something or an epoch passes."""
        ticker = self._ticker
        ticker.inline = ticker.used = True
        if ticker.asleep:
            ticker.wake()
        done: bool = poll(self._future)
        ticker.inline = False
        return done

    def compute(self) -> bool:
        """As :meth:`poll`, on a worker thread, for a slice of 50 ms; ends early when ``interrupted``."""
        end = time.monotonic() + _SLICE
        with self._ticker.computing():
            while not self.interrupted:
                if poll(self._future):
                    return True
                if self.wanted or time.monotonic() >= end:
                    break
        return False

    def conclude(self, operation: str) -> bytes:
        """The response of an operation that is done. Raises GuestError, GuestFailed or TooLarge."""
        future_delete(self._future)
        self._future = None
        words = self._words
        if words[_PLAIN]:
            start = words[_RESPONSE_WHERE]
            end = start + words[_RESPONSE_LENGTH]
            if end <= self._size:
                return self._bytes[start:end].tobytes()
        return self._judge(operation)

    def _judge(self, operation: str) -> bytes:
        words = self._words[: bridge.OUTCOME_WORDS].tolist()
        failure = self._failure.take()
        if words[bridge.LOG_USED] or words[bridge.LOG_DROPPED]:
            self.flush_log()
        if failure is not None:
            self.poisoned = True
            raise GuestFailed(f"{operation}: {last_line(failure)}{self._memory_hint()}")
        self.oversized = max(self._words[bridge.PAGES], self._words[bridge.BOX_PAGES]) > self._retained_pages
        if words[bridge.STATUS] != 1:
            self._fail(operation, words)
        if words[RESPONSE + REFUSED]:
            self._refuse(operation, words[RESPONSE + REFUSED])
        length = words[RESPONSE + LENGTH]
        return self._read(words[RESPONSE + WHERE], length) if length else b""

    def _fail(self, operation: str, words: list[int]) -> NoReturn:
        if words[ERROR + REFUSED]:
            self._refuse(operation, words[ERROR + REFUSED])
        if not words[ERROR + GIVEN]:
            status = words[bridge.STATUS]
            raise GuestFailed(f"{operation}: operation failed with exit code `{status}` and gave no reason")
        text = self._read(words[ERROR + WHERE], words[ERROR + LENGTH]) if words[ERROR + LENGTH] else b""
        raise GuestError(text.decode("utf-8", "replace"))

    def _refuse(self, operation: str, length: int) -> NoReturn:
        raise TooLarge(
            f"{operation}: the actor's answer of {length} bytes is above its limit of {self._limits.reply} bytes"
        )

    # --- host calls ---------------------------------------------------------------------------------------------

    def called(self) -> None:
        """The bridge asks the host: a new host call, or, once it made room, the reply that did not fit before."""
        if self._words[bridge.HOST_NEED]:
            self._words[bridge.HOST_NEED] = 0
            self._write(self._words[bridge.HOST_WHERE], self._reply)
            self._reply = b""
        else:
            self.wanted = True
            self.answered = False

    def host_call(self) -> HostCall:
        """What the guest asks for. Raises TooLarge if that is above the limit; answer in both cases."""
        self.flush_log()
        refused = self._words[bridge.HOST_REFUSED]
        if refused:
            raise TooLarge(f"a host call of {refused} bytes is above the actor's limit of {self._limits.request} bytes")
        lengths = self._words[HOST_LENGTHS : HOST_LENGTHS + 4].tolist()
        data = self._read(self._words[bridge.HOST_WHERE], sum(lengths))
        binding, namespace, operation = lengths[0], lengths[0] + lengths[1], lengths[0] + lengths[1] + lengths[2]
        return HostCall(
            binding=data[:binding].decode("utf-8", "replace"),
            namespace=data[binding:namespace].decode("utf-8", "replace"),
            operation=data[namespace:operation].decode("utf-8", "replace"),
            payload=data[operation:],
        )

    def answer(self, reply: bytes) -> None:
        """Give the guest the result of its host call; it goes on at the next poll."""
        self._answer(1, bridge.HOST_RESPONSE, bridge.HOST_ERROR, reply)

    def answer_error(self, text: str) -> None:
        """Tell the guest that its host call failed, and why."""
        self._answer(0, bridge.HOST_ERROR, bridge.HOST_RESPONSE, text.encode("utf-8", "replace"))

    def _answer(self, status: int, used: int, unused: int, data: bytes) -> None:
        # Guests misread every status but 0 and 1, each SDK in its own way, and the other slot must be empty.
        words = self._words
        words[bridge.HOST_STATUS] = status
        words[used] = len(data)
        words[unused] = 0
        if len(data) <= words[bridge.HOST_ROOM]:
            self._write(words[bridge.HOST_WHERE], data)
        else:
            # The memory may not be grown from here while the guest is suspended; the bridge does it and asks again.
            self._reply = data
            words[bridge.HOST_NEED] = len(data)
        self.wanted = False
        self.answered = True

    # --- ending -------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free everything; a suspended guest is unwound. Any thread, as long as no other one is inside. Idempotent."""
        if not self._store:
            return
        self.poisoned = True
        self._words.release()
        self._bytes.release()
        self._words = self._bytes = memoryview(b"")
        self._drop_future()  # before the store
        if self._linker is not None:
            bindings.linker_delete(self._linker)
            self._linker = None
        bindings.store_delete(self._store)
        self._store = None
        bindings.forget_host_function(self._host_function)
        self._failure.take()

    def flush_log(self) -> None:
        """Pass on what the guest logged since the last time."""
        if not self._words:
            return
        used, dropped = self._words[bridge.LOG_USED], self._words[bridge.LOG_DROPPED]
        if used == self._logged and dropped == self._dropped:
            return
        texts = []
        at = bridge.LOG + self._logged
        while at < bridge.LOG + used:
            length = int.from_bytes(self._bytes[at : at + 4], "little")
            texts.append(self._bytes[at + 4 : at + 4 + length].tobytes())
            at += (length + 4 + bridge.LOG_RECORD - 1) // bridge.LOG_RECORD * bridge.LOG_RECORD
        notice = dropped if dropped and not self._dropped else 0
        self._logged, self._dropped = used, dropped
        self._log(texts, notice)

    def _drop_future(self) -> None:
        if self._future is not None:
            bindings.future_delete(self._future)
            self._future = None

    def _memory_hint(self) -> str:
        if self._words[bridge.BOX_FULL]:
            return " (what it handed over together exceeds the memory set aside for that)"
        memory = bindings.Extern()
        self._find(self._actor, b"memory", memory)
        size = bindings.memory_data_size(self._context, memory.value)
        if size * 4 < self._limits.memory * 3:
            return ""
        return f" (its memory had grown to {size} of at most {self._limits.memory} bytes)"

    def _read(self, where: int, length: int) -> bytes:
        if where + length > self._size:
            self._view()
            if where + length > self._size:
                self.poisoned = True
                raise GuestFailed("the mailbox of this actor is damaged", code=Code.INTERNAL)
        return self._bytes[where : where + length].tobytes()

    def _write(self, where: int, data: bytes) -> None:
        if where + len(data) > self._size:
            self._view()
        self._bytes[where : where + len(data)] = data

    def _view(self) -> None:
        """Look at the whole mailbox as it is now; it may have grown, in place."""
        self._size = bindings.memory_data_size(self._context, self._mailbox.value)
        self._bytes.release()
        self._bytes = bindings.bytes_at(self._base, self._size)

    def _make_room(self, total: int) -> None:
        try:
            self._reserve(self._words[bridge.REQUEST] + _HEAD + total)
        except bindings.EngineError as error:
            raise TooLarge(f"a request of {total} bytes does not fit into this actor's memory limit") from error
        self._words[bridge.BOX_PAGES] = self._size // PAGE
        self._room = self._size - self._words[bridge.REQUEST] - _HEAD

    def _reserve(self, end: int) -> None:
        self._view()
        if end > self._size:
            bindings.grow_memory(self._context, self._mailbox.value, (end - self._size + PAGE - 1) // PAGE)
            self._view()


def last_line(text: str) -> str:
    """The reason in a multi-line trap message, whose other lines are a backtrace."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown failure"
