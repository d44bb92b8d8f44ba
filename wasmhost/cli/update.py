"""``update actor``: put a newer revision of a running actor in its place, without losing a call."""

from __future__ import annotations

from dataclasses import dataclass

import click

from lattice.cloudevents import Event
from lattice.control import Inventory
from lattice.errors import LatticeError
from wasmhost.cli import actors
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.failures import failure
from wasmhost.cli.host_option import host_option
from wasmhost.cli.image_references import image_reference
from wasmhost.cli.output import shorten
from wasmhost.cli.problems import Problem, invalid, timed_out
from wasmhost.cli.session import Session

UPDATE_TIMEOUT = 60.0
"""Seconds: the new module is compiled first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Updated:
    """An actor on one host after its update."""

    host_id: str
    host_name: str
    image_ref: str
    revision: int
    before: int
    instances: int


@click.command("actor", short_help="put a newer revision of an actor in its place")
@click.argument("names", nargs=-1, required=True, metavar="ACTOR IMAGE", shell_complete=complete.actors_of_lattice)
@host_option("Only on this host (default: wherever it runs).")
@lattice_options
@pass_app
def update_actor(app: App, names: tuple[str, ...], host_text: str | None) -> None:
    """Replace the running ACTOR by its newer revision IMAGE: a path on the host, or file:///…

    Calls go on: those in flight finish on the old instances. When the new one does not start, the old one stays. The
    classic order HOST ACTOR IMAGE is accepted too.
    """
    if len(names) == 3 and host_text is None:
        host_text, *rest = names
        actor, image = rest
    elif len(names) == 2:
        actor, image = names
    else:
        raise invalid("write the actor and its new image", "for example `wasmhost update actor echo ./echo_v2.wasm`")
    reference = image_reference(image)

    async def work(session: Session) -> tuple[str, str, list[Updated]]:
        meant, inventories = await actors.find_running(session, actor)
        host_ids = await actors.hosts_of(session, meant.key, inventories, host_text)
        by_host = {inventory.host_id: inventory for inventory in inventories}
        done: list[Updated] = []
        for host_id in host_ids:
            try:
                done.append(await update_and_wait(session, by_host[host_id], meant.key, reference))
            except (LatticeError, Problem):
                if done:
                    where = ", ".join(updated.host_name for updated in done)
                    session.output.say(f"Updated on {where}; not on {by_host[host_id].friendly_name}.")
                raise
        return meant.key, meant.name or reference, done

    actor_id, name, done = app.run(work)
    if app.output.json:
        hosts = [{field: getattr(updated, field) for field in Updated.__slots__} for updated in done]
        app.output.document({"actor_id": actor_id, "name": name, "updated": hosts})
        return
    for updated in done:
        change = f"revision {updated.before} -> {updated.revision}"
        if updated.before == updated.revision:
            change = f"revision {updated.revision} with renewed claims"
        app.output.text(f"updated {name} ({shorten(actor_id, 13)}) on {updated.host_name}: {change}")


async def update_and_wait(session: Session, inventory: Inventory, actor_id: str, reference: str) -> Updated:
    """Update an actor on the host of ``inventory`` and wait until every instance is new. Raises Problem if not."""
    host_id, host_name = inventory.host_id, inventory.friendly_name
    before, old, _ = _running(inventory, actor_id)
    patience = session.patience(UPDATE_TIMEOUT)

    def event(event: Event) -> None:
        data = event.data
        if event.name == "actor_update_failed" and event.source == host_id and data.get("public_key") == actor_id:
            problem = failure({**data, "error": data.get("reason")})
            raise Problem(
                f"the update failed, revision {before} goes on: {problem}",
                exit_code=problem.exit_code,
                hint=problem.hint,
            )

    async def state() -> tuple[int, int] | None:
        revision, instances, image_ref = _running(await session.client.inventory(host_id), actor_id)
        # renewed claims may leave the revision as it was, so that only the instances are new
        renewed = bool(instances) and not instances & old
        return (revision, len(instances)) if (revision > before or renewed) and image_ref == reference else None

    try:
        revision, instances = await session.carry_out(
            lambda: session.client.update_actor(host_id, actor_id, reference), patience, state=state, event=event
        )
    except TimeoutError:
        raise timed_out(
            f"{reference} did not take over on {host_name} within {patience:g} s; revision {before} goes on",
            f"look at `{actors.LOOK}` and `wasmhost logs {actor_id[:12]}`, or allow more with --timeout",
        ) from None
    return Updated(
        host_id=host_id,
        host_name=host_name,
        image_ref=reference,
        revision=revision,
        before=before,
        instances=instances,
    )


def _running(inventory: Inventory, actor_id: str) -> tuple[int, set[str], str]:
    """Revision, ids of the instances and image of an actor on one host."""
    found = next((actor for actor in inventory.actors if actor.id == actor_id), None)
    if found is None:
        return 0, set(), ""
    revision = max((instance.revision for instance in found.instances), default=0)
    return revision, {instance.instance_id for instance in found.instances}, found.image_ref or ""
