"""``label``: labels of a host, changed while it runs."""

from __future__ import annotations

import click

from lattice.control import Inventory
from lattice.errors import LatticeError
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.placing import pairs
from wasmhost.cli.session import Session, refused


@click.command(short_help="give a host labels, or take them away")
@click.argument("host", shell_complete=complete.hosts)
@click.argument("labels", nargs=-1, required=True, metavar="NAME=VALUE...")
@click.option("--delete", is_flag=True, help="Take these labels away; a value is not looked at.")
@lattice_options
@pass_app
def label(app: App, host: str, labels: tuple[str, ...], delete: bool) -> None:
    """Give HOST labels by which auctions and manifests choose it, until it ends.

    \b
    wasmhost label quiet-river-1234 zone=eu-1 disk=fast
    wasmhost label quiet-river-1234 disk --delete

    What runs on it stays there.
    """
    gone = [text.partition("=")[0].strip() for text in labels] if delete else []
    given = {} if delete else pairs(labels, "label", "zone=eu-1")

    async def work(session: Session) -> Inventory:
        meant = await session.find_host(host)
        try:
            for name, value in given.items():
                await session.client.put_label(meant.id, name, value)
            for name in gone:
                await session.client.delete_label(meant.id, name)
        except LatticeError as error:
            raise refused(error) from error
        return await session.client.inventory(meant.id)

    inventory = app.run(work)
    if app.output.json:
        app.output.document({"host_id": inventory.host_id, "labels": dict(inventory.labels)})
        return
    shown = ", ".join(f"{name}={value}" for name, value in sorted(inventory.labels.items()))
    app.output.text(f"{inventory.friendly_name}: {shown}")
