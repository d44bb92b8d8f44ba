"""A process that stood still knows that what it reads next may be old."""

from __future__ import annotations

import socket
import time

from lattice.connection import ConnectOptions, connect
from lattice.standstill import NOTICEABLE
from tests.support.nats import NatsServer
from tests.support.waiting import eventually


def publish_at_once(server: NatsServer, subject: str, payload: bytes) -> None:
    """By hand, on a connection of its own, without a turn of the loop; returns when the server has it."""
    with socket.create_connection((server.address, server.port), timeout=5) as wire:
        message = b"PUB %s %d\r\n%s\r\n" % (subject.encode(), len(payload), payload)
        wire.sendall(b'CONNECT {"verbose":false}\r\n' + message + b"PING\r\n")
        heard = b""
        while b"PONG" not in heard:
            heard += wire.recv(4096)


async def test_what_waited_while_the_process_stood_still_is_told_from_what_comes_after(nats_server: NatsServer) -> None:
    connection = await connect(ConnectOptions(url=nats_server.url, name="test of a standstill"))
    ages: dict[bytes, float] = {}
    await connection.subscribe(
        "standstill", lambda subject, reply, headers, data: ages.update({data: connection.behind()})
    )
    publish_at_once(nats_server, "standstill", b"before")
    await eventually(lambda: b"before" in ages)
    publish_at_once(nats_server, "standstill", b"meanwhile")
    time.sleep(NOTICEABLE + 0.3)  # noqa: ASYNC251 the whole process stands still
    await eventually(lambda: b"meanwhile" in ages and connection.behind() == 0)
    publish_at_once(nats_server, "standstill", b"after")
    await eventually(lambda: b"after" in ages)
    assert ages[b"meanwhile"] > NOTICEABLE
    assert (ages[b"before"], ages[b"after"]) == (0, 0)
    await connection.drain()
