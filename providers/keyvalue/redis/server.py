"""One connection to a Redis server, shared by all that is asked of it.

Commands of one turn of the event loop leave in one write, without waiting for the answers to earlier ones; the answers
come in the order of the commands. A lost connection is opened again at once when somebody asks, else after a pause. A
command that was sent is never sent twice: whether it took effect is not known.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import ssl
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import structlog
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import AuthenticationError, RedisError, ResponseError

from lattice.background import begin
from lattice.errors import Code, LatticeError
from providers.keyvalue.redis.address import CONNECT_TIMEOUT, Address

log = structlog.get_logger()

SILENCE: Final = 5.0
"""Seconds after which a server that owes an answer counts as lost."""
CLOSE_TIMEOUT: Final = 2.0
"""Seconds that commands under way get when the connection is closed."""
FIRST_PAUSE: Final = 0.1
LAST_PAUSE: Final = 5.0
"""Seconds between attempts to connect; the first one also limits how often commands may ask for another."""

Word = bytes | str | int


class NotConnected(LatticeError):
    """There is no connection, and the command was not sent."""

    code = Code.PROVIDER_ERROR


class ConnectionLost(LatticeError):
    """The connection ended before the answer came."""

    code = Code.PROVIDER_ERROR


class _Lost(Exception):
    """Ends the service of one connection; ``str()`` is the reason."""


class Server:
    """Open from its making until ``close``."""

    def __init__(self, address: Address) -> None:
        self.name = f"Redis at {address}"
        self.trouble = ""
        """Why there is no connection; empty while there is one."""
        self._address = address
        self._loop = asyncio.get_running_loop()
        self._unsent: list[tuple[tuple[Word, ...], asyncio.Future[Any]]] = []
        self._expected: deque[tuple[float, asyncio.Future[Any]]] = deque()
        """When each command was sent, and who waits for its answer."""
        self._asked = asyncio.Event()
        """Set while something is unsent."""
        self._tried = asyncio.Event()
        """Set after the first attempt to connect."""
        self._closing = False
        self._task = begin(self._run(), self.name)

    async def ask(self, *command: Word) -> Any:
        """The server's answer: bytes, an integer, a list of them or None.

        Raises NotConnected, ConnectionLost, or redis-py's ResponseError for a refusal of the server.
        """
        answer: asyncio.Future[Any] = self._loop.create_future()
        if self._closing:
            raise NotConnected(f"{self.name}: the connection is closed")
        self._unsent.append((command, answer))
        self._asked.set()
        return await answer

    async def settled(self) -> None:
        """Return once the first attempt to connect has ended."""
        await self._tried.wait()

    async def close(self) -> None:
        """Let commands under way end, within CLOSE_TIMEOUT."""
        self._closing = True
        waiting = [answer for _, answer in (*self._unsent, *self._expected)]
        if waiting:
            await asyncio.wait(waiting, timeout=CLOSE_TIMEOUT)
        self._task.cancel()
        await asyncio.wait([self._task])

    # --- the connection ---

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        try:
            while True:
                connection = self._address.connection()
                try:
                    await self._connect(connection)
                    pause = FIRST_PAUSE
                    await self._serve(connection)
                except _Lost as lost:
                    self._note(str(lost))
                except Exception as error:
                    log.exception("redis.connection_broke", server=str(self._address))
                    self._note(f"internal error: {type(error).__name__}")
                finally:
                    with suppress(RedisError, OSError):
                        await connection.disconnect(nowait=True)
                self._tried.set()
                await asyncio.sleep(FIRST_PAUSE)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._asked.wait(), pause)
                pause = min(pause * 2, LAST_PAUSE)
        finally:
            self._tried.set()
            self._fail_all("the provider is closing the connection")

    async def _connect(self, connection: AbstractConnection) -> None:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("PING", check_health=False)
                with suppress(ResponseError):  # a user that may not PING is logged in all the same
                    await connection.read_response()
        except (RedisError, OSError, TimeoutError) as error:
            raise _Lost(f"{_reason(error)}; start a server there, or give the link another URL") from error
        if self.trouble:
            log.info("redis.connected", server=str(self._address))
        self.trouble = ""
        self._tried.set()

    async def _serve(self, connection: AbstractConnection) -> None:
        """Send and receive until the connection is lost; raises _Lost."""
        reason = ""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._send(connection))
                group.create_task(self._receive(connection))
                group.create_task(self._watch())
        except* (RedisError, OSError, _Lost) as errors:
            reason = _reason(errors.exceptions[0])
        raise _Lost(f"the connection was lost: {reason}")

    async def _send(self, connection: AbstractConnection) -> None:
        while True:
            await self._asked.wait()
            await asyncio.sleep(0)  # what is read in this turn is answered in the next one
            self._asked.clear()
            batch = [(command, answer) for command, answer in self._unsent if not answer.done()]
            self._unsent.clear()
            now = self._loop.time()
            self._expected.extend((now, answer) for _, answer in batch)
            packed = b"".join([part for command, _ in batch for part in _packed(command)])
            await connection.send_packed_command(packed, check_health=False)

    async def _receive(self, connection: AbstractConnection) -> None:
        while True:
            try:
                reply = await connection.read_response()
            except ResponseError as error:
                reply = error
            if not self._expected:
                raise _Lost("an answer came that nobody had asked for")
            _, answer = self._expected.popleft()
            if answer.done():
                continue  # its caller has given up
            if isinstance(reply, ResponseError):
                answer.set_exception(reply)
            else:
                answer.set_result(reply)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SILENCE / 5)
            if self._expected and self._loop.time() - self._expected[0][0] > SILENCE:
                raise _Lost(f"no answer for {SILENCE:g} s")

    # --- failures ---

    def _note(self, reason: str) -> None:
        trouble = f"{self.name}: {reason}"
        if trouble != self.trouble:
            log.warning("redis.not_connected", server=str(self._address), reason=reason)
        self.trouble = trouble
        self._fail_all(trouble)

    def _fail_all(self, reason: str) -> None:
        for _, answer in self._expected:
            _fail(answer, ConnectionLost(f"{reason}; whether the command took effect is not known"))
        for _, answer in self._unsent:
            _fail(answer, NotConnected(reason))
        self._expected.clear()
        self._unsent.clear()
        self._asked.clear()


def _packed(command: tuple[Word, ...]) -> Iterator[bytes]:
    """A command as the server reads it; redis-py's own packing takes longer than the server takes to carry it out."""
    yield b"*%d\r\n" % len(command)
    for word in command:
        data = word if type(word) is bytes else str(word).encode()
        yield b"$%d\r\n%b\r\n" % (len(data), data)


def _fail(answer: asyncio.Future[Any], error: LatticeError) -> None:
    if not answer.done():
        answer.set_exception(error)
        answer.exception()  # nobody may be waiting any more


def _reason(error: BaseException) -> str:
    """Why, in a few words and without what redis-py says around it."""
    cause: BaseException | None = error
    while cause is not None:
        match cause:
            case AuthenticationError() | _Lost():
                return str(cause).rstrip(".")
            case ssl.SSLCertVerificationError():
                return f"its certificate is not trusted ({cause.verify_message})"
            case ssl.SSLError():
                return f"TLS failed ({cause.reason or cause})"
            case socket.gaierror():
                return "the name of the host is not known"
            case TimeoutError():
                return f"no answer within {CONNECT_TIMEOUT:g} s"
            case OSError() if numbers := re.findall(r"\[Errno (\d+)\]", str(cause)):
                return os.strerror(int(numbers[-1])).lower()
            case OSError() if cause.errno:
                return os.strerror(cause.errno).lower()
        cause = cause.__cause__ or cause.__context__
    return str(error).rstrip(".") or type(error).__name__
