"""Migrate and drain under load: what callers notice of them.

Three ``wasmhost host`` of one user on this machine with the counter behind HTTP and Redis, asked over 16 keep-alive
connections that each have one request on its way; one that the server closes is opened again. Meanwhile the actor, the
store and the HTTP server, which hands its listening socket over, move from host to host by ``wasmhost migrate``, and
all of them at once by ``wasmhost drain``. A round without any of it stands beside them. A request that is not answered
with 200 is a failure. The pause is the longest time in which no answer at all arrived. In the end the counter must be
what was answered. Run it with ``python -m benchmarks.moving``.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.live_update import Answers
from benchmarks.report import main
from benchmarks.rounds import Plan, Reading, Result
from tests.support.fleet import Fleet
from tests.support.nats import free_port
from tests.support.processes import WASMHOST, Running, user_environment

CLIENTS = 16
PAUSE = 250.0
"""Largest pause of a move, in milliseconds: a process starts meanwhile on one of two cores."""
HOSTS = ("one", "two", "three")
_REQUEST = b"GET /bench HTTP/1.1\r\nHost: localhost\r\n\r\n"


async def _client(port: int, answers: Answers, done: asyncio.Event) -> None:
    while not done.is_set():
        try:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            answers.note(0.0, good=False)
            await asyncio.sleep(0.05)
            continue
        try:
            kept = True
            while kept and not done.is_set():
                begun = time.monotonic()
                writer.write(_REQUEST)
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if line)
                await reader.readexactly(int(fields[b"content-length"]))
                answers.note(time.monotonic() - begun, good=head.startswith(b"http/1.1 200 "))
                kept = fields.get(b"connection") != b"close"
        except (OSError, asyncio.IncompleteReadError):
            answers.note(0.0, good=False)
        finally:
            writer.close()


class Application:
    """The counter and its providers, wherever they are."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self.answered = 0
        self.failed = 0

    async def actor(self) -> None:
        await self._command("migrate", "actor", "kvcounter")

    async def store(self) -> None:
        await self._command("migrate", "provider", "bundled:keyvalue-redis")

    async def http(self) -> None:
        await self._command("migrate", "provider", "bundled:httpserver")

    async def drain(self) -> None:
        """Move all that the busiest host runs, then let it take on work again."""
        hosts = (await asyncio.to_thread(self._fleet.ask, "get", "inventory"))["hosts"]
        busiest = max(hosts, key=lambda host: len(host["actors"]) + len(host["providers"]))["friendly_name"]
        await self._command("drain", busiest)
        await self._command("uncordon", busiest)

    async def nothing(self) -> None:
        await asyncio.sleep(1)

    async def _command(self, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(
            *WASMHOST,
            *arguments,
            env=self._fleet.env,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise RuntimeError(said.decode())

    async def round(self, change: Callable[[], Awaitable[None]], seconds: float) -> Answers:
        """Ask for that long, and until the change that is under way is done."""
        answers, done = Answers(), asyncio.Event()
        clients = [asyncio.create_task(_client(self._fleet.http_port, answers, done)) for _ in range(CLIENTS)]
        end = time.monotonic() + seconds
        while answers.changes == 0 or time.monotonic() < end:
            await change()
            answers.changes += 1
        done.set()
        await asyncio.gather(*clients)
        self.answered += answers.good
        self.failed += answers.failed
        return answers

    def lost(self) -> int:
        """Answered requests that the store has not counted, or counted twice."""
        return abs(self._fleet.counter("bench") - self.answered) if not self.failed else 0


@asynccontextmanager
async def _application() -> AsyncIterator[Application]:
    with tempfile.TemporaryDirectory() as name, ExitStack() as ended:
        folder = Path(name)
        env = user_environment(folder / "home")

        def start(*arguments: str, **more: object) -> Running:
            running = Running(list(arguments), env=env, **more)  # type: ignore[arg-type]
            ended.callback(running.kill)
            return running

        fleet = Fleet(start, env, folder, free_port())
        ended.callback(fleet.stop)
        fleet.begin_hosts(HOSTS)
        fleet.start_counter("one")
        yield Application(fleet)


def _readings(name: str, rounds: Sequence[Answers], calm: Sequence[Answers], lost: int) -> Iterator[Reading]:
    changes, good = sum(each.changes for each in rounds), sum(each.good for each in rounds)
    failed = sum(each.failed for each in rounds)
    usual = statistics.median(each.pause for each in calm) * 1e3
    yield Reading(
        name=f"{name} under load, longest pause",
        values=[each.pause * 1e3 for each in rounds],
        unit="ms",
        beside=f"{good + failed} requests sent, {failed} failed, {changes} moves; {usual:.0f} ms without any",
        target=PAUSE,
        failures=failed + lost,
    )


async def measure(plan: Plan) -> list[Result]:
    async with _application() as application:
        changes = {
            "migrate actor": application.actor,
            "migrate keyvalue": application.store,
            "migrate httpserver": application.http,
            "drain": application.drain,
        }
        await application.round(application.nothing, plan.warm_up)
        calm: list[Answers] = []
        seen: dict[str, list[Answers]] = {name: [] for name in changes}
        for _ in range(plan.rounds):
            calm.append(await application.round(application.nothing, plan.seconds))
            for name, change in changes.items():
                seen[name].append(await application.round(change, plan.seconds))
        lost = application.lost()
    return [reading for name, rounds in seen.items() for reading in _readings(name, rounds, calm, lost)]


if __name__ == "__main__":
    main(measure)
