"""How links become effective: in order, retried, and told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from lattice.health import Condition
from lattice.links import LinkDefinition
from providers.linkbook import LinkBook
from providers.provider import LinkFailed, Provider

ACTOR = "M" + "A" * 55


def link(**values: str) -> LinkDefinition:
    return LinkDefinition(actor_id=ACTOR, provider_id="V1", link_name="default", contract_id="a:b", values=values)


class Recorder(Provider):
    """Notes what is asked of it; fails while a link's value ``bad`` is in ``broken``."""

    contract_id = "a:b"

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.broken: set[str] = set()
        self.gate = asyncio.Event()
        self.gate.set()

    async def _try(self, note: str, link: LinkDefinition) -> None:
        await self.gate.wait()
        self.notes.append(f"{note} {link.values.get('n', '')}".strip())
        if link.values.get("n") in self.broken:
            raise LinkFailed(f"{link.values['n']} in use")

    async def link_added(self, link: LinkDefinition) -> None:
        await self._try("add", link)

    async def link_removed(self, link: LinkDefinition) -> None:
        await self._try("remove", link)


class Switcher(Recorder):
    async def link_changed(self, old: LinkDefinition, new: LinkDefinition) -> None:
        await self._try(f"change {old.values['n']}", new)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_link_is_in_effect_once_its_hook_returned() -> None:
    provider = Recorder()
    provider.gate.clear()
    book = LinkBook(provider)
    book.put(link(n="1"))
    assert book.statuses()[ACTOR].state is Condition.STARTING
    assert not book.in_effect
    provider.gate.set()
    assert (await book.outcome(ACTOR, 5)).state is Condition.READY
    assert book.in_effect == {ACTOR: link(n="1")}


async def test_putting_the_same_link_again_does_nothing() -> None:
    provider = Recorder()
    book = LinkBook(provider)
    for _ in range(3):
        book.put(link(n="1"))
        assert (await book.outcome(ACTOR, 5)).state is Condition.READY
    assert provider.notes == ["add 1"]


async def test_other_values_replace_the_link() -> None:
    provider = Recorder()
    book = LinkBook(provider)
    book.put(link(n="1"))
    await book.outcome(ACTOR, 5)
    book.put(link(n="2"))
    assert (await book.outcome(ACTOR, 5)).state is Condition.READY
    assert provider.notes == ["add 1", "remove 1", "add 2"]
    assert book.in_effect[ACTOR].values == {"n": "2"}


async def test_a_provider_that_can_switch_is_asked_to() -> None:
    provider = Switcher()
    book = LinkBook(provider)
    book.put(link(n="1"))
    await book.outcome(ACTOR, 5)
    book.put(link(n="2"))
    await book.outcome(ACTOR, 5)
    assert provider.notes == ["add 1", "change 1 2"]


async def test_a_failed_change_leaves_the_earlier_values_in_effect() -> None:
    provider = Switcher()
    provider.broken = {"2"}
    book = LinkBook(provider, retry=(0.01, 0.02))
    book.put(link(n="1"))
    await book.outcome(ACTOR, 5)
    book.put(link(n="2"))
    status = await book.outcome(ACTOR, 5)
    assert status.state is Condition.DEGRADED
    assert status.reason.startswith("2 in use;")
    assert book.in_effect[ACTOR].values == {"n": "1"}
    provider.broken = set()
    await until(lambda: book.statuses()[ACTOR].state is Condition.READY)
    assert book.in_effect[ACTOR].values == {"n": "2"}


async def test_a_failed_link_is_tried_again_until_it_works() -> None:
    provider = Recorder()
    provider.broken = {"1"}
    book = LinkBook(provider, retry=(0.01, 0.02))
    book.put(link(n="1"))
    status = await book.outcome(ACTOR, 5)
    assert (status.state, status.reason) == (Condition.FAILED, "1 in use")
    await until(lambda: len(provider.notes) > 3)
    provider.broken = set()
    await until(lambda: book.statuses()[ACTOR].state is Condition.READY)


async def test_putting_a_failed_link_again_tries_at_once() -> None:
    provider = Recorder()
    provider.broken = {"1"}
    book = LinkBook(provider, retry=(60, 60))
    book.put(link(n="1"))
    assert (await book.outcome(ACTOR, 5)).state is Condition.FAILED
    provider.broken = set()
    book.put(link(n="1"))
    assert (await book.outcome(ACTOR, 5)).state is Condition.READY
    await book.close(5)


async def test_a_link_deleted_while_it_starts_is_gone_in_the_end() -> None:
    provider = Recorder()
    provider.gate.clear()
    book = LinkBook(provider)
    book.put(link(n="1"))
    await asyncio.sleep(0)
    book.delete(ACTOR)
    provider.gate.set()
    assert (await book.outcome(ACTOR, 5)).state is Condition.REMOVED
    assert provider.notes == ["add 1", "remove 1"]
    assert not book.in_effect
    assert not book.statuses()


async def test_only_the_latest_of_several_puts_counts() -> None:
    provider = Recorder()
    provider.gate.clear()
    book = LinkBook(provider)
    for n in "1234":
        book.put(link(n=n))
        await asyncio.sleep(0)
    provider.gate.set()
    await until(lambda: book.in_effect.get(ACTOR) == link(n="4"))
    assert "add 2" not in provider.notes


async def test_a_bug_in_a_hook_fails_the_link_and_not_the_process() -> None:
    class Broken(Recorder):
        async def link_added(self, link: LinkDefinition) -> None:
            raise ZeroDivisionError

    book = LinkBook(Broken(), retry=(60, 60))
    book.put(link(n="1"))
    status = await book.outcome(ACTOR, 5)
    assert (status.state, status.reason) == (Condition.FAILED, "internal error in link_added: ZeroDivisionError")
    await book.close(5)


async def test_closing_undoes_every_link_and_ends_every_retry() -> None:
    provider = Recorder()
    provider.broken = {"9"}
    book = LinkBook(provider, retry=(60, 60))
    book.put(link(n="1"))
    other = LinkDefinition(actor_id="M2", provider_id="V1", link_name="default", contract_id="a:b", values={"n": "9"})
    book.put(other)
    await book.outcomes(5)
    async with asyncio.timeout(5):
        await book.close(5)
    assert provider.notes[-1] == "remove 1"
    assert not book.in_effect
    book.put(link(n="2"))
    assert not book.statuses()
