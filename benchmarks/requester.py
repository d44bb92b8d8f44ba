"""The requester of the comparisons over NATS: so many requests in flight, answers kept for a look afterwards."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field

from nats.aio.client import Client

IN_FLIGHT = 64
TIMEOUT = 5.0
"""Seconds after which a request counts as failed."""

Ask = Callable[[bytes], Awaitable[bytes]]


@dataclass(slots=True)
class Answers:
    """What came back. Answers are judged when the clock has stopped."""

    received: list[bytes] = field(default_factory=list)
    errors: list[Exception] = field(default_factory=list)


def asking(client: Client, subject: str) -> Ask:
    """Requests to one subject by nats-py."""

    async def ask(payload: bytes) -> bytes:
        return bytes((await client.request(subject, payload, timeout=TIMEOUT)).data)

    return ask


async def keep_asking(ask: Ask, payloads: Iterator[bytes], *, seconds: float, in_flight: int = IN_FLIGHT) -> Answers:
    """Send payloads, each once, until the time is up or none is left; returns when the last one is answered."""
    answers = Answers()
    end = time.perf_counter() + seconds

    async def one() -> None:
        for payload in payloads:
            try:
                answers.received.append(await ask(payload))
            except Exception as error:
                answers.errors.append(error)
            if time.perf_counter() >= end:
                return

    await asyncio.gather(*(one() for _ in range(in_flight)))
    return answers
