"""What moves of actors and of providers have in common: their result, and how a step is waited for."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from lattice.cloudevents import Event
from lattice.control import Inventory
from wasmhost.cli.output import Output, shorten
from wasmhost.cli.problems import Problem, from_error, timed_out
from wasmhost.cli.session import Session

T = TypeVar("T")

STEP_TIMEOUT = 60.0
"""Seconds for one step: compiling a large module, or finishing long calls, takes its time."""
DRAIN_TIMEOUT = 15.0
"""Seconds that what is under way at a provider may take by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """Something that has moved, and how long its steps took."""

    kind: str
    """``actor`` or ``provider``."""
    public_key: str
    name: str
    link_name: str = ""
    """Of a provider."""
    instances: int
    source: Inventory
    target: Inventory
    ready_s: float
    """Seconds until it was ready on the other host."""
    gone_s: float
    """Seconds after that until everything under way here was finished and it was gone."""

    def document(self) -> dict[str, Any]:
        return {
            f"{self.kind}_id": self.public_key,
            "name": self.name,
            **({"link_name": self.link_name} if self.link_name else {}),
            "instances": self.instances,
            "from_host_id": self.source.host_id,
            "from_host_name": self.source.friendly_name,
            "to_host_id": self.target.host_id,
            "to_host_name": self.target.friendly_name,
            "ready_s": round(self.ready_s, 3),
            "gone_s": round(self.gone_s, 3),
        }

    def show(self, output: Output) -> None:
        count = f", {self.instances} instance{'s' if self.instances > 1 else ''}" if self.kind == "actor" else ""
        link = f" (link name {self.link_name})" if self.link_name not in ("", "default") else ""
        output.text(
            f"moved {self.name} ({shorten(self.public_key, 13)}){link}{count}: "
            f"{self.source.friendly_name} -> {self.target.friendly_name}"
        )
        output.text(f"  ready there after {self.ready_s:.2f} s, gone here {self.gone_s:.2f} s later")


async def step(
    session: Session,
    command: Callable[[], Awaitable[None]],
    done: Callable[[], Awaitable[T | None]],
    *,
    late: str,
    failed: Callable[[Event], Problem | None] = lambda event: None,
) -> T:
    """Send a command and wait until ``done`` says what came of it. Raises Problem.

    ``failed`` reads an event that says why it will not be done; ``late`` is said when it is not done in time.
    """
    patience = session.patience(STEP_TIMEOUT)

    def event(event: Event) -> None:
        if (problem := failed(event)) is not None:
            raise problem

    try:
        return await session.carry_out(command, patience, state=done, event=event)
    except TimeoutError:
        raise timed_out(f"{late} within {patience:g} s", "run the command again to go on, or see the logs") from None


async def require_ours(session: Session, target: Inventory) -> None:
    """Refuse a host of another maker as the one to move to.

    The Elixir hosts leave annotations unread, so that what arrives could not be told from what had been there; none of
    them opens a sealed configuration.
    """
    if not any(host.id == target.host_id and host.guests for host in await session.hosts()):
        raise Problem(
            f"{target.friendly_name} is a host of another maker, which moves cannot end at",
            hint="start it there with `wasmhost start`, then stop it here with `wasmhost stop`",
        )


def goes_on(problem: Exception, *, what: str, source: Inventory, target: Inventory) -> Problem:
    """A failure on the other host, told with what it means: nothing has changed here."""
    known = from_error(problem) or Problem(str(problem))
    return Problem(
        f"{target.friendly_name} cannot run {what}, which goes on on {source.friendly_name}: {known}",
        exit_code=known.exit_code,
        hint=known.hint,
        reason=str(known),
    )
