"""What a host writes to the standard input of a provider: host data first, new keys later, and its end.

Read from the descriptor itself: a buffer in between could swallow lines that follow the first at once.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

import structlog

from lattice.hostdata import MAX_LINE

log = structlog.get_logger()

_PORTION = 65536


class HostInput:
    """Lines from a file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = b""

    def first_line(self) -> bytes:
        """Wait for one line, blocking; what there is when it ends early or grows beyond MAX_LINE."""
        while b"\n" not in self._rest and len(self._rest) <= MAX_LINE:
            portion = os.read(self._descriptor, _PORTION)
            if not portion:
                break
            self._rest += portion
        line, _, self._rest = self._rest.partition(b"\n")
        return line

    def follow(self, on_line: Callable[[bytes], None], on_end: Callable[[], None]) -> None:
        """Call ``on_line`` for each further line, and ``on_end`` once when there are no more. Never blocks."""
        loop = asyncio.get_running_loop()

        def tell() -> None:
            *lines, self._rest = self._rest.split(b"\n")
            for line in lines:
                on_line(line)

        def readable() -> None:
            portion = b""
            with suppress(OSError):
                portion = os.read(self._descriptor, _PORTION)
            if portion and len(self._rest) <= MAX_LINE:
                self._rest += portion
                tell()
                return
            if portion:
                log.error("provider.input_too_long", limit=MAX_LINE)
            loop.remove_reader(self._descriptor)
            on_end()

        tell()
        # A regular file cannot be watched, and it has no other end that could close.
        with suppress(PermissionError):
            loop.add_reader(self._descriptor, readable)
