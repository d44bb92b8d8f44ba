"""Wait for a condition or an event with a deadline; a plain sleep is a guess."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lattice import subjects
from lattice.cloudevents import Event
from lattice.session import Connection
from lattice.transport import Headers


async def until(condition: Callable[[], object], timeout: float = 10.0) -> None:
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 the conditions are facts about other processes, which set no event
            await asyncio.sleep(0.01)


def alive(pid: int) -> bool:
    """Whether the process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


class EventLog:
    """Every event of one lattice since :meth:`open`, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self._arrived = asyncio.Event()

    @classmethod
    async def open(cls, connection: Connection, lattice: str) -> EventLog:
        log = cls()
        await connection.subscribe(subjects.events(lattice), log._on_message)
        return log

    def _on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        self.events.append(Event.decode(payload))
        self._arrived.set()

    def named(self, name: str, **members: object) -> list[Event]:
        """The events of that name whose data have at least these members."""
        return [
            event
            for event in self.events
            if event.name == name and all(event.data.get(key) == value for key, value in members.items())
        ]

    async def wait(self, name: str, *, timeout: float = 15.0, count: int = 1, **members: object) -> Event:
        """The ``count``-th such event, seen already or not."""
        async with asyncio.timeout(timeout):
            while len(found := self.named(name, **members)) < count:
                self._arrived.clear()
                await self._arrived.wait()
        return found[count - 1]
