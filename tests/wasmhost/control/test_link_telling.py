"""What a classic provider is sent about its links, and when."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from lattice import subjects
from lattice.connection import Connection
from lattice.health import Condition, LinkStatus
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.transport import Headers
from wasmhost.calls.holding import Holding
from wasmhost.supervision.link_telling import SETTLE, ClassicLinks

PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([51]) * 32).public
ACTORS = [KeyPair.from_raw(Role.MODULE, bytes([number]) * 32).public for number in range(60, 65)]
READY = LinkStatus(Condition.READY)


def link(value: str, actor: int = 0) -> LinkDefinition:
    return LinkDefinition(
        actor_id=ACTORS[actor], provider_id=PROVIDER, contract_id="test:contract", values={"value": value}
    )


class Heard:
    """A provider reduced to its link subjects: what it was sent, and at what time."""

    def __init__(self, client: Connection, lattice: str) -> None:
        self._client = client
        self._lattice = lattice
        self.messages: list[tuple[str, str, str]] = []
        """put or del, actor, value"""
        self.times: list[float] = []

    async def listen(self) -> None:
        for subject in (subjects.linkdef_put, subjects.linkdef_del):
            await self._client.subscribe(subject(self._lattice, PROVIDER, "default"), self._on_message)

    def _on_message(self, subject: str, reply: str, headers: Headers, payload: bytes) -> None:
        heard = LinkDefinition.decode(payload)
        self.messages.append((subject.rsplit(".", 1)[1], heard.actor_id, heard.values["value"]))
        self.times.append(asyncio.get_running_loop().time())


@pytest.fixture
async def heard(client: Connection, lattice: str) -> AsyncIterator[Heard]:
    yield Heard(client, lattice)


@pytest.fixture
def telling(client: Connection, lattice: str) -> ClassicLinks:
    return ClassicLinks(client, lattice, known=[link("old")], holding=Holding())


async def test_a_known_link_is_not_told_and_a_changed_one_is_taken_away_first(
    heard: Heard, telling: ClassicLinks
) -> None:
    await heard.listen()
    assert await telling.put(link("old")) == READY
    assert heard.messages == []
    assert await telling.put(link("new")) == READY
    assert heard.messages == [("del", ACTORS[0], "old"), ("put", ACTORS[0], "new")]
    assert heard.times[1] - heard.times[0] >= SETTLE * 0.9
    assert await telling.put(link("new")) == READY
    await telling.delete(link("new"))
    await telling.delete(link("new"))
    assert heard.messages[2:] == [("del", ACTORS[0], "new")]


async def test_a_change_is_completed_whoever_gives_up_waiting_for_it(heard: Heard, telling: ClassicLinks) -> None:
    await heard.listen()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(telling.put(link("new")), SETTLE / 2)
    assert await telling.put(link("new")) == READY  # waits for the one that goes on
    assert heard.messages == [("del", ACTORS[0], "old"), ("put", ACTORS[0], "new")]


async def test_changes_of_one_actor_happen_one_after_another_and_do_not_hold_up_others(
    heard: Heard, telling: ClassicLinks
) -> None:
    await heard.listen()
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(telling.put(link("x", number)) for number in range(1, 5)))
    assert asyncio.get_running_loop().time() - began < 3 * SETTLE
    await asyncio.gather(telling.put(link("1")), telling.put(link("2")), telling.delete(link("2")))
    assert [message[::2] for message in heard.messages if message[1] == ACTORS[0]] == [
        *(("del", "old"), ("put", "1")),
        *(("del", "1"), ("put", "2")),
        ("del", "2"),
    ]


async def test_what_nobody_heard_counts_as_not_told(heard: Heard, telling: ClassicLinks) -> None:
    assert await telling.put(link("new")) == READY  # as far as anybody can say
    await heard.listen()
    await telling.catch_up([link("new"), link("more", 1)])
    assert sorted(heard.messages) == [
        ("del", ACTORS[0], "old"),
        ("put", ACTORS[0], "new"),
        ("put", ACTORS[1], "more"),
    ]


async def test_catching_up_takes_away_what_is_gone(heard: Heard, telling: ClassicLinks) -> None:
    await heard.listen()
    assert await telling.catch_up([]) == {}
    assert heard.messages == [("del", ACTORS[0], "old")]


async def test_nothing_more_is_told_once_the_process_is_gone(heard: Heard, telling: ClassicLinks) -> None:
    await heard.listen()
    changing = asyncio.create_task(telling.put(link("new")))
    await asyncio.sleep(SETTLE / 2)
    telling.close()
    with pytest.raises(asyncio.CancelledError):
        await changing
    await asyncio.sleep(2 * SETTLE)
    assert heard.messages == [("del", ACTORS[0], "old")]
