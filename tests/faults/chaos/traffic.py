"""Clients that count over HTTP, and the books they keep."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise

_PAUSE = 0.03
"""Seconds between an answer and the next request of a client: the load should leave the machine room for faults."""
_PATIENCE = 15.0


class Outcome(StrEnum):
    """What a client knows of a request afterwards."""

    COUNTED = "counted"
    """Answered with 200 and the new count."""
    REFUSED = "refused"
    """Certainly not done: nobody took it."""
    UNKNOWN = "unknown"
    """It failed, and may have been counted before it did."""


NOT_DONE = (
    "no responders",
    "nobody listens",
    "is overloaded",
    "requests are waiting",
    "unlinked actor",
    "not running",
    "nothing was done",
)
"""Parts of reasons that say that nothing was done."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request; times are those of ``time.monotonic()``."""

    client: int
    port: int
    began: float
    ended: float
    outcome: Outcome
    count: int = 0
    status: int = 0
    """0 without an answer."""
    reason: str = ""


@dataclass
class Client:
    """Asks one address for its own counter again and again, one request at a time."""

    number: int
    port: int
    requests: list[Request] = field(default_factory=list)

    @property
    def path(self) -> str:
        return f"/chaos/{self.number}"

    @property
    def key(self) -> str:
        """Its counter in the store."""
        return f"counter::chaos:{self.number}"

    def ask(self) -> Request:
        began = time.monotonic()
        outcome, count, status, reason = self._ask()
        request = Request(self.number, self.port, began, time.monotonic(), outcome, count, status, reason)
        self.requests.append(request)
        return request

    def _ask(self) -> tuple[Outcome, int, int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_PATIENCE)
        try:
            try:
                connection.connect()
            except OSError as error:
                return Outcome.REFUSED, 0, 0, f"no connection: {error.strerror or error}"
            connection.request("GET", self.path)
            response = connection.getresponse()
            body = response.read()
        except (OSError, http.client.HTTPException) as error:
            return Outcome.UNKNOWN, 0, 0, f"connection lost: {type(error).__name__}"
        finally:
            connection.close()
        if response.status == 200:
            return Outcome.COUNTED, int(json.loads(body)["counter"]), 200, ""
        try:
            reason = str(json.loads(body)["error"])
        except (ValueError, KeyError, TypeError):
            reason = ""
        refused = any(part in reason for part in NOT_DONE)
        return Outcome.REFUSED if refused else Outcome.UNKNOWN, 0, response.status, reason

    def complaint(self, stored: int) -> str:
        """What is wrong with its answers beside the ``stored`` count; empty when all of it adds up."""
        counts = [request.count for request in self.requests if request.outcome is Outcome.COUNTED]
        unknown = sum(request.outcome is Outcome.UNKNOWN for request in self.requests)
        if any(after <= before for before, after in pairwise(counts)):
            return f"client {self.number} was answered a count that it had been answered before"
        if counts and counts[-1] > stored:
            return f"client {self.number} was answered {counts[-1]}, and {stored} is stored"
        if not len(counts) <= stored <= len(counts) + unknown:
            return (
                f"client {self.number}: {stored} stored, {len(counts)} answered with 200, {unknown} of unknown outcome"
            )
        return ""


class Traffic:
    """Several clients in threads, divided over the ports."""

    def __init__(self, ports: Iterable[int], *, clients: int) -> None:
        ports = list(ports)
        self.clients = [Client(number, ports[number % len(ports)]) for number in range(clients)]
        self.ports = ports
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(client,), daemon=True) for client in self.clients]

    def __enter__(self) -> Traffic:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Let each client have its last answer."""
        self._stop.set()
        for thread in self._threads:
            thread.join(_PATIENCE + 10)
            assert not thread.is_alive()

    def _run(self, client: Client) -> None:
        while not self._stop.is_set():
            client.ask()
            self._stop.wait(_PAUSE)

    def requests(self) -> list[Request]:
        """All so far, in the order of their ends."""
        return sorted(
            (request for client in self.clients for request in tuple(client.requests)), key=lambda each: each.ended
        )

    def good_since(self, moment: float) -> dict[int, int]:
        """200s by port whose requests began after ``moment``."""
        good = Counter(dict.fromkeys(self.ports, 0))
        for client in self.clients:
            for request in reversed(tuple(client.requests)):
                if request.began <= moment:
                    break
                good[client.port] += request.outcome is Outcome.COUNTED
        return dict(good)
