"""Actors: ``get actors``, ``start actor``, ``stop actor``, ``scale actor``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from lattice.control import ActorDescription, Inventory
from lattice.errors import LatticeError
from lattice.events import Event
from wasmhost import limits
from wasmhost.cli import exit_codes, identify
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.identify import Candidate
from wasmhost.cli.output import Column, Output, Row, shorten
from wasmhost.cli.problems import Problem, hint_for, invalid, not_found, timed_out
from wasmhost.cli.session import Session, refused
from wasmhost.cli.watching import watch_option
from wasmhost.guest.calls import Limits
from wasmhost.limits import LimitError

START_TIMEOUT = 60.0
"""Seconds: compiling a large module takes its time."""
STOP_TIMEOUT = 15.0
LOOK = "wasmhost get actors"
_COUNT_FLAGS = ("--count", "--max", "--max-concurrent", "--max-instances")
"""What generations of the classic client call the wanted number of instances."""


def actor_document(actor: ActorDescription) -> dict[str, Any]:
    """One actor on one host as ``-o json`` shows it."""
    return {
        "actor_id": actor.id,
        "name": actor.name,
        "image_ref": actor.image_ref,
        "instances": actor.count,
        "revision": max((instance.revision for instance in actor.instances), default=0),
        "annotations": dict(actor.instances[0].annotations) if actor.instances else {},
    }


_COLUMNS = [Column("ACTOR", 13, early=True), Column("NAME", 8), Column("IMAGE", 12, keep_end=True)]


def show_on_host(output: Output, actors: Sequence[ActorDescription]) -> None:
    """A table of the actors on one host."""
    output.table(
        [*_COLUMNS, Column("COUNT")],
        [Row([actor.id, actor.name or "", actor.image_ref or "", str(actor.count)]) for actor in actors],
    )


def candidates(inventories: Sequence[Inventory], claims: Sequence[dict[str, str]] = ()) -> list[Candidate]:
    """The actors that run, and those whose claims the lattice knows, each once."""
    names: dict[str, str] = {entry.get("sub", ""): entry.get("name", "") for entry in claims}
    aliases = {entry.get("sub", ""): entry.get("call_alias", "") for entry in claims}
    references: dict[str, set[str]] = {}
    for inventory in inventories:
        for actor in inventory.actors:
            names[actor.id] = actor.name or names.get(actor.id, "")
            references.setdefault(actor.id, set()).update({actor.image_ref} if actor.image_ref else ())
    return [
        Candidate(
            key=key,
            name=name or "",
            alias=aliases.get(key) or "",
            references=frozenset(references.get(key, set())),
        )
        for key, name in names.items()
        if key.startswith("M")
    ]


async def find_running(session: Session, text: str) -> tuple[Candidate, list[Inventory]]:
    """The running actor that ``text`` means, and every host's inventory. Raises Problem."""
    inventories = await session.inventories()
    running = {actor.id for inventory in inventories for actor in inventory.actors}
    known = [c for c in candidates(inventories, await session.client.claims()) if c.key in running]
    return identify.resolve(text, known, what="actor", look=LOOK), inventories


def image_reference(text: str) -> str:
    """What a host can make of an image as typed here: a local path becomes an absolute file reference."""
    if "://" in text or text.startswith("bundled:"):
        return text
    path = Path(text).expanduser()
    if path.exists() or text.startswith(("/", "./", "../", "~")) or text.endswith((".wasm", ".par", ".par.gz")):
        return f"file://{path.absolute()}"
    return text


@click.command("actors", short_help="the actors of the lattice")
@lattice_options
@watch_option
@pass_app
def get_actors(app: App) -> None:
    """Show the actors that run in the lattice."""

    async def work(session: Session) -> tuple[list[Inventory], list[dict[str, str]]]:
        return await session.inventories(), await session.client.claims()

    inventories, claims = app.run(work)
    known = {candidate.key: candidate for candidate in candidates(inventories, claims)}
    found = [(inventory, actor) for inventory in inventories for actor in inventory.actors]
    if app.output.json:
        app.output.document(
            {
                "actors": [
                    {
                        **actor_document(actor),
                        "call_alias": known[actor.id].alias or None,
                        "host_id": inventory.host_id,
                        "host_name": inventory.friendly_name,
                    }
                    for inventory, actor in found
                ]
            }
        )
        return
    if not found:
        app.output.say("No actors run in this lattice.")
        return
    app.output.table(
        [
            Column("ACTOR", 13, early=True),
            Column("NAME", 8),
            Column("ALIAS", 8),
            Column("IMAGE", 12, keep_end=True),
            Column("HOST", 10, early=True, keep_end=True),
            Column("COUNT"),
        ],
        [
            Row(
                [
                    actor.id,
                    actor.name or "",
                    known[actor.id].alias,
                    actor.image_ref or "",
                    inventory.friendly_name,
                    str(actor.count),
                ]
            )
            for inventory, actor in found
        ],
    )


@dataclass(frozen=True, slots=True)
class Placed:
    """An actor as it runs on a host after a command."""

    actor_id: str
    name: str
    host_id: str
    host_name: str
    image_ref: str
    instances: int

    def show(self, output: Output, verb: str) -> None:
        if output.json:
            output.document({name: getattr(self, name) for name in self.__slots__})
            return
        plural = "instance" if self.instances == 1 else "instances"
        name = self.name or self.image_ref
        output.text(f"{verb} {name} ({shorten(self.actor_id, 13)}) on {self.host_name}: {self.instances} {plural}")


def start_failure(event: Event, reference: str, host_id: str) -> Problem | None:
    """What an event says about a failed start of ``reference`` on ``host_id``; None when it says nothing."""
    data = event.data
    if event.source != host_id:
        return None
    by_name = {
        "actor_start_failed": "actor_ref",
        "actors_start_failed": "image_ref",
        "provider_start_failed": "provider_ref",
    }
    member = by_name.get(event.name)
    if member is None or data.get(member) != reference:
        return None
    return failure(data)


def failure(data: Any) -> Problem:
    """The problem that the data of a failure event describe, with the exit code of its reason."""
    message = str(data.get("error") or "it failed without a reason")
    code = str(data.get("code") or "")
    problem = str(data.get("problem") or "")
    if problem:
        exit_code = exit_codes.for_artifact(problem)
    elif code == "malformed":
        exit_code = ExitCode.USAGE  # here it is the file that is malformed, not a message
    else:
        exit_code = exit_codes.for_code(code)
    return Problem(message, exit_code=exit_code, hint=hint_for(code, message))


@click.command("actor", short_help="start an actor")
@click.argument("image")
@click.option(
    "--host",
    "--host-id",
    "host_text",
    metavar="HOST",
    shell_complete=complete.hosts,
    help="Host to start it on (default: the least busy one).",
)
@click.option("--count", type=click.IntRange(1, 65535), default=1, show_default=True, help="Instances to start.")
@click.option("--limit", "limit_texts", multiple=True, metavar="NAME=N", help="For example memory_mib=128. Repeatable.")
@lattice_options
@pass_app
def start_actor(app: App, image: str, host_text: str | None, count: int, limit_texts: tuple[str, ...]) -> None:
    """Start the signed actor IMAGE: a path on the host, or file:///…

    Waits until it runs, or says why it does not.
    """
    reference = image_reference(image)
    annotations = _limit_annotations(limit_texts)

    async def work(session: Session) -> Placed:
        host_id = await choose_host(session, host_text)
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

    async with session.watch() as watch:
        _, before = await running()
        try:
            await session.client.launch_actor(host_id, reference, count, annotations)
        except LatticeError as error:
            raise refused(error) from error
        try:
            actor_id = await watch.until(patience, event=event, state=state)
        except TimeoutError:
            raise timed_out(
                f"{reference} did not start within {patience:g} s, and the host did not say why",
                "look at `wasmhost get inventory` and at the host's log, or allow more with --timeout",
            ) from None
    return await _placed(session, actor_id, host_id)


async def choose_host(session: Session, text: str | None) -> str:
    """The key of the host that ``text`` names, else of the one with the least to do."""
    if text is not None:
        return (await session.find_host(text)).id
    inventories = await session.inventories()
    if not inventories:
        raise not_found("the host that answered is gone", "try again")
    chosen = least_busy(inventories)
    if len(inventories) > 1:
        session.output.say(f"on host {chosen.friendly_name} ({chosen.host_id[:12]}…)")
    return chosen.host_id


def least_busy(inventories: Sequence[Inventory]) -> Inventory:
    """The host with the fewest instances and providers; the same one every time among equals."""
    return min(
        inventories,
        key=lambda i: (sum(actor.count for actor in i.actors) + len(i.providers), i.host_id),
    )


async def _placed(session: Session, actor_id: str, host_id: str) -> Placed:
    inventory = await session.client.inventory(host_id)
    actor = next((actor for actor in inventory.actors if actor.id == actor_id), None)
    return Placed(
        actor_id=actor_id,
        name=(actor.name or "") if actor else "",
        host_id=host_id,
        host_name=inventory.friendly_name,
        image_ref=(actor.image_ref or "") if actor else "",
        instances=actor.count if actor else 0,
    )


@click.command("actor", short_help="stop an actor")
@click.argument("names", nargs=-1, required=True, metavar="ACTOR", shell_complete=complete.actors_of_lattice)
@click.option(
    "--host",
    "--host-id",
    "host_text",
    metavar="HOST",
    shell_complete=complete.hosts,
    help="Only on this host (default: wherever it runs).",
)
@lattice_options
@pass_app
def stop_actor(app: App, names: tuple[str, ...], host_text: str | None) -> None:
    """Stop all instances of ACTOR; calls in flight finish. The classic order HOST ACTOR is accepted too."""
    actor, host_text = actor_and_host(names, host_text, "stop")

    async def work(session: Session) -> list[Placed]:
        meant, inventories = await find_running(session, actor)
        host_ids = await hosts_of(session, meant.key, inventories, host_text)
        return [await _stop_on(session, meant, host_id) for host_id in host_ids]

    stopped = app.run(work)
    if app.output.json:
        app.output.document({"actor_id": stopped[0].actor_id, "stopped_on": [placed.host_id for placed in stopped]})
        return
    for placed in stopped:
        app.output.text(f"stopped {placed.name} ({shorten(placed.actor_id, 13)}) on {placed.host_name}")


def actor_and_host(names: Sequence[str], host_text: str | None, verb: str) -> tuple[str, str | None]:
    """Actor and host of ACTOR, or of HOST ACTOR as the classic command line has it. Raises Problem."""
    if len(names) == 1:
        return names[0], host_text
    if len(names) == 2 and host_text is None:
        return names[1], names[0]
    raise invalid("name one actor", f"for example `wasmhost {verb} actor echo --host HOST`")


def _count(text: str) -> int:
    if text.isascii() and text.isdigit() and int(text) <= 65535:
        return int(text)
    raise invalid(f"'{text}' is no number of instances from 0 to 65535", "for example `wasmhost scale actor echo 3`")


async def hosts_of(
    session: Session, actor_id: str, inventories: Sequence[Inventory], host_text: str | None
) -> list[str]:
    """The hosts on which an actor runs, or the one of them that is meant. Raises Problem."""
    running = [i.host_id for i in inventories if any(actor.id == actor_id for actor in i.actors)]
    if host_text is None:
        return running
    host = await session.find_host(host_text)
    if host.id not in running:
        raise not_found(f"that actor does not run on host {host.friendly_name}", f"`{LOOK}` lists where it does")
    return [host.id]


async def _stop_on(session: Session, actor: Candidate, host_id: str) -> Placed:
    await stop_and_wait(session, host_id, actor.key)
    left = await _placed(session, actor.key, host_id)
    return replace(left, name=left.name or actor.name)


def _matching(actor: ActorDescription, annotations: Mapping[str, str]) -> int:
    """How many instances carry at least these annotations."""
    return sum(instance.count for instance in actor.instances if annotations.items() <= instance.annotations.items())


async def stop_and_wait(
    session: Session, host_id: str, actor_id: str, *, annotations: Mapping[str, str] | None = None
) -> None:
    """Stop the instances with these annotations (default: all) and wait until they are gone. Raises Problem."""
    patience = session.patience(STOP_TIMEOUT)
    wanted = annotations or {}

    async def left() -> int:
        inventory = await session.client.inventory(host_id)
        return sum(_matching(actor, wanted) for actor in inventory.actors if actor.id == actor_id)

    async def state() -> bool | None:
        return True if await left() == 0 else None

    async with session.watch() as watch:
        try:
            await session.client.stop_actor(host_id, actor_id, 0, wanted)
        except LatticeError as error:
            raise refused(error) from error
        try:
            await watch.until(patience, event=lambda event: None, state=state)
        except TimeoutError:
            raise timed_out(
                f"{actor_id} still has {await left()} instances {patience:g} s after it was told to stop",
                f"calls in flight are finished first: look at `{LOOK}`, or allow more with --timeout",
            ) from None


@click.command("actor", short_help="change how many instances of an actor run")
@click.argument("names", nargs=-1, required=True, metavar="ACTOR COUNT", shell_complete=complete.actors_of_lattice)
@click.option(
    "--host",
    "--host-id",
    "host_text",
    metavar="HOST",
    shell_complete=complete.hosts,
    help="On this host (needed when it runs on several).",
)
@click.option(*_COUNT_FLAGS, "count", type=click.IntRange(0, 65535), hidden=True)
@lattice_options
@pass_app
def scale_actor(app: App, names: tuple[str, ...], host_text: str | None, count: int | None) -> None:
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

    async def work(session: Session) -> Placed:
        meant, inventories = await find_running(session, actor)
        host_ids = await hosts_of(session, meant.key, inventories, host_text)
        if len(host_ids) > 1:
            raise invalid(f"{meant.describe()} runs on {len(host_ids)} hosts", "choose one with --host")
        reference, annotations = _one_set(meant, host_ids[0], inventories)
        placed = await scale_and_wait(
            session, host_ids[0], reference, actor_id=meant.key, count=instances, annotations=annotations
        )
        return replace(placed, name=placed.name or meant.name, image_ref=reference)

    app.run(work).show(app.output, "scaled")


def _one_set(actor: Candidate, host_id: str, inventories: Sequence[Inventory]) -> tuple[str, dict[str, str]]:
    """Image reference and annotations under which an actor runs on a host. Raises Problem when there are several."""
    running = next(a for i in inventories if i.host_id == host_id for a in i.actors if a.id == actor.key)
    sets = {tuple(sorted(instance.annotations.items())) for instance in running.instances}
    if len(sets) > 1:
        raise invalid(
            f"{actor.describe()} was started {len(sets)} times with different annotations on this host",
            "stop it with `wasmhost stop actor` and start it once",
        )
    return running.image_ref or "", dict(next(iter(sets), ()))


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
    patience = session.patience(START_TIMEOUT)

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

    async with session.watch() as watch:
        try:
            await session.client.scale_actor(
                host_id, reference, actor_id=actor_id, count=count, annotations=annotations
            )
        except LatticeError as error:
            raise refused(error) from error
        try:
            await watch.until(patience, event=event, state=state)
        except TimeoutError:
            raise timed_out(
                f"{reference} has {await running()} instances after {patience:g} s, not {count}",
                f"look at `{LOOK}` and at the host's log, or allow more with --timeout",
            ) from None
    return await _placed(session, actor_id, host_id)
