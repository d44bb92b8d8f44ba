"""``cordon``, ``uncordon`` and ``drain``: close a host for what is new, and move away what it runs."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any

import click

from lattice.control import ActorDescription, HostPing, Inventory, ProviderDescription
from lattice.errors import Code, LatticeError
from wasmhost.apps.moving import homes_for_actor, homes_for_provider, no_home
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.hosts import stop_and_wait
from wasmhost.cli.moving.actor import move_actor
from wasmhost.cli.moving.migrate import drain_option
from wasmhost.cli.moving.provider import move_provider
from wasmhost.cli.moving.steps import Moved, step
from wasmhost.cli.output import Output
from wasmhost.cli.problems import Problem, from_error
from wasmhost.cli.session import Session

Move = Callable[[Inventory], Coroutine[Any, Any, Moved]]


@click.command("cordon", short_help="let a host take on nothing new")
@click.argument("host", shell_complete=complete.hosts)
@lattice_options
@pass_app
def cordon(app: App, host: str) -> None:
    """Let HOST take on nothing new: it bids in no auction, and applications are placed elsewhere.

    What runs goes on, and what is started on it by name starts. It stays so over a restart, until `wasmhost uncordon`.
    """
    _set(app, host, closed=True)


@click.command("uncordon", short_help="let a host take on what is new again")
@click.argument("host", shell_complete=complete.hosts)
@lattice_options
@pass_app
def uncordon(app: App, host: str) -> None:
    """Let HOST take on what is new again."""
    _set(app, host, closed=False)


def _set(app: App, text: str, *, closed: bool) -> None:
    async def work(session: Session) -> HostPing:
        meant = await session.find_host(text)
        await set_cordon(session, meant, closed=closed)
        return meant

    meant = app.run(work)
    if app.output.json:
        app.output.document({"host_id": meant.id, "friendly_name": meant.friendly_name, "cordoned": closed})
    else:
        app.output.text(f"{'cordoned' if closed else 'uncordoned'} {meant.friendly_name} ({meant.id})")


async def set_cordon(session: Session, host: HostPing, *, closed: bool) -> None:
    """Close a host or open it, and see that it is so. Raises Problem."""

    async def command() -> None:
        try:
            await session.client.cordon(host.id, closed=closed)
        except LatticeError as error:
            if error.code is not Code.UNSUPPORTED and "unsupported" not in str(error).lower():
                raise
            raise Problem(f"host {host.friendly_name} knows no cordon, as hosts of other makers do not") from error

    async def done() -> bool | None:
        return True if (await session.client.inventory(host.id)).cordoned is closed else None

    await step(session, command, done, late=f"{host.friendly_name} did not say that it is so")


@dataclass(slots=True)
class _Drained:
    """A host after its drain."""

    host: HostPing
    moved: list[Moved] = field(default_factory=list)
    left: list[dict[str, str]] = field(default_factory=list)
    """What did not move: ``kind``, ``id``, ``name``, ``link_name``, ``reason``."""
    stopped: bool = False

    def show(self, output: Output) -> None:
        if output.json:
            output.document(
                {
                    "host_id": self.host.id,
                    "friendly_name": self.host.friendly_name,
                    "moved": [{"kind": each.kind, **each.document()} for each in self.moved],
                    "left": self.left,
                    "stopped": self.stopped,
                }
            )
            return
        for left in self.left:
            output.text(f"left {left['kind']} {left['name']}: {left['reason']}")
        total = f"{len(self.moved)} moved, {len(self.left)} left"
        output.text(f"drained {self.host.friendly_name}: {total}{', stopped' if self.stopped else ''}")


@click.command("drain", short_help="move away all that a host runs")
@click.argument("host", shell_complete=complete.hosts)
@click.option("--stop", is_flag=True, help="Stop the host when nothing is left on it.")
@drain_option
@click.option("--force", is_flag=True, help="Move providers that lose their data with their process, too.")
@lattice_options
@pass_app
def drain_host(app: App, *, host: str, stop: bool, drain: float, force: bool) -> None:
    """Cordon HOST and move all that it runs to other hosts that fit, one after the other. No call fails.

    What cannot move stays and is named, and the exit code is 1. The command can be repeated.
    """

    async def work(session: Session) -> _Drained:
        meant = await session.find_host(host)
        await set_cordon(session, meant, closed=True)
        drained = _Drained(meant)
        draining = _Draining(session, drained, app.output, drain=drain, force=force)
        await draining.all()
        if stop and not drained.left:
            await stop_and_wait(session, meant)
            drained.stopped = True
        return drained

    drained = app.run(work)
    drained.show(app.output)
    if drained.left:
        raise Problem(
            f"{len(drained.left)} of {len(drained.left) + len(drained.moved)} could not move from "
            f"{drained.host.friendly_name}, which stays cordoned",
            hint="the lines above say why; repeat the command once that is mended, or run `wasmhost uncordon`",
        )


class _Draining:
    """One drain."""

    def __init__(self, session: Session, drained: _Drained, output: Output, *, drain: float, force: bool) -> None:
        self._session = session
        self._drained = drained
        self._output = output
        self._drain = drain
        self._force = force

    async def all(self) -> None:
        """Move what the host runs; what stays is noted. Hosts are looked at anew before each move."""
        first = await self._session.client.inventory(self._drained.host.id)
        for actor in first.actors:
            await self._one_actor(actor)
        for provider in first.providers:
            if provider.state != "stopping":
                await self._one_provider(provider)

    async def _one_actor(self, actor: ActorDescription) -> None:
        hosts, source = await self._look()
        annotations = [each.annotations for each in actor.instances]
        homes = homes_for_actor(actor, source.host_id, hosts)
        reason = "" if homes else no_home(source.host_id, hosts, annotations)
        name = actor.name or actor.image_ref or actor.id
        left = {"kind": "actor", "id": actor.id, "name": name, "link_name": "", "reason": reason}
        await self._first_that_can(homes, lambda home: move_actor(self._session, actor.id, source, home), left)

    async def _one_provider(self, provider: ProviderDescription) -> None:
        hosts, source = await self._look()
        homes = homes_for_provider(provider, source.host_id, hosts)
        reason = "" if homes else no_home(source.host_id, hosts, [provider.annotations])
        name = provider.name or provider.image_ref or provider.id
        left = {
            "kind": "provider",
            "id": provider.id,
            "name": name,
            "link_name": provider.link_name,
            "reason": reason,
        }

        def move(home: Inventory) -> Coroutine[Any, Any, Moved]:
            return move_provider(self._session, provider, source, home, drain=self._drain, force=self._force)

        await self._first_that_can(homes, move, left)

    async def _first_that_can(self, homes: Sequence[Inventory], move: Move, left: dict[str, str]) -> None:
        for home in homes:
            try:
                moved = await move(home)
            except (LatticeError, Problem) as error:
                known = from_error(error) or Problem(str(error))
                left["reason"] = f"{known.reason or known}" + (f"; {known.hint}" if known.hint else "")
                if known.exit_code is ExitCode.TIMED_OUT and not known.reason:
                    break  # it is under way: another host would be a second move
                continue
            self._drained.moved.append(moved)
            if not self._output.json:
                moved.show(self._output)
            return
        self._drained.left.append(left)

    async def _look(self) -> tuple[list[Inventory], Inventory]:
        self._session.forget()
        hosts = await self._session.inventories()
        source = next((host for host in hosts if host.host_id == self._drained.host.id), None)
        if source is None:
            raise Problem(
                f"host {self._drained.host.friendly_name} does not answer any more", exit_code=ExitCode.NOT_FOUND
            )
        return hosts, source
