"""A server that announces its end: clients go to another one of its cluster before it ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Self

import pytest
from structlog.testing import capture_logs

from lattice.connection import Connection, ConnectOptions, Limits, connect
from lattice.errors import LatticeError
from lattice.transport import Headers, State
from tests.support.nats import NatsServer, cluster
from tests.support.waiting import eventually


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[NatsServer]]:
    made = cluster(tmp_path, 2)
    for server in made:
        server.start()
    yield made
    for server in made:
        server.stop()


@asynccontextmanager
async def connected(url: str, *, internals: bool = True) -> AsyncIterator[Connection]:
    limits = Limits(retry_min=0.02, retry_max=0.2)
    connection = await connect(ConnectOptions(url=url, limits=limits, internals=internals))
    try:
        yield connection
    finally:
        await connection.close()


async def others_known(url: str) -> None:
    """Return once the server tells its clients of the other one."""
    async with asyncio.timeout(10):
        while True:
            async with connected(url) as probe:
                if len(probe.servers) == 2:
                    return
            await asyncio.sleep(0.05)


class Traffic:
    """Requests to a queue group and messages to all, from several connections, until it is left."""

    def __init__(self, *clients: Connection) -> None:
        self.outcomes: Counter[str] = Counter()
        self.sent: Counter[bytes] = Counter()
        self._clients = clients

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._call(client)) for client in self._clients]
        self._tasks.append(asyncio.create_task(self._tell(self._clients[-1])))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.wait(self._tasks)

    async def _call(self, client: Connection) -> None:
        while True:
            try:
                await client.request("shared", b"x", timeout=5)
                self.outcomes["answered"] += 1
            except LatticeError as error:
                self.outcomes[str(error)] += 1

    async def _tell(self, client: Connection) -> None:
        """No queue group, so that both ways bring them; two of three look alike."""
        for number in count():
            client.publish("all", b"%d" % (number - number % 3))
            self.sent.update([b"%d" % (number - number % 3)])
            await asyncio.sleep(0.001)

    async def more(self, wanted: int) -> None:
        before = self.outcomes["answered"]
        await eventually(lambda: self.outcomes["answered"] > before + wanted, timeout=20)


@pytest.mark.parametrize("internals", [True, False], ids=["direct", "public"])
async def test_calls_and_messages_go_on_while_everybody_leaves_a_lame_duck(
    servers: list[NatsServer], internals: bool
) -> None:
    old, new = servers
    await others_known(old.url)
    heard: Counter[bytes] = Counter()
    states: list[State] = []
    async with (
        connected(old.url, internals=internals) as responder,
        connected(old.url, internals=internals) as caller,
        connected(new.url) as stranger,
    ):

        def answer(subject: str, reply: str, headers: Headers, payload: bytes) -> None:
            responder.publish(reply, payload)

        await responder.subscribe("shared", answer, queue="q")
        await responder.subscribe("all", lambda s, r, h, payload: heard.update([payload]))
        gone = await responder.subscribe("gone", answer)
        responder.on_state(states.append)
        with capture_logs() as logs:

            def told(event: str) -> bool:
                return sum(entry["event"] == event for entry in logs) == 2

            async with Traffic(caller, stranger) as traffic:
                await traffic.more(300)
                old.lame_duck()
                await eventually(lambda: told("connection.lame_duck"), timeout=10)
                await gone.unsubscribe()
                during = await responder.subscribe("during", answer)
                assert (await caller.request("during", b"x", timeout=5)).payload == b"x"
                await eventually(lambda: told("connection.moved"), timeout=10)
                await asyncio.to_thread(old.stop)
                await traffic.more(300)
        await stranger.flush()
        await eventually(lambda: heard == traffic.sent)
        assert list(traffic.outcomes) == ["answered"]
        assert {responder.server, caller.server} == {new.url}
        assert states == [], "nobody was disconnected"
        await during.unsubscribe()
        for subject in ("gone", "during"):
            with pytest.raises(LatticeError, match="nobody listens"):
                await caller.request(subject, b"", timeout=2)


async def test_where_there_is_no_other_server_the_log_says_so_and_the_next_start_is_found(tmp_path: Path) -> None:
    server = NatsServer(
        tmp_path, jetstream=False, config='lame_duck_grace_period: "1s"\nlame_duck_duration: "30s"'
    ).start()
    try:
        with capture_logs() as logs:
            async with connected(server.url) as connection:
                await connection.subscribe("echo", lambda s, reply, h, payload: connection.publish(reply, payload))
                server.lame_duck()
                await eventually(lambda: "connection.no_other_server" in [e["event"] for e in logs], timeout=10)
                assert (await connection.request("echo", b"x", timeout=2)).payload == b"x", "it is of use until it ends"
                await eventually(lambda: connection.state is State.RECONNECTING, timeout=20)
                await asyncio.to_thread(server.restart)
                await eventually(lambda: connection.state is State.CONNECTED, timeout=10)
                assert (await connection.request("echo", b"x", timeout=2)).payload == b"x"
        told = [entry for entry in logs if entry["event"] == "connection.lame_duck"]
        assert [(entry["others"], "another one of its cluster" in entry["hint"]) for entry in told] == [(0, True)]
    finally:
        server.stop()
