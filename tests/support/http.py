"""A plain blocking HTTP client for tests."""

from __future__ import annotations

import http.client
import threading
import time
from collections import Counter
from dataclasses import dataclass, field


def get(port: int, path: str = "/", *, timeout: float = 10) -> tuple[int, bytes]:
    """Status and body of one GET on loopback; OSError when nobody listens."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", path)
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
                status, _ = get(self.port, self.path)
            except OSError as error:
                status = type(error).__name__
            self.statuses[status] += 1
            if status == 200:
                self.good_at.append(time.monotonic())
            else:
                self.failures.append((began, status))
                self._stop.wait(0.02)

    def good_since(self, moment: float) -> int:
        """How many 200s arrived after ``moment`` (``time.monotonic()``)."""
        return sum(1 for at in list(self.good_at) if at > moment)

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()

    def __exit__(self, *_: object) -> None:
        self.stop()
