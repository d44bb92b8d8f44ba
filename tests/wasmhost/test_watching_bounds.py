"""What watching may cost a host: bounded leases, bounded memory, nothing while nobody watches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest

from lattice.encoding import Encoding
from lattice.errors import Overloaded
from lattice.invocation import Entity
from lattice.keys import KeyPair, Role
from lattice.observation import MOST_LINES, MOST_MIRRORED, ObserveRequest
from wasmhost.calls.spies import Spies
from wasmhost.control.log_book import MOST_CHARACTERS, MOST_KEYS, LogBook
from wasmhost.leases import MOST_LEASES, Leases, Watcher


def keys(count: int) -> list[str]:
    return [KeyPair.from_raw(Role.MODULE, number.to_bytes(32)).public for number in range(1, count + 1)]


KEY = keys(1)[0]


def watcher(name: str) -> Watcher:
    return Watcher(f"_INBOX.{name}", Encoding.JSON)


def lines(sent: list[bytes]) -> list[str]:
    return [line["text"] for message in sent for line in json.loads(message)["lines"]]


@pytest.fixture
def sent() -> list[bytes]:
    return []


@pytest.fixture
def book(sent: list[bytes]) -> Callable[[], LogBook]:
    def make() -> LogBook:
        made = LogBook()
        made.report_to(lambda inbox, payload: sent.append(payload), host_id="N", host_name="n")
        return made

    return make


async def test_a_lease_ends_by_itself_and_a_renewed_one_goes_on() -> None:
    leases = Leases()
    assert not leases.active
    leases.grant(KEY, watcher("a"), 0.05)
    leases.grant(KEY, watcher("b"), 60)
    leases.grant(KEY, watcher("a"), 0.3)
    await asyncio.sleep(0.15)
    assert len(leases.watchers(KEY)) == 2
    await asyncio.sleep(0.25)
    assert leases.watchers(KEY) == [watcher("b")]
    leases.grant(KEY, watcher("b"), 0)
    assert not leases.active


async def test_there_are_only_so_many_watchers() -> None:
    leases = Leases()
    for number in range(MOST_LEASES):
        leases.grant(KEY, watcher(str(number)), 60)
    leases.grant(KEY, watcher("0"), 60)
    with pytest.raises(Overloaded):
        leases.grant(KEY, watcher("more"), 60)
    leases.close()


async def test_the_book_keeps_the_last_lines_of_the_last_speakers(
    book: Callable[[], LogBook], sent: list[bytes]
) -> None:
    full = book()
    for number in range(MOST_LINES + 50):
        full.note({"event": "guest.log", "actor": KEY, "text": f"line {number}"})
    full.watch(ObserveRequest(key=KEY, lines=MOST_LINES), watcher("a"))
    told = lines(sent)
    assert (len(told), told[0], told[-1]) == (MOST_LINES, "line 50", f"line {MOST_LINES + 49}")

    for key in keys(MOST_KEYS + 1)[1:]:
        full.note({"event": "guest.log", "actor": key, "text": "hello"})
    sent.clear()
    full.watch(ObserveRequest(key=KEY, lines=MOST_LINES), watcher("a"))
    assert lines(sent) == []


async def test_long_lines_are_cut_and_answers_divided(book: Callable[[], LogBook], sent: list[bytes]) -> None:
    wide = book()
    for _ in range(200):
        wide.note({"event": "guest.log", "actor": KEY, "text": "\u20ac" * 10_000, "more": "x" * 10_000})
    wide.watch(ObserveRequest(key=KEY, lines=MOST_LINES), watcher("a"))
    assert all(len(message) < 1024 * 1024 for message in sent)
    assert sum(map(len, lines(sent))) <= MOST_CHARACTERS
    assert [json.loads(message)["more"] for message in sent] == [True] * (len(sent) - 1) + [False]


async def test_lines_of_others_are_not_kept_and_odd_values_do_no_harm(
    book: Callable[[], LogBook], sent: list[bytes]
) -> None:
    odd = book()
    odd.note({"event": "host.started", "host": "N" + KEY[1:]})
    odd.note({"event": None, "actor": 7, "provider": KEY, "level": 3, "exc_info": ValueError("x"), "list": [1]})
    odd.watch(ObserveRequest(key=KEY, lines=10), watcher("a"))
    (line,) = json.loads(sent[0])["lines"]
    assert line["fields"] == {"exception": "ValueError('x')", "actor": "7", "list": "[1]"}


async def test_a_large_payload_is_cut_and_a_spy_that_cannot_be_served_changes_no_call() -> None:
    spies, sent = Spies(), list[bytes]()
    spies.report_to(lambda inbox, payload: sent.append(payload), host_id="N", host_name="n")
    spies.grant(KEY, watcher("a"), 60)

    async def work() -> bytes:
        return b"done"

    def call() -> asyncio.Future[bytes]:
        return asyncio.ensure_future(
            spies.mirrored(
                KEY,
                work(),
                invocation_id="i",
                route="local",
                origin=Entity("a"),
                target=Entity("b"),
                operation="o",
                msg=bytes(MOST_MIRRORED + 1),
            )
        )

    assert await call() == b"done"
    request = json.loads(sent[0])
    assert (request["size"], len(request["msg"])) == (MOST_MIRRORED + 1, 4 * ((MOST_MIRRORED + 2) // 3))

    def broken(inbox: str, payload: bytes) -> None:
        raise RuntimeError("no connection")

    spies.report_to(broken, host_id="N", host_name="n")
    assert await call() == b"done"
    spies.close()
