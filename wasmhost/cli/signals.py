"""The signals that end a long-running command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Ctrl-C, a supervisor's request, a closed terminal."""


@contextmanager
def ending_signals(handler: Callable[[], None]) -> Iterator[None]:
    """Call ``handler`` on the running loop for each ending signal.

    Afterwards they are ignored, since the process is about to leave with an exit code that one which comes twice must
    not change. SIGHUP stays ignored where `nohup` has it so; SIGINT does not, which shells ignore in background jobs.
    """
    loop = asyncio.get_running_loop()
    spared = signal.SIGHUP if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else None
    handled = [number for number in ENDING if number is not spared]
    for number in handled:
        loop.add_signal_handler(number, handler)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)
