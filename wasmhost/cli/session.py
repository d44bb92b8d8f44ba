"""One command's connection to the lattice, and the questions that commands ask of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

CLIENT_NAME = "wasmhost-cli"
