"""The load generator for HTTP: keep-alive connections that each have one request on its way.

Plain sockets under one epoll, in the process that measures; the kernel's part is most of what it costs. It looks at
every answer.
"""

from __future__ import annotations

import select
import socket
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping

from benchmarks.rounds import Round, timed

_LAST_ANSWERS = 5.0
"""Seconds after the end of a round in which its last answers must have come."""
_MOST = 65536


class _WrongAnswer(Exception):
    """``str()`` is what came."""


class _Connection:
    """One request after the other over one socket. OSError and _WrongAnswer end it."""

    def __init__(self, port: int, request: bytes, right: Callable[[bytes], bool]) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_LAST_ANSWERS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._right = right
        self._received = b""
        self._length = 0
        self._sent = 0.0

    def send(self) -> None:
        self._sent = time.perf_counter()
        self.socket.send(self._request)

    def receive(self) -> float | None:
        """Seconds from request to answer; None while it is incomplete."""
        data = self.socket.recv(_MOST)
        if not data:
            raise ConnectionResetError("the server ended the connection")
        if self._received:
            data = self._received + data
        # The answers of a server differ in date and digits only, so that all are as long as the first.
        self._length = self._length or _length(data)
        if len(data) < self._length or not self._length:
            self._received = data
            return None
        self._received = b""
        if len(data) > self._length or not data.startswith(b"HTTP/1.1 200 ") or not self._right(data):
            raise _WrongAnswer(_shown(data))
        return time.perf_counter() - self._sent


def _shown(answer: bytes) -> str:
    """The first line and the body of an answer, as far as they fit on a line."""
    head, _, body = answer.partition(b"\r\n\r\n")
    line = head.splitlines()[0].decode("latin-1") if head else ""
    return f"{line} {body[:200]!r}"


def _length(data: bytes) -> int:
    """Bytes of the answer that ``data`` begins with; 0 while its head is incomplete."""
    head, end, _ = data.partition(b"\r\n\r\n")
    if not end:
        return 0
    announced = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
    return len(head) + len(end) + int(announced or b"0")


def load(
    port: int,
    request: bytes,
    right: bytes | Callable[[bytes], bool],
    *,
    connections: int,
    seconds: float,
    processes: Mapping[str, int],
) -> Round:
    """Ask a server on loopback for so long. Blocks.

    Every answer must be a 200 that ends with ``right``, its body, or that ``right`` finds right. A connection that
    fails is not opened again: a round with a failure is no result, and what failed is told on standard error.
    """
    check = (lambda answer: answer.endswith(right)) if isinstance(right, bytes) else right
    clients = [_Connection(port, request, check) for _ in range(connections)]
    asking = {client.socket.fileno(): client for client in clients}
    latencies: list[float] = []
    failed: Counter[str] = Counter()
    try:
        with select.epoll() as poll, timed(**processes) as clock:
            end = time.perf_counter() + seconds
            for descriptor, client in asking.items():
                poll.register(descriptor, select.EPOLLIN)
                client.send()
            while asking and (left := end + _LAST_ANSWERS - time.perf_counter()) > 0:
                for descriptor, _ in poll.poll(left):
                    client = asking[descriptor]
                    try:
                        latency = client.receive()
                        if latency is None:
                            continue
                        latencies.append(latency)
                        if time.perf_counter() < end:
                            client.send()
                            continue
                    except (OSError, _WrongAnswer) as error:
                        failed[str(error)] += 1
                    poll.unregister(descriptor)
                    del asking[descriptor]
    finally:
        for client in clients:
            client.socket.close()
    if asking:
        failed[f"no answer within {_LAST_ANSWERS:g} s of the end"] += len(asking)
    for what, times in failed.most_common(5):
        print(f"{times} failed: {what}", file=sys.stderr)
    return Round(
        operations=len(latencies),
        seconds=clock.seconds,
        failures=failed.total(),
        processor=clock.processor,
        p50=statistics.median(latencies) if latencies else None,
    )
