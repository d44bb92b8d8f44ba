"""``start actor``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import click

from lattice.cloudevents import Event
from wasmhost.cli.accepted import Accepted, accepting
from wasmhost.cli.actors import COUNT_FLAGS, Placed, placed
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.failures import start_failure
from wasmhost.cli.image_references import image_reference
from wasmhost.cli.placing import Where, place_actor, placing_options
from wasmhost.cli.problems import invalid, timed_out
from wasmhost.cli.session import Session
from wasmhost.configuration import limits
from wasmhost.configuration.limits import LimitError
from wasmhost.guest.calls import Limits

START_TIMEOUT = 60.0
"""Seconds: compiling a large module takes its time."""


@click.command("actor", short_help="start an actor")
@click.argument("image")
@placing_options
@click.option(
    *COUNT_FLAGS,
    "count",
    type=click.IntRange(1, 65535),
    default=1,
    show_default=True,
    metavar="N",
    help="Instances to start.",
)
@click.option("--limit", "limit_texts", multiple=True, metavar="NAME=N", help="For example memory_mib=128. Repeatable.")
@lattice_options
@pass_app
def start_actor(
    app: App,
    *,
    image: str,
    host_text: str | None,
    constraints: tuple[str, ...],
    auction_timeout_ms: int | None,
    skip_wait: bool,
    count: int,
    limit_texts: tuple[str, ...],
) -> None:
    """Start the signed actor IMAGE: a path on the host, or file:///…

    Waits until it runs, or says why it does not.
    """
    reference = image_reference(image)
    where = Where.typed(host_text, constraints, auction_timeout_ms)
    annotations = {**_limit_annotations(limit_texts), **where.annotations}

    async def work(session: Session) -> Placed | Accepted:
        host_id = await place_actor(session, where, reference)
        if skip_wait:
            async with accepting(session, host_id) as accepted:
                await session.client.launch_actor(host_id, reference, count, annotations)
            return accepted
        return await start_and_wait(session, host_id, reference, count=count, annotations=annotations)

    app.run(work).show(app.output, "started")


def _limit_annotations(texts: Sequence[str]) -> dict[str, str]:
    """The annotations that ask for limits typed as NAME=N. Raises Problem."""
    try:
        numbers = limits.parsed({name: text for name, _, text in (item.partition("=") for item in texts)})
        limits.changed(Limits(), numbers)
    except LimitError as error:
        raise invalid(str(error), "write for example --limit memory_mib=128") from error
    return limits.to_annotations(numbers)


async def start_and_wait(
    session: Session, host_id: str, reference: str, *, count: int, annotations: Mapping[str, str] | None = None
) -> Placed:
    """Start instances of an actor on a host and wait until they run. Raises Problem with the reason if not."""
    patience = session.patience(START_TIMEOUT)

    def event(event: Event) -> str | None:
        if (problem := start_failure(event, reference, host_id)) is not None:
            raise problem
        started = event.name in ("actors_started", "actor_scaled")
        if started and event.source == host_id and event.data.get("image_ref") == reference:
            return str(event.data.get("public_key", ""))
        return None

    async def running() -> tuple[str, int]:
        inventory = await session.client.inventory(host_id)
        found = next((actor for actor in inventory.actors if actor.image_ref == reference), None)
        return (found.id, found.count) if found is not None else ("", 0)

    async def state() -> str | None:  # an event can be lost with a NATS server that is restarted
        actor_id, instances = await running()
        return actor_id if instances >= before + count else None

    _, before = await running()
    try:
        actor_id = await session.carry_out(
            lambda: session.client.launch_actor(host_id, reference, count, annotations),
            patience,
            state=state,
            event=event,
        )
    except TimeoutError:
        raise timed_out(
            f"{reference} did not start within {patience:g} s, and the host did not say why",
            "look at `wasmhost get inventory` and at the host's log, or allow more with --timeout",
        ) from None
    return await placed(session, actor_id, host_id)
