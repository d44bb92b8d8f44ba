"""One instance of an actor, whatever runs it: its mailbox, its log, its host calls, and how an operation ended."""

from __future__ import annotations

import ctypes
import math
import os
import struct
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn

from lattice.errors import Code, GuestError, GuestFailed, TooLarge
from wasmhost.guest import bridge
from wasmhost.guest.bridge import ERROR, GIVEN, HOST_LENGTHS, LENGTH, PAGE, REFUSED, RESPONSE, WHERE
from wasmhost.guest.calls import HostCall, Limits
from wasmhost.guest.module import Module

_LENGTHS = struct.Struct("<II")
_HEAD = _LENGTHS.size
_PLAIN, _RESPONSE_WHERE, _RESPONSE_LENGTH = bridge.PLAIN, RESPONSE + WHERE, RESPONSE + LENGTH
_INTERRUPT = "wasm trap: interrupt"

MAX_TABLE_ELEMENTS = 100_000
MAX_TABLES = 4
"""Tables are outside the memory limit: 8 bytes per element. Compilers make one, of hundreds of elements."""


class LogText(NamedTuple):
    """Something a guest logged."""

    text: bytes
    stream: str
    """``stdout`` or ``stderr``; empty for the console log."""


GuestLog = Callable[[list[LogText], int], None]
"""Takes the texts a guest logged and the number of bytes that were dropped."""


class Instance(ABC):
    """A store that runs one actor. Each step is started, then carried on until it is done, then concluded.

    After a trap, a deadline, a cancelled call or an error it is ``poisoned`` and only :meth:`close` may follow: the
    guest's own executor is left in the middle of something (seen with real actors).

    The memory of the mailbox is read and written here, and only while the guest stands still.
    """

    def __init__(self, module: Module, limits: Limits, *, log: GuestLog) -> None:
        self._module = module
        self._limits = limits
        self._log = log
        self._reply = b""
        self._base = 0
        self._size = 0
        self._room = 0
        self._words = memoryview(b"")
        self._bytes = memoryview(b"")
        self._retained_pages = limits.retain_memory // PAGE
        self._request_at = 0
        self._logged = 0
        self._dropped = 0
        self._unfinished: dict[str, bytes] = {}
        self.deadline = math.inf
        """``time.monotonic()`` at which the present step has to end; set before it starts."""
        self.wanted = False
        """The guest waits for the answer to a host call, or for time to pass."""
        self.answered = True
        self.asleep = False
        """What the guest waits for is time."""
        self.poisoned = False
        self.interrupted = False
        """Set from the loop thread to end what computes on a worker thread."""
        self.lent = False
        """A worker thread may still be inside; whoever lent it closes it."""
        self.oversized = False
        """Its memory or its mailbox grew above what an idle instance may keep."""

    # --- what runs it -------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def api_version(self) -> int:
        """What the actor's version export returned; 0 if it has none."""

    @abstractmethod
    def steps(self) -> Iterator[bool]:
        """Make the instance ready. Each item tells whether the step just started is done; if not, carry it on.

        Raises GuestFailed when the module cannot be instantiated or one of its init exports traps.
        """

    @abstractmethod
    def invoke(self, operation: bytes, payload: bytes) -> bool:
        """Start an operation; tells whether it is done already.

        Raises TooLarge, without entering the guest, if the request cannot be placed.
        """

    @abstractmethod
    def poll(self) -> bool:
        """Carry on without waiting for anything; tells whether the step is done."""

    @abstractmethod
    def wait(self) -> bool:
        """Block until the step is done (True) or the guest waits for the host (False)."""

    @abstractmethod
    def close(self) -> None:
        """Free everything, once no thread is inside any more. Idempotent."""

    @abstractmethod
    def _take_failure(self) -> str | None:
        """Why the step that is done failed; None if it did not."""

    @abstractmethod
    def _mailbox_memory(self) -> tuple[int, int]:
        """Address and size of the mailbox as it is now."""

    @abstractmethod
    def _grow_mailbox(self, pages: int) -> None:
        """Add pages. Only while no step is under way. Raises MailboxFull at the limit."""

    @abstractmethod
    def _actor_memory(self) -> int:
        """Bytes of the actor's own memory."""

    # --- steps --------------------------------------------------------------------------------------------------

    def _open_mailbox(self) -> None:
        self._view()
        capacity = self._limits.log_bytes_per_call // bridge.LOG_RECORD * bridge.LOG_RECORD
        request = bridge.LOG + capacity
        self._reserve(request + _HEAD)
        words = self._words
        words[bridge.BOX_PAGES] = self._size // PAGE
        words[bridge.LOG_CAPACITY] = capacity
        words[bridge.REQUEST] = request
        words[bridge.REPLY_LIMIT] = min(self._limits.reply, 0xFFFF_FFFF)
        words[bridge.HOST_CALL_LIMIT] = min(self._limits.request, 0xFFFF_FFFF)
        words[bridge.NEXT_FREE] = request + _HEAD  # init exports come before any request
        words[bridge.RETAINED_PAGES] = self._retained_pages
        self._request_at = request
        self._room = self._size - request - _HEAD

    def _settle(self, failure: str) -> None:
        """End a step of the start that is done; raise GuestFailed if it failed."""
        self.flush_log(last=True)
        text = self._take_failure()
        self._logged = self._dropped = 0
        exited = None
        if self._words:
            exited = self._exit_code()
            for word in (bridge.LOG_USED, bridge.LOG_DROPPED, bridge.LOG_OPEN, bridge.EXITED):
                self._words[word] = 0
        if text is None or exited == 0:  # a WASI program may end its start with exit(0)
            return
        self.poisoned = True
        if exited is not None:
            raise GuestFailed(f"{failure}: it ended itself with exit code {exited}")
        reason = last_line(text)
        if "exceeds memory limits" in reason:
            reason += f" ({self._limits.memory} bytes; raise memory_mib of this actor, or actor_memory_mib of the host)"
        raise GuestFailed(f"{failure}: {reason}", code=_code_of(text))

    def _exit_code(self) -> int | None:
        return self._words[bridge.EXIT_CODE] if self._words[bridge.EXITED] else None

    def _place(self, operation: bytes, payload: bytes) -> None:
        """Write a request into the mailbox. Raises TooLarge."""
        length, total = len(operation), len(operation) + len(payload)
        if total > self._room:
            self._make_room(total)
        start = self._request_at
        middle = start + _HEAD + length
        self._bytes[start:middle] = _LENGTHS.pack(length, total - length) + operation
        self._bytes[middle : start + _HEAD + total] = payload
        self._logged = self._dropped = 0

    def conclude(self, operation: str) -> bytes:
        """The response of an operation that is done. Raises GuestError, GuestFailed or TooLarge."""
        words = self._words
        if words[_PLAIN]:
            start = words[_RESPONSE_WHERE]
            end = start + words[_RESPONSE_LENGTH]
            if end <= self._size:
                return self._bytes[start:end].tobytes()
        return self._judge(operation)

    def _judge(self, operation: str) -> bytes:
        words = self._words[: bridge.OUTCOME_WORDS].tolist()
        failure = self._take_failure()
        if words[bridge.LOG_USED] or words[bridge.LOG_DROPPED] or self._unfinished:
            self.flush_log(last=True)
        if failure is not None:
            self._break_off(operation, failure)
        self.oversized = max(self._words[bridge.PAGES], self._words[bridge.BOX_PAGES]) > self._retained_pages
        if words[bridge.STATUS] != 1:
            self._fail(operation, words)
        if words[RESPONSE + REFUSED]:
            self._refuse(operation, words[RESPONSE + REFUSED])
        length = words[RESPONSE + LENGTH]
        return self._read(words[RESPONSE + WHERE], length) if length else b""

    def _break_off(self, operation: str, failure: str) -> NoReturn:
        self.poisoned = True
        code = self._exit_code()
        if code is not None:
            raise GuestFailed(f"{operation}: the actor ended itself with exit code {code} instead of answering")
        if _code_of(failure) is Code.TIMED_OUT:
            raise GuestFailed(f"{operation}: the actor ran past its deadline", code=Code.TIMED_OUT)
        raise GuestFailed(f"{operation}: {last_line(failure)}{self._memory_hint()}")

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
            f"{operation}: the actor's answer of {length} bytes is above its limit of {self._limits.reply} bytes",
            code=Code.REPLY_TOO_LARGE,
        )

    def _memory_hint(self) -> str:
        if self._words[bridge.BOX_FULL]:
            return " (what it handed over together exceeds the memory set aside for that)"
        size = self._actor_memory()
        if size * 4 < self._limits.memory * 3:
            return ""
        return f" (its memory had grown to {size} of at most {self._limits.memory} bytes)"

    # --- host calls ---------------------------------------------------------------------------------------------

    def _serve_at_once(self) -> bool:
        """Answer what needs no waiting. On the guest's stack: never raises. False: the guest has to wait."""
        words = self._words
        if words[bridge.HOST_NEED]:  # the bridge made room for a reply that did not fit before
            words[bridge.HOST_NEED] = 0
            self._write(words[bridge.HOST_WHERE], self._reply)
            self._reply = b""
            return True
        asked = words[bridge.ASKED]
        if asked == bridge.ASKED_TIME:
            time_ns = time.monotonic_ns() if words[bridge.CLOCK] else time.time_ns()
            words[bridge.NANOSECONDS] = time_ns & 0xFFFF_FFFF
            words[bridge.NANOSECONDS + 1] = time_ns >> 32 & 0xFFFF_FFFF
            return True
        if asked == bridge.ASKED_RANDOM:
            self._bytes[bridge.RANDOM : bridge.RANDOM + bridge.RANDOM_SIZE] = os.urandom(bridge.RANDOM_SIZE)
            return True
        return False

    def pause(self) -> float | None:
        """Seconds that the waiting guest wants to sleep; None if it makes a host call instead."""
        words = self._words
        if words[bridge.ASKED] != bridge.ASKED_PAUSE:
            return None
        return float(words[bridge.NANOSECONDS] + (words[bridge.NANOSECONDS + 1] << 32)) / 1e9

    def resume(self) -> None:
        """Let the waiting guest go on, at the next poll."""
        self.wanted = False
        self.asleep = False
        self.answered = True

    def host_call(self) -> HostCall:
        """What the guest asks for. Raises TooLarge if that is above the limit; answer in both cases."""
        self.flush_log()
        refused = self._words[bridge.HOST_REFUSED]
        if refused:
            raise TooLarge(f"a host call of {refused} bytes is above the actor's limit of {self._limits.request} bytes")
        where = self._words[bridge.HOST_WHERE]
        binding, namespace, operation, payload = self._words[HOST_LENGTHS : HOST_LENGTHS + 4].tolist()
        namespace += binding
        operation += namespace
        names = self._read(where, operation)
        return HostCall(
            binding=names[:binding].decode("utf-8", "replace"),
            namespace=names[binding:namespace].decode("utf-8", "replace"),
            operation=names[namespace:].decode("utf-8", "replace"),
            payload=self._read(where + operation, payload),  # may be large: copied once
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
        self.resume()

    # --- log ----------------------------------------------------------------------------------------------------

    def flush_log(self, *, last: bool = False) -> None:
        """Pass on what the guest logged since the last time; with ``last`` also lines that it did not end."""
        if not self._words:
            return
        used, dropped = self._words[bridge.LOG_USED], self._words[bridge.LOG_DROPPED]
        if used == self._logged and dropped == self._dropped and not (last and self._unfinished):
            return
        texts = [text for text in self._logged_texts(used) if text.text or not text.stream]
        self._words[bridge.LOG_OPEN] = 0  # what was taken does not grow any more
        if last:
            texts.extend(LogText(text, stream) for stream, text in self._unfinished.items() if text)
            self._unfinished.clear()
        notice = dropped if dropped and not self._dropped else 0
        self._logged, self._dropped = used, dropped
        self._log(texts, notice)

    def _logged_texts(self, used: int) -> Iterator[LogText]:
        at = bridge.LOG + self._logged
        while at < bridge.LOG + used:
            head = int.from_bytes(self._bytes[at : at + 4], "little")
            length = head & bridge.RECORD_LENGTH
            text = self._bytes[at + 4 : at + 4 + length].tobytes()
            at += (length + 4 + bridge.LOG_RECORD - 1) // bridge.LOG_RECORD * bridge.LOG_RECORD
            stream = bridge.STREAMS[head >> bridge.RECORD_STREAM & 3]
            if stream:
                text = self._unfinished.pop(stream, b"") + text
            if head & bridge.RECORD_OPEN:
                self._unfinished[stream] = text
            else:
                yield LogText(text, stream)

    # --- memory -------------------------------------------------------------------------------------------------

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
        """Look at the whole mailbox as it is now; it may have grown."""
        base, self._size = self._mailbox_memory()
        self._bytes.release()
        self._bytes = memoryview((ctypes.c_uint8 * self._size).from_address(base)).cast("B")
        if base != self._base:
            self._base = base
            self._words.release()
            self._words = memoryview((ctypes.c_uint32 * bridge.HEADER_WORDS).from_address(base)).cast("B").cast("I")

    def _forget_memory(self) -> None:
        """Let go of the mailbox, before the store is deleted."""
        self._words.release()
        self._bytes.release()
        self._words = self._bytes = memoryview(b"")

    def _make_room(self, total: int) -> None:
        try:
            self._reserve(self._words[bridge.REQUEST] + _HEAD + total)
        except MailboxFull as error:
            raise TooLarge(f"a request of {total} bytes does not fit into this actor's memory limit") from error
        self._words[bridge.BOX_PAGES] = self._size // PAGE
        self._room = self._size - self._words[bridge.REQUEST] - _HEAD

    def _reserve(self, end: int) -> None:
        self._view()
        if end > self._size:
            self._grow_mailbox((end - self._size + PAGE - 1) // PAGE)
            self._view()


class MailboxFull(Exception):
    """The mailbox cannot grow: the limit of the store is reached."""


def last_line(text: str) -> str:
    """The reason in a multi-line trap message, whose other lines are a backtrace."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "unknown failure"


def _code_of(failure: str) -> Code:
    """An interrupt is the engine's word for an epoch deadline that passed."""
    return Code.TIMED_OUT if last_line(failure).endswith(_INTERRUPT) else Code.GUEST_FAILED
