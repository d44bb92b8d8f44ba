"""``stop actor`` and ``scale actor``: how many instances run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import click

from lattice.cloudevents import Event
from lattice.control import ActorDescription, Inventory
from wasmhost.cli import names as complete
from wasmhost.cli.accepted import Accepted, accepting
from wasmhost.cli.actors import COUNT_FLAGS, LOOK, Placed, actor_and_host, find_running, hosts_of, placed
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.failures import start_failure
from wasmhost.cli.host_option import host_option
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import shorten
from wasmhost.cli.placing import pairs
from wasmhost.cli.problems import invalid, timed_out
from wasmhost.cli.session import Session

SCALE_TIMEOUT = 60.0
"""Seconds: compiling a large module takes its time."""
STOP_TIMEOUT = 15.0


@click.command("actor", short_help="stop an actor")
@click.argument("names", nargs=-1, required=True, metavar="ACTOR", shell_complete=complete.actors_of_lattice)
@host_option("Only on this host (default: wherever it runs).")
@click.option("--count", type=click.IntRange(1, 65535), metavar="N", help="Only so many instances on each host.")
@click.option("--skip-wait", is_flag=True, help="Return when the hosts have accepted it.")
@lattice_options
@pass_app
def stop_actor(app: App, *, names: tuple[str, ...], host_text: str | None, count: int | None, skip_wait: bool) -> None:
    """Stop all instances of ACTOR; calls in flight finish. The classic order HOST ACTOR is accepted too."""
    actor, host_text = actor_and_host(names, host_text, "stop")

    async def work(session: Session) -> list[Placed] | Accepted:
        meant, inventories = await find_running(session, actor)
        host_ids = await hosts_of(session, meant.key, inventories, host_text)
        if skip_wait:
            async with accepting(session, *host_ids) as accepted:
                for host_id in host_ids:
                    await session.client.stop_actor(host_id, meant.key, count or 0)
            return accepted
        return [await _stop_on(session, meant, host_id, count) for host_id in host_ids]

    stopped = app.run(work)
    if isinstance(stopped, Accepted):
        stopped.show(app.output, "stopped")
        return
    if app.output.json:
        app.output.document({"actor_id": stopped[0].actor_id, "stopped_on": [one.host_id for one in stopped]})
        return
    for one in stopped:
        left = f": {one.instances} left" if one.instances else ""
        app.output.text(f"stopped {one.name} ({shorten(one.actor_id, 13)}) on {one.host_name}{left}")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise invalid(f"'{text}' is no number of instances from 0 to 65535", "for example `wasmhost scale actor echo 3`")


async def _stop_on(session: Session, actor: Candidate, host_id: str, count: int | None) -> Placed:
    await stop_and_wait(session, host_id, actor.key, count=count)
    left = await placed(session, actor.key, host_id)
    return replace(left, name=left.name or actor.name)


def _matching(actor: ActorDescription, annotations: Mapping[str, str]) -> int:
    """How many instances carry at least these annotations."""
    return sum(instance.count for instance in actor.instances if annotations.items() <= instance.annotations.items())


async def stop_and_wait(
    session: Session,
    host_id: str,
    actor_id: str,
    *,
    annotations: Mapping[str, str] | None = None,
    count: int | None = None,
) -> None:
    """Stop the instances with these annotations, or ``count`` of them, and wait until they are gone. Raises Problem."""
    patience = session.patience(STOP_TIMEOUT)
    wanted = annotations or {}

    async def left() -> int:
        inventory = await session.client.inventory(host_id)
        return sum(_matching(actor, wanted) for actor in inventory.actors if actor.id == actor_id)

    remaining = max(0, await left() - count) if count else 0

    async def state() -> bool | None:
        return True if await left() <= remaining else None

    try:
        await session.carry_out(
            lambda: session.client.stop_actor(host_id, actor_id, count or 0, wanted), patience, state=state
        )
    except TimeoutError:
        raise timed_out(
            f"{actor_id} still has {await left()} instances {patience:g} s after it was told to stop",
            f"calls in flight are finished first: look at `{LOOK}`, or allow more with --timeout",
        ) from None


@click.command("actor", short_help="change how many instances of an actor run")
@click.argument("names", nargs=-1, required=True, metavar="ACTOR COUNT", shell_complete=complete.actors_of_lattice)
@host_option("On this host (needed when it runs on several).")
@click.option("-c", *COUNT_FLAGS, "count", type=click.IntRange(0, 65535), hidden=True)
@click.option(
    "-a",
    "--annotations",
    "annotation_texts",
    multiple=True,
    metavar="NAME=VALUE",
    help="Annotations of those that are meant (default: none, or the only ones). Repeatable.",
)
@lattice_options
@pass_app
def scale_actor(
    app: App, *, names: tuple[str, ...], host_text: str | None, count: int | None, annotation_texts: tuple[str, ...]
) -> None:
    """Run COUNT instances of ACTOR; 0 stops it. Calls in flight finish. The classic order HOST ACTOR --count COUNT is
    accepted too.
    """
    if count is None and len(names) > 1:
        *rest, text = names
        names, count = tuple(rest), _count(text)
    if count is None:
        raise invalid("say how many instances there should be", "for example `wasmhost scale actor echo 3`")
    instances = count
    if len(names) == 3 and host_text is None:  # HOST ACTOR IMAGE: the image is that of the actor
        names = names[:2]
    actor, host_text = actor_and_host(names, host_text, "scale")
    given = pairs(annotation_texts, "--annotations", "team=shop")

    async def work(session: Session) -> Placed:
        meant, inventories = await find_running(session, actor)
        host_ids = await hosts_of(session, meant.key, inventories, host_text)
        if len(host_ids) > 1:
            raise invalid(f"{meant.describe()} runs on {len(host_ids)} hosts", "choose one with --host")
        reference, annotations = _one_set(meant, host_ids[0], inventories, given)
        placed = await scale_and_wait(
            session, host_ids[0], reference, actor_id=meant.key, count=instances, annotations=annotations
        )
        return replace(placed, name=placed.name or meant.name, image_ref=reference)

    app.run(work).show(app.output, "scaled")


def _one_set(
    actor: Candidate, host_id: str, inventories: Sequence[Inventory], given: Mapping[str, str]
) -> tuple[str, dict[str, str]]:
    """Image reference and annotations that are meant: those ``given``, else none, or the only ones. Raises Problem."""
    running = next(a for i in inventories if i.host_id == host_id for a in i.actors if a.id == actor.key)
    if given:
        return running.image_ref or "", dict(given)
    sets = [dict(each) for each in sorted({tuple(sorted(each.annotations.items())) for each in running.instances})]
    if len(sets) > 1 and sets[0]:
        known = "; ".join(", ".join(f"{name}={value}" for name, value in each.items()) for each in sets)
        raise invalid(
            f"{actor.describe()} was started {len(sets)} times with different annotations on this host: {known}",
            "say which are meant with --annotations NAME=VALUE, repeated for each",
        )
    return running.image_ref or "", next(iter(sets), {})


async def scale_and_wait(
    session: Session,
    host_id: str,
    reference: str,
    *,
    actor_id: str,
    count: int,
    annotations: Mapping[str, str],
) -> Placed:
    """Have ``count`` instances with exactly these annotations; wait until it is so. Raises Problem."""
    patience = session.patience(SCALE_TIMEOUT)

    async def running() -> int:
        inventory = await session.client.inventory(host_id)
        return sum(
            dict(instance.annotations) == dict(annotations)
            for actor in inventory.actors
            if actor.id == actor_id
            for instance in actor.instances
        )

    def event(event: Event) -> bool | None:
        if (problem := start_failure(event, reference, host_id)) is not None:
            raise problem
        return None

    async def state() -> bool | None:
        return True if await running() == count else None

    try:
        await session.carry_out(
            lambda: session.client.scale_actor(
                host_id, reference, actor_id=actor_id, count=count, annotations=annotations
            ),
            patience,
            state=state,
            event=event,
        )
    except TimeoutError:
        raise timed_out(
            f"{reference} has {await running()} instances after {patience:g} s, not {count}",
            f"look at `{LOOK}` and at the host's log, or allow more with --timeout",
        ) from None
    return await placed(session, actor_id, host_id)
