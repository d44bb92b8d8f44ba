"""Live update and scaling under load: what callers notice of them.

``wasmhost host`` with the echo actor behind the HTTP provider, asked over 16 keep-alive connections that each have one
request on its way. Meanwhile the actor is updated to the next revision, again and again, or scaled between one and
eight instances; each command is sent when the one before has been told as done. A round without either stands beside
each. A request that is not answered with 200 is a failure. The pause is the longest time in which no answer at all
arrived, the slowest request the longest that any single one took. Run it with ``python -m benchmarks.live_update``.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path

from benchmarks.hosts import Peer, host, peer
from benchmarks.processes import nats_server
from benchmarks.report import main
from benchmarks.rounds import Plan, Reading, Result
from lattice import bundled
from lattice.cloudevents import Event
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.signing import sign_actor
from tests.support.nats import free_port
from tests.support.processes import ROOT

CLIENTS = 16
PAUSE = 150.0
"""Largest pause of an update or a scale, in milliseconds; compiling takes its share of two cores."""
_ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
_HTTP = bundled.find("bundled:httpserver")
_REQUEST = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass(slots=True)
class Answers:
    """What the clients saw in one round."""

    good: int = 0
    failed: int = 0
    slowest: float = 0.0
    """Seconds of one request."""
    pause: float = 0.0
    """Seconds without any answer."""
    changes: int = 0
    _last: float = field(default_factory=time.monotonic)

    def note(self, seconds: float, *, good: bool) -> None:
        now = time.monotonic()
        self.good += good
        self.failed += not good
        self.slowest = max(self.slowest, seconds)
        self.pause = max(self.pause, now - self._last)
        self._last = now


async def _client(port: int, answers: Answers, done: asyncio.Event) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while not done.is_set():
            begun = time.monotonic()
            writer.write(_REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
            await reader.readexactly(int(fields[b"content-length"]))
            answers.note(time.monotonic() - begun, good=head.startswith(b"HTTP/1.1 200 "))
    except (OSError, asyncio.IncompleteReadError):
        answers.note(0.0, good=False)
    finally:
        writer.close()


class Application:
    """The echo actor behind HTTP on one host."""

    def __init__(self, there: Peer, folder: Path, account: KeyPair, port: int) -> None:
        self.port = port
        self._there = there
        self._folder = folder
        self._account = account
        self._module = KeyPair.generate(Role.MODULE)
        self._revision = 0
        self._counts = cycle((1, 8, 2, 6))

    def _next(self) -> str:
        """The file of the next revision."""
        self._revision += 1
        path = self._folder / f"echo{self._revision}.wasm"
        path.write_bytes(
            sign_actor(
                _ECHO.read_bytes(),
                account=self._account,
                module=self._module,
                name="Echo",
                capabilities=[_HTTP.contract_id],
                revision=self._revision,
            )
        )
        return path.as_uri()

    async def deploy(self) -> None:
        there, actor = self._there, self._module.public
        self._reference = self._next()
        await there.control.launch_actor(there.host_id, self._reference, 4)
        await there.control.start_provider(there.host_id, _HTTP.reference)
        await there.control.put_link(
            LinkDefinition(
                actor_id=actor,
                provider_id=_HTTP.public_key,
                contract_id=_HTTP.contract_id,
                values={"address": f"127.0.0.1:{self.port}"},
            )
        )
        async with asyncio.timeout(30):
            while True:
                answers, done = Answers(), asyncio.Event()
                done_soon = asyncio.get_running_loop().call_later(0.2, done.set)
                with suppress(OSError):
                    await _client(self.port, answers, done)
                done_soon.cancel()
                if answers.good and not answers.failed:
                    return
                await asyncio.sleep(0.1)

    async def update(self, told: AsyncIterator[Event]) -> None:
        there = self._there
        self._reference = self._next()
        await there.control.update_actor(there.host_id, self._module.public, self._reference)
        await _until(told, "actor_updated", "actor_update_failed", revision=self._revision)

    async def scale(self, told: AsyncIterator[Event]) -> None:
        there = self._there
        count = next(self._counts)
        await there.control.scale_actor(there.host_id, self._reference, count=count)
        await _until(told, "actor_scaled", "actor_scale_failed", max_instances=count)

    async def nothing(self, told: AsyncIterator[Event]) -> None:
        await asyncio.sleep(0.05)

    async def round(self, change: Callable[[AsyncIterator[Event]], Awaitable[None]], seconds: float) -> Answers:
        """Ask for that long while changing."""
        async with self._there.control.events() as told:
            answers, done = Answers(), asyncio.Event()
            clients = [asyncio.create_task(_client(self.port, answers, done)) for _ in range(CLIENTS)]
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                await change(told)
                answers.changes += 1
                await asyncio.sleep(0.02)
            done.set()
            await asyncio.gather(*clients)
        return answers


async def _until(told: AsyncIterator[Event], good: str, bad: str, **members: int) -> None:
    async with asyncio.timeout(30):
        async for event in told:
            if event.name == bad:
                raise RuntimeError(f"{bad}: {event.data}")
            if event.name == good and members.items() <= event.data.items():
                return


@asynccontextmanager
async def _application() -> AsyncIterator[Application]:
    cluster, account = KeyPair.generate(Role.CLUSTER), KeyPair.generate(Role.ACCOUNT)
    with (
        nats_server(jetstream=True) as server,
        host(server.url, cluster, account.public),
        tempfile.TemporaryDirectory() as folder,
    ):
        async with peer(server.url, cluster) as there:
            application = Application(there, Path(folder), account, free_port())
            await application.deploy()
            yield application


def _readings(name: str, rounds: Sequence[Answers], calm: Sequence[Answers]) -> Iterator[Reading]:
    changes, good = sum(each.changes for each in rounds), sum(each.good for each in rounds)
    failed = sum(each.failed for each in rounds)
    yield Reading(
        name=f"{name} under load, longest pause",
        values=[each.pause * 1e3 for each in rounds],
        unit="ms",
        beside=f"{good + failed} requests sent, {failed} failed, {changes} changes; {_calm('pause', calm)}",
        target=PAUSE,
        failures=failed,
    )
    yield Reading(
        name=f"{name} under load, slowest request",
        values=[each.slowest * 1e3 for each in rounds],
        unit="ms",
        beside=_calm("slowest", calm),
    )


def _calm(what: str, calm: Sequence[Answers]) -> str:
    return f"{statistics.median(getattr(each, what) for each in calm) * 1e3:.0f} ms without any change"


async def measure(plan: Plan) -> list[Result]:
    calm: list[Answers] = []
    updates: list[Answers] = []
    scales: list[Answers] = []
    async with _application() as application:
        await application.round(application.nothing, plan.warm_up)
        for _ in range(plan.rounds):
            calm.append(await application.round(application.nothing, plan.seconds))
            updates.append(await application.round(application.update, plan.seconds))
            scales.append(await application.round(application.scale, plan.seconds))
    return [*_readings("live update", updates, calm), *_readings("scale", scales, calm)]


if __name__ == "__main__":
    main(measure)
