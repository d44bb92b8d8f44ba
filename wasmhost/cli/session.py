"""One command's connection to the lattice, and the questions that commands ask of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any, Self, TypeVar

from lattice.addresses import shown
from lattice.client import ControlClient
from lattice.cloudevents import Event
from lattice.connection import Connection, connect
from lattice.control import Encoding, HostPing, Inventory, encoding_of
from lattice.errors import Code, LatticeError, RemoteError, Unreachable
from lattice.transport import State
from wasmhost.cli import identify
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Output
from wasmhost.cli.problems import Problem, hint_for
from wasmhost.contexts.context import Context

T = TypeVar("T")

CLIENT_NAME = "wasmhost-cli"
SECOND_LOOK = 1.0
"""Seconds that hosts get to answer before the command says that what the user named is not there."""
POLL_INTERVAL = 0.2
"""Seconds between looks at the inventory while waiting: an event says it sooner, if it was not missed."""


class Session:
    """An open connection and a control client. Made by :meth:`open`."""

    def __init__(
        self, connection: Connection, client: ControlClient, context: Context, output: Output, window: float
    ) -> None:
        self.connection = connection
        self.client = client
        self.context = context
        self.output = output
        self._window = window
        self._hosts: list[HostPing] | None = None

    @classmethod
    @asynccontextmanager
    async def open(cls, context: Context, output: Output) -> AsyncIterator[Self]:
        """Connect as ``context`` says. Raises Unreachable."""
        try:
            connection = await connect(context.options(CLIENT_NAME))
        except Unreachable as error:
            if context.source in ("default", "--nats-url"):
                raise
            # Whoever did not type the address wonders where it came from; starting a lattice here is not the remedy.
            message = str(error).partition("; ")[0]
            raise Unreachable(f"{message} (the address is from {context.source})", code=error.code) from error
        try:
            asked = time.monotonic()
            await connection.flush(context.timeout)
            round_trip = time.monotonic() - asked
            client = ControlClient(connection, context.lattice, prefix=context.control_prefix, timeout=context.timeout)
            # Nobody knows how many hosts will answer, so the time to wait for them follows from how far away they are.
            yield cls(connection, client, context, output, window=min(context.timeout, 0.25 + 10 * round_trip))
        finally:
            await connection.drain()

    @property
    def window(self) -> float:
        """Seconds to wait for answers of nobody knows how many hosts."""
        return self._window

    @asynccontextmanager
    async def rpc_connection(self) -> AsyncIterator[Connection]:
        """The connection for calls, where that is another one. Raises Unreachable."""
        options = self.context.rpc_options(CLIENT_NAME)
        if options is None:
            yield self.connection
            return
        connection = await connect(options)
        try:
            yield connection
        finally:
            await connection.drain()

    def patience(self, usual: float) -> float:
        """Seconds to wait for something to happen: what the user said with --timeout, else ``usual``."""
        return self.context.patience or usual

    def know(self, *hosts: HostPing) -> None:
        """Take ``hosts`` as the only ones, without asking."""
        self._hosts = list(hosts)

    def forget(self) -> None:
        """Ask for the hosts again when they are wanted next."""
        self._hosts = None

    async def hosts(self) -> list[HostPing]:
        """The hosts of the lattice by name, asked once per command; may be empty."""
        if self._hosts is None:
            found = await self._ask_hosts(self._window)
            if not found and self._window < self.context.timeout:
                found = await self._ask_hosts(self.context.timeout)
            self._hosts = found
        return self._hosts

    async def find(self, look: Callable[[], Awaitable[T]]) -> T:
        """What ``look`` finds among the hosts. Raises Problem.

        Before that says that there is no such thing, hosts that are slow to answer get more time to do so.
        """
        try:
            return await look()
        except Problem as problem:
            if problem.exit_code is not ExitCode.NOT_FOUND or not await self._more_hosts():
                raise
        return await look()

    async def _more_hosts(self) -> bool:
        """Whether hosts answer that did not at first; :meth:`hosts` has them from now on."""
        before = {host.id for host in self._hosts or ()}
        found = await self._ask_hosts(min(SECOND_LOOK, self.context.timeout))
        if before >= {host.id for host in found}:
            return False
        self._hosts = found
        return True

    async def _ask_hosts(self, wait: float) -> list[HostPing]:
        found = await self.client.ping_hosts(wait)
        return sorted(found, key=lambda host: (host.friendly_name, host.id))

    async def gather(self, subject: str, body: Mapping[str, Any]) -> list[object]:
        """What all hosts that listen on a subject of ours answer."""
        payload = Encoding.MSGPACK.encode(dict(body))
        replies = await self.connection.gather(subject, payload, timeout=self._window)
        return [encoding_of(reply.payload, reply.headers).decode(reply.payload, subject) for reply in replies]

    async def some_hosts(self) -> list[HostPing]:
        """The hosts of the lattice; none at all is an error, as nobody could do what the command asks for."""
        hosts = await self.hosts()
        if not hosts:
            raise Problem(
                f"no host answers in lattice '{self.context.lattice}' at {shown(self.context.nats_url)}",
                exit_code=ExitCode.UNREACHABLE,
                hint=hint_for(Code.NO_RESPONDERS),
            )
        return hosts

    async def inventories(self, *, complete: bool = False) -> list[Inventory]:
        """What runs on every host now. A host that left since it was first heard of is left out.

        ``complete``: raise Unreachable instead of leaving one out, where its silence must not look like its absence.
        """
        answers = await asyncio.gather(
            *(self.client.inventory(host.id) for host in await self.some_hosts()), return_exceptions=True
        )
        found = []
        for answer in answers:
            if isinstance(answer, Unreachable) and not complete:
                continue
            if isinstance(answer, BaseException):
                raise answer
            found.append(answer)
        return found

    async def find_host(self, text: str) -> HostPing:
        """The one host that ``text`` means. Raises Problem."""

        async def look() -> HostPing:
            hosts = await self.some_hosts()
            known = [Candidate(key=host.id, name=host.friendly_name) for host in hosts]
            meant = identify.resolve(text, known, what="host", look="wasmhost get hosts")
            return next(host for host in hosts if host.id == meant.key)

        return await self.find(look)

    @asynccontextmanager
    async def telling_gaps(self) -> AsyncIterator[None]:
        """Say, while something is followed, when nothing of it is seen: the NATS server is away."""

        def tell(state: State) -> None:
            if state is State.RECONNECTING:
                self.output.say(
                    f"The NATS server at {shown(self.context.nats_url)} is away: nothing is seen meanwhile."
                )
            elif state is State.CONNECTED:
                self.output.say("It is back.")

        forget = self.connection.on_state(tell)
        try:
            yield
        finally:
            forget()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[Watch]:
        """Follow events from now on, so that none is missed that a command sent inside causes."""
        async with self.client.events() as events:
            watch = Watch(events)
            try:
                yield watch
            finally:
                await watch.close()

    async def carry_out(
        self,
        command: Callable[[], Awaitable[object]],
        timeout: float,
        *,
        state: Callable[[], Awaitable[T | None]],
        event: Callable[[Event], T | None] = lambda event: None,
    ) -> T:
        """Send a command, then wait until an event or the state says what came of it, as :meth:`Watch.until`.

        Raises Problem and LatticeError where it is refused, TimeoutError where nothing is seen within ``timeout``
        seconds after it was acknowledged.
        """
        async with self.watch() as watch:
            try:
                await command()
            except LatticeError as error:
                raise refused(error) from error
            return await watch.until(timeout, event=event, state=state)


class Watch:
    """Waits until something is seen to have happened."""

    def __init__(self, events: AsyncIterator[Event]) -> None:
        self._seen: asyncio.Queue[Event] = asyncio.Queue()
        self._reader = asyncio.create_task(self._read(events), name="follow events")

    async def _read(self, events: AsyncIterator[Event]) -> None:
        async for event in events:
            self._seen.put_nowait(event)

    async def until(
        self,
        timeout: float,
        *,
        event: Callable[[Event], T | None],
        state: Callable[[], Awaitable[T | None]],
    ) -> T:
        """The first result of ``event``, asked for each event, or of ``state``, asked after each and now and then.

        Either may raise Problem. Nobody answering is no answer: the NATS server may be restarting. Raises TimeoutError
        after ``timeout`` seconds.
        """
        async with asyncio.timeout(timeout):
            while True:
                with suppress(Unreachable):
                    if (result := await state()) is not None:
                        return result
                found = await self._next()
                if found is not None and (result := event(found)) is not None:
                    return result

    async def _next(self) -> Event | None:
        """The next event, None when there was none for POLL_INTERVAL seconds."""
        try:
            async with asyncio.timeout(POLL_INTERVAL):
                return await self._seen.get()
        except TimeoutError:
            return None

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.wait({self._reader})


def refused(error: LatticeError) -> LatticeError | Problem:
    """A host's refusal of a command: without a code of its own it is a plain refusal, not an actor's answer."""
    if isinstance(error, RemoteError) and error.code is Code.PROVIDER_ERROR:
        return Problem(str(error), exit_code=ExitCode.FAILED)
    return error
