"""Several subscriptions made or ended in the time of one round trip: on a slow link their number must not matter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from lattice.errors import LatticeError
from lattice.transport import MessageHandler, Subscription, Transport


async def subscribe_all(
    transport: Transport, wanted: Iterable[tuple[str, str]], handler: MessageHandler
) -> list[Subscription]:
    """Subscribe to each ``(subject, queue group)``; returns when the server knows all of them.

    Where one fails, the others are left again and its error is raised.
    """
    outcomes = await asyncio.gather(
        *(transport.subscribe(subject, handler, queue=queue) for subject, queue in wanted), return_exceptions=True
    )
    made = [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            await unsubscribe_all(made)
            raise outcome
    return made


async def unsubscribe_all(subscriptions: Iterable[Subscription]) -> None:
    """Leave each, as far as there is a server that confirms it."""
    outcomes = await asyncio.gather(*(each.unsubscribe() for each in subscriptions), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and not isinstance(outcome, LatticeError):
            raise outcome
