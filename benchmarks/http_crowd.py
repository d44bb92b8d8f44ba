"""A crowd of HTTP clients that may be refused: what they are told, how soon, and at which rate others are served.

Like :mod:`benchmarks.http_load` plain sockets under one epoll, each client with one request on its way; but an answer
``503`` with ``Retry-After`` is no failure here. A refused client waits a while before it asks again.
"""

from __future__ import annotations

import select
import socket
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.rounds import Clock, timed

_LAST_ANSWERS = 10.0
"""Seconds after the end in which the last answers must have come."""
_MOST = 65536


@dataclass(slots=True)
class Crowd:
    """What came back. Times in seconds."""

    seconds: float = 0.0
    accepted: list[float] = field(default_factory=list)
    """From request to answer, of each that was served with the right body."""
    refused: list[float] = field(default_factory=list)
    """The same of each that was told to come back later."""
    late: int = 0
    """How many were let in, and told that their time was over."""
    failed: Counter[str] = field(default_factory=Counter)
    """Everything else, by what it was."""
    processor: Mapping[str, float] = field(default_factory=dict)


class _Client:
    """One request after the other over one socket."""

    def __init__(self, port: int, request: bytes) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_LAST_ANSWERS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._received = b""
        self.sent = 0.0

    def send(self) -> None:
        self.sent = time.perf_counter()
        self.socket.send(self._request)

    def receive(self) -> tuple[bytes, bytes] | None:
        """Head and body of an answer once it is complete. Raises OSError."""
        data = self.socket.recv(_MOST)
        if not data:
            raise ConnectionResetError("closed")
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        if not end:
            return None
        length = head.lower().partition(b"\r\ncontent-length:")[2].partition(b"\r\n")[0]
        if len(body) < int(length or b"0"):
            return None
        self._received = b""
        return head, body


def crowd(
    port: int,
    request: bytes,
    body: bytes,
    *,
    clients: int,
    seconds: float,
    pause: float,
    processes: Mapping[str, int],
) -> Crowd:
    """So many clients for so long, each of which waits ``pause`` seconds after a refusal. Blocks."""
    everybody = [_Client(port, request) for _ in range(clients)]
    try:
        with timed(**processes) as clock:
            return _ask(everybody, body, seconds=seconds, pause=pause, clock=clock)
    finally:
        for client in everybody:
            client.socket.close()


def _ask(clients: Sequence[_Client], body: bytes, *, seconds: float, pause: float, clock: Clock) -> Crowd:
    told = Crowd()
    asking = {client.socket.fileno(): client for client in clients}
    waiting: deque[tuple[float, _Client]] = deque()
    end = time.perf_counter() + seconds
    busy = len(clients)
    with select.epoll() as poll:
        for descriptor, client in asking.items():
            poll.register(descriptor, select.EPOLLIN)
            client.send()
        while (now := time.perf_counter()) < end or busy:
            if now > end + _LAST_ANSWERS:
                told.failed["no answer"] += busy
                break
            while waiting and waiting[0][0] <= now < end:
                waiting.popleft()[1].send()
                busy += 1
            until = min(waiting[0][0], end) if waiting and now < end else end if now < end else end + _LAST_ANSWERS
            for descriptor, _ in poll.poll(max(0.0, until - now)):
                client = asking[descriptor]
                try:
                    answer = client.receive()
                except OSError as error:
                    told.failed[type(error).__name__] += 1
                    poll.unregister(descriptor)
                    busy -= 1
                    continue
                if answer is None:
                    continue
                now = time.perf_counter()
                busy -= 1
                if _judge(told, answer, body, now - client.sent):
                    waiting.append((now + pause, client))
                elif now < end:
                    client.send()
                    busy += 1
            if clock.seconds == 0.0 and time.perf_counter() >= end:
                clock.stop()
    told.seconds = clock.seconds
    told.processor = dict(clock.processor)
    return told


def _judge(told: Crowd, answer: tuple[bytes, bytes], body: bytes, took: float) -> bool:
    """Count one answer; whether it was a refusal."""
    head, said = answer
    if head.startswith(b"HTTP/1.1 200 ") and said == body:
        told.accepted.append(took)
        return False
    if head.startswith(b"HTTP/1.1 503 ") and b"\r\nretry-after:" in head.lower():
        told.refused.append(took)
        return True
    if head.startswith(b"HTTP/1.1 504 "):
        told.late += 1
        return False
    told.failed[head.partition(b"\r\n")[0].decode("latin-1") + " " + said[:160].decode("utf-8", "replace")] += 1
    return False
