"""Whether a host takes on anything new: kept in its state folder, so that a restart does not undo it.

A cordoned host bids in no auction and planners pass it over. What runs goes on, and what is started
on it by name starts.
"""

from __future__ import annotations

import os
from pathlib import Path

from wasmhost.private_files import StateError

_FILE = "cordoned"


class Cordon:
    """The mark of one host."""

    def __init__(self, folder: Path) -> None:
        """``folder``: the state folder of the host, which exists."""
        self._path = folder / _FILE
        self.closed = self._path.exists()
        """The host takes on nothing new."""

    def set(self, closed: bool) -> bool:
        """Close or open the host; whether that changed anything. Raises StateError when it cannot be remembered."""
        if closed == self.closed:
            return False
        try:
            if closed:
                os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
            else:
                self._path.unlink(missing_ok=True)
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be {'written' if closed else 'removed'}: {error.strerror}; "
                "the host would not remember it after a restart"
            ) from error
        self.closed = closed
        return True
