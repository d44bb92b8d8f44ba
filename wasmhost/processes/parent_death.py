"""Child processes that do not outlive the process that started them, on systems where the kernel sees to that."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def parent_death_signal(number: signal.Signals) -> Callable[[], None] | None:
    """What a child does before it runs its program: ask Linux for this signal when its parent is gone.

    None on other systems. For ``preexec_fn``, from the main thread: the kernel means the thread that made the child.
    """
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None, use_errno=True).prctl  # looked up here: the child must not import anything
    parent = os.getpid()

    def arm() -> None:
        prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)

    return arm
