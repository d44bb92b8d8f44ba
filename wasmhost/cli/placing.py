"""On which host a command starts what it was asked to start: the one that was named, or one that bids for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import click

from lattice.control import Inventory
from lattice.errors import Unreachable
from wasmhost.apps.moving import to_annotations
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.host_option import host_option
from wasmhost.cli.problems import Problem, invalid, not_found
from wasmhost.cli.session import Session

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Where:
    """What was typed about the place."""

    host: str | None
    constraints: Mapping[str, str]
    """Labels that the host has to have."""
    auction_timeout: float | None
    """Seconds for bids; None: as long as the hosts that are there need."""

    @property
    def annotations(self) -> dict[str, str]:
        """Those of what is started there: when it moves, the next host has to have the labels, too."""
        return to_annotations(self.constraints) if self.host is None else {}

    @classmethod
    def typed(cls, host: str | None, constraints: Sequence[str], auction_timeout_ms: int | None) -> Self:
        """Raises Problem."""
        timeout = auction_timeout_ms / 1000 if auction_timeout_ms is not None else None
        return cls(host, pairs(constraints, "--constraint", "zone=eu-1"), timeout)


def pairs(texts: Sequence[str], flag: str, example: str) -> dict[str, str]:
    """NAME=VALUE texts as a mapping. Raises Problem."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise invalid(f"{flag}: '{text}' is not NAME=VALUE", f"for example {flag} {example}")
        found[name.strip()] = value.strip()
    return found


def placing_options(command: F) -> F:
    """Add the options that say where something is started; :meth:`Where.typed` reads them."""
    for option in (
        click.option(
            "--skip-wait", is_flag=True, help="Return when the host has accepted it, whatever becomes of it then."
        ),
        click.option(
            "--auction-timeout-ms",
            type=click.IntRange(1, 600_000),
            metavar="MS",
            help="Wait so long for bids (default: as long as hosts need).",
        ),
        click.option(
            "-c", "--constraint", "constraints", multiple=True, metavar="LABEL=VALUE",
            help="Only on a host with this label. Repeatable.",
        ),
        host_option("Host to start it on (default: the least busy one that bids)."),
    ):  # fmt: skip
        command = option(command)
    return command


async def place_actor(session: Session, where: Where, reference: str) -> str:
    """The key of the host that is to run an actor. Raises Problem."""

    def auction(timeout: float) -> Coroutine[Any, Any, list[str]]:
        return session.client.auction_actor(reference, where.constraints, timeout=timeout)

    return await _place(session, where, auction)


async def place_provider(session: Session, where: Where, reference: str, link_name: str) -> str:
    """The key of the host that is to run a provider. Raises Problem."""

    def auction(timeout: float) -> Coroutine[Any, Any, list[str]]:
        return session.client.auction_provider(reference, link_name, where.constraints, timeout=timeout)

    return await _place(session, where, auction, (reference, link_name))


async def _place(
    session: Session,
    where: Where,
    auction: Callable[[float], Coroutine[Any, Any, list[str]]],
    provider: tuple[str, str] | None = None,
) -> str:
    if where.host is not None:
        if where.constraints:
            session.output.say("--host names the host, so --constraint is not looked at.")
        return (await session.find_host(where.host)).id
    bidders = await auction(where.auction_timeout or session.window)
    if not bidders:
        inventories = await session.inventories()
        if (reason := _why_nobody(inventories, where.constraints, provider)) is not None:
            raise reason
        if where.auction_timeout is None and session.window < session.context.timeout:
            bidders = await auction(session.context.timeout)
        if not bidders:
            raise _unwilling(inventories, where.constraints)
    answers = await asyncio.gather(*(session.client.inventory(host) for host in bidders), return_exceptions=True)
    there: list[Inventory] = []
    for answer in answers:
        if isinstance(answer, Inventory):
            there.append(answer)
        elif not isinstance(answer, Unreachable):
            raise answer
    if not there:
        raise not_found("the host that bid is gone", "try again")
    chosen = least_busy(there)
    if len(there) > 1 or where.constraints:
        session.output.say(f"on host {chosen.friendly_name} ({chosen.host_id[:12]}…)")
    return chosen.host_id


def _why_nobody(
    inventories: Sequence[Inventory], constraints: Mapping[str, str], provider: tuple[str, str] | None
) -> Problem | None:
    """Why no host can have bid; None if some should have."""
    fitting = _fitting(inventories, constraints)
    labels = ", ".join(f"{name}={value}" for name, value in constraints.items())
    if not fitting:
        hosts = "the one host has not" if len(inventories) == 1 else f"none of {len(inventories)} hosts has"
        return not_found(
            f"{hosts} the labels {labels}",
            "`wasmhost get inventory` shows those they have, `wasmhost label HOST NAME=VALUE` gives one to a host",
        )
    if all(host.cordoned for host in fitting):
        return not_found(
            f"every host{f' with {labels}' if labels else ''} is cordoned",
            "name one with --host all the same, or open one with `wasmhost uncordon HOST`",
        )
    if provider is None or not all(
        provider in ((each.image_ref, each.link_name) for each in host.providers) for host in fitting
    ):
        return None
    where = f"every host with {labels}" if labels else "every host"
    return Problem(
        f"{provider[0]} runs already on {where} under the link name '{provider[1]}'",
        exit_code=ExitCode.CONFLICT,
        hint="stop it first, give the new one another --link-name, or start one more host",
    )


def _unwilling(inventories: Sequence[Inventory], constraints: Mapping[str, str]) -> Problem:
    names = ", ".join(host.friendly_name for host in _fitting(inventories, constraints))
    return not_found(f"no host bids, though labels would let {names}", "it may take no new work: name it with --host")


def _fitting(inventories: Sequence[Inventory], constraints: Mapping[str, str]) -> list[Inventory]:
    return [host for host in inventories if constraints.items() <= host.labels.items()]


def least_busy(inventories: Sequence[Inventory]) -> Inventory:
    """The host with the fewest instances and providers; the same one every time among equals."""
    return min(
        inventories,
        key=lambda i: (sum(actor.count for actor in i.actors) + len(i.providers), i.host_id),
    )
