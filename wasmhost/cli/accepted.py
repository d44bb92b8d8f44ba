"""``--skip-wait``: a command that a host has accepted, without a look at what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lattice.errors import LatticeError
from wasmhost.cli.output import Output
from wasmhost.cli.session import Session, refused


@dataclass(frozen=True, slots=True)
class Accepted:
    """What one host, or several, have accepted."""

    host_ids: tuple[str, ...]

    def show(self, output: Output, verb: str) -> None:
        """``verb`` is what would be said of the finished work."""
        if output.json:
            output.document({"accepted": True, "host_ids": list(self.host_ids)})
            return
        hosts = ", ".join(host_id[:12] + "…" for host_id in self.host_ids)
        output.text(f"accepted by {hosts}; not waited until it is {verb}")


@asynccontextmanager
async def accepting(session: Session, *host_ids: str) -> AsyncIterator[Accepted]:
    """For the command that is sent inside; raises its refusal as the other commands do."""
    try:
        yield Accepted(host_ids)
    except LatticeError as error:
        raise refused(error) from error
