"""Very many idle HTTP connections, and what they cost the process that keeps them."""

from __future__ import annotations

import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_BATCH = 200


def most_connections(wanted: int, *, spare: int = 500) -> int:
    """Raise this process's limit of open files as far as it goes; how many of ``wanted`` connections that allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        return max(1, min(wanted, hard - spare))
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + spare, hard))
    return wanted


@contextmanager
def idle_connections(port: int, count: int, request: bytes) -> Iterator[list[socket.socket]]:
    """``count`` connections on loopback that have had one answer each. An answer that is not a 200 fails."""
    opened: list[socket.socket] = []
    try:
        while len(opened) < count:
            batch = [
                socket.create_connection(("127.0.0.1", port), timeout=20)
                for _ in range(min(_BATCH, count - len(opened)))
            ]
            opened += batch
            ask(batch, request)
        yield opened
    finally:
        for one in opened:
            one.close()


def ask(connections: list[socket.socket], request: bytes) -> None:
    """One request over each of them, all answered with 200."""
    for one in connections:
        one.sendall(request)
    for one in connections:
        answer = one.recv(65536)
        if not answer.startswith(b"HTTP/1.1 200 "):
            raise RuntimeError(f"not a 200: {answer[:200]!r}")


def still_open(connections: list[socket.socket]) -> int:
    """How many have not been closed by the server."""
    with select.epoll() as poll:
        for one in connections:
            poll.register(one, select.EPOLLIN)
        return len(connections) - len(poll.poll(0))


def resident(pid: int) -> int:
    """Bytes of memory in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def median_answer(port: int, request: bytes, times: int = 50) -> float:
    """Seconds from request to answer on a connection of its own, the median of ``times``."""
    seconds = []
    with socket.create_connection(("127.0.0.1", port), timeout=20) as one:
        for _ in range(times):
            started = time.perf_counter()
            ask([one], request)
            seconds.append(time.perf_counter() - started)
    return sorted(seconds)[times // 2]
