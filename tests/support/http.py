"""A plain blocking HTTP client for tests."""

from __future__ import annotations

import http.client
import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import pairwise

_IDS = re.compile(r"\b([0-9a-f]{32}|[MVN][A-Z2-7]{55})\b")


def get(port: int, path: str = "/", *, timeout: float = 10) -> tuple[int, bytes]:
    """Status and body of one GET on loopback; OSError when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def post(port: int, path: str, body: bytes, *, timeout: float = 20) -> tuple[int, bytes]:
    """The same with a body."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST", path, body)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def answers(port: int, path: str = "/") -> bool:
    """Whether a GET gives 200."""
    try:
        return get(port, path)[0] == 200
    except OSError:
        return False


@dataclass
class Load:
    """Several clients asking one path in a loop until stopped; counts statuses, keeps the times of the 200s.

    Each client has one request on its way at a time. Times are those of ``time.monotonic()``.
    """

    port: int
    path: str = "/"
    clients: int = 4
    statuses: Counter[int | str] = field(default_factory=Counter)
    good_at: list[float] = field(default_factory=list)
    failures: list[tuple[float, int | str]] = field(default_factory=list)
    """When each request began that got anything else, and what it got."""
    reasons: Counter[str] = field(default_factory=Counter)
    """How often those answers said what, without the ids; of errors, what they say."""
    longest: float = 0.0
    """Seconds that the slowest request took, whatever became of it."""

    def __enter__(self) -> Load:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._client, daemon=True) for _ in range(self.clients)]
        for thread in self._threads:
            thread.start()
        return self

    def _client(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            status: int | str
            try:
                status, body = get(self.port, self.path)
            except (OSError, http.client.HTTPException) as error:
                status, body = type(error).__name__, str(error).encode()
            ended = time.monotonic()
            self.longest = max(self.longest, ended - began)
            self.statuses[status] += 1
            if status == 200:
                self.good_at.append(ended)
            else:
                self.failures.append((began, status))
                self.reasons[_IDS.sub("…", body.decode(errors="replace"))[:200]] += 1
                self._stop.wait(0.02)

    def good_since(self, moment: float) -> int:
        """How many 200s arrived after ``moment`` (``time.monotonic()``)."""
        return sum(1 for at in list(self.good_at) if at > moment)

    def wait_for_more(self, count: int, *, timeout: float) -> float:
        """Wait for so many further 200s; seconds until the first of them. AssertionError tells what came instead."""
        began = time.monotonic()
        before = len(self.good_at)
        while len(self.good_at) < before + count:
            assert time.monotonic() - began < timeout, f"not {count} in {timeout} s: {self.statuses}, {self.reasons}"
            time.sleep(0.02)
        return max(0.0, self.good_at[before] - began)

    def wait_until_well(self, *, timeout: float) -> None:
        """Wait for a second of 200s and nothing else."""
        deadline = time.monotonic() + timeout
        while not self._is_well(time.monotonic() - 1.0):
            assert time.monotonic() < deadline, f"not well in {timeout} s: {self.statuses}, {self.reasons}"
            time.sleep(0.05)

    def _is_well(self, since: float) -> bool:
        return self.good_since(since) > 0 and not any(began > since for began, _ in self.failures[-self.clients :])

    def longest_pause(self, since: float = 0.0) -> float:
        """Seconds between two 200s that follow each other, at most, among those after ``since``."""
        at = sorted(moment for moment in list(self.good_at) if moment > since)
        return max((after - before for before, after in pairwise(at)), default=0.0)

    def figures(self) -> str:
        """How it went, for people: `pytest -rP` shows what tests print."""
        total = sum(self.statuses.values())
        return (
            f"{total} requests, {len(self.failures)} failed, slowest {self.longest:.2f} s, "
            f"longest pause {self.longest_pause():.2f} s"
        )

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def __exit__(self, *_: object) -> None:
        self.stop()
