"""The epoch tick: what makes a computing guest hand control back."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import wasmtime

INTERVAL = 0.01
"""Seconds between ticks, while a guest runs."""

_LINGER = 5
"""Ticks that go on after the last guest, so that a stream of short calls does not wake the thread each time."""


class Ticker:
    """A thread that raises the engine's epoch every 10 ms while a guest runs, and sleeps otherwise.

    The loop thread sets ``inline`` around each poll (one poll at a time there); worker threads use :meth:`computing`.
    """

    def __init__(self, engine: wasmtime.Engine) -> None:
        self._engine = engine
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._computing = 0
        self._closed = False
        self.inline = False
        """A guest runs on the loop thread. Set it first, then look at ``asleep`` and call :meth:`wake`."""
        self.used = False
        """A guest ran on the loop thread since the last tick."""
        self.asleep = True
        self._thread = threading.Thread(target=self._run, name="wasmhost-epochs", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Start ticking. Any thread."""
        self.asleep = False
        self._wake.set()

    @contextmanager
    def computing(self) -> Iterator[None]:
        """A guest runs on the calling worker thread."""
        with self._lock:
            self._computing += 1
        if self.asleep:
            self.wake()
        try:
            yield
        finally:
            with self._lock:
                self._computing -= 1

    def close(self) -> None:
        """End the thread. No guest may run any more."""
        self._closed = True
        self._wake.set()
        self._thread.join(timeout=5)

    def _run(self) -> None:
        while True:
            self._wake.wait()
            quiet = 0
            since, ticks = time.monotonic(), 0
            while not self._closed and quiet < _LINGER:
                time.sleep(INTERVAL)
                # A busy machine wakes us late; guests on threads have their deadline in epochs, so catch up.
                behind = max(1, int((time.monotonic() - since) / INTERVAL) - ticks)
                for _ in range(behind):
                    self._engine.increment_epoch()
                ticks += behind
                busy = self.inline or self.used or self._computing
                self.used = False
                quiet = 0 if busy else quiet + 1
            if self._closed:
                return
            # The order matters: whoever starts a guest says so first and reads `asleep` then. So either that thread
            # sees us asleep and wakes us, or we see its guest here; never neither.
            self._wake.clear()
            self.asleep = True
            if self.inline or self._computing:
                self.wake()
