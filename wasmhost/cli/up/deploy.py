"""Making hosts run applications: each command of the plan sent, and waited for until what it asks for is there."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from itertools import groupby
from typing import Any

from lattice.links import LinkDefinition, LinkTable
from wasmhost.apps.planner import (
    Command,
    DeleteLink,
    Observed,
    PutLink,
    ScaleActor,
    StartProvider,
    StopActor,
    StopProvider,
    plan,
    wanted_links,
)
from wasmhost.cli import actor_scale, links, providers
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session
from wasmhost.cli.up.history import History
from wasmhost.cli.up.images import PreparedApplication, images_of
from wasmhost.cli.up.progress import Progress

MOST_RESTARTS = 3
"""Starts of a provider that may fail before it counts as one that does not work."""
LINK_GRACE = 3.0
"""Seconds for which a link may be reported as failed before that counts: a provider may just be coming back."""


class Deployment:
    """The applications of one ``up`` on its hosts. Other hosts of the lattice are left alone.

    It may be run again, after a failure too: only what is missing is done.
    """

    def __init__(
        self,
        session: Session,
        hosts: Mapping[str, str],
        applications: Sequence[PreparedApplication],
        *,
        history: History,
        progress: Progress,
    ) -> None:
        """``hosts`` maps their keys to their names; the first is preferred."""
        self._session = session
        self._hosts = hosts
        self._applications = [prepared.application for prepared in applications]
        self._images = images_of(applications)
        self._history = history
        self._progress = progress

    async def run(self) -> list[LinkDefinition]:
        """Remove what an earlier run left, start actors and providers, link them; the links, which are ready then.

        Raises Problem for the first thing that does not work.
        """
        wanted = wanted_links(self._applications, self._images)
        for entry in await self._session.client.claims():
            self._progress.names.setdefault(entry.get("sub", ""), entry.get("name", ""))
        ours = self._history.links()
        observed = Observed(
            hosts=[await self._session.client.inventory(host_id) for host_id in self._hosts],
            links=LinkTable(await self._session.client.links()),
            our_links=ours,
        )
        commands = plan(self._applications, self._images, observed, evenly=True)
        keys = {link.key for link in wanted}
        self._history.note(ours | keys)  # before they are put: a crash must not make us forget one
        for _, group in groupby(commands, key=type):
            await _together([self._carry_out(command) for command in group])
        self._history.note(keys)
        await _together([self._wait_ready(link) for link in wanted])
        return wanted

    async def _carry_out(self, command: Command) -> None:
        session, tell = self._session, self._progress.detail
        match command:
            case DeleteLink(link=link):
                await links.delete_and_wait(session, link)
                tell(f"link {self._shown(link)}: removed, an earlier up had put it")
            case PutLink(link=link):
                await links.put_and_wait(session, link, grace=LINK_GRACE)
            case StopActor():
                await actor_scale.stop_and_wait(
                    session, command.host_id, command.actor_id, annotations=command.annotations
                )
                tell(f"actor {self._name(command.actor_id)}: stopped{self._on(command.host_id)}")
            case StopProvider():
                await providers.stop_and_wait(
                    session,
                    command.host_id,
                    command.provider_id,
                    link_name=command.link_name,
                    contract_id=command.contract_id,
                )
                tell(f"provider {self._name(command.provider_id)}: stopped{self._on(command.host_id)}")
            case ScaleActor():
                placed = await actor_scale.scale_and_wait(
                    session,
                    command.host_id,
                    command.reference,
                    actor_id=command.actor_id,
                    count=command.count,
                    annotations=command.annotations,
                )
                plural = "instance" if placed.instances == 1 else "instances"
                where = self._on(command.host_id)
                tell(f"actor {self._name(command.actor_id)}: {placed.instances} {plural}{where}")
            case StartProvider():
                await providers.start_and_wait(
                    session,
                    command.host_id,
                    command.reference,
                    link_name=command.link_name,
                    configuration=command.configuration,
                    annotations=command.annotations,
                    most_restarts=MOST_RESTARTS,
                )
                tell(f"provider {self._name(command.provider_id)}: ready{self._on(command.host_id)}")

    async def _wait_ready(self, link: LinkDefinition) -> None:
        try:
            await links.wait_ready(self._session, link, grace=LINK_GRACE)
        except Problem as problem:
            hint = problem.hint
            if problem.exit_code is ExitCode.CONFLICT:
                hint = "stop what uses that port, or give the link another address in the manifest"
            elif problem.exit_code in (ExitCode.FAILED, ExitCode.USAGE):
                hint = "put that right, or the values of the link in the manifest, and run this again"
            raise Problem(
                f"link {self._shown(link)}: {problem.reason or problem}", exit_code=problem.exit_code, hint=hint
            ) from problem
        self._progress.detail(f"link {self._shown(link)}: ready")

    def _on(self, host_id: str) -> str:
        """Where something is, if there is more than one place."""
        return f" on {self._hosts.get(host_id, host_id[:12])}" if len(self._hosts) > 1 else ""

    def _shown(self, link: LinkDefinition) -> str:
        return f"{self._name(link.actor_id)} -> {self._name(link.provider_id)}"

    def _name(self, key: str) -> str:
        return self._progress.names.get(key) or key[:12] + "…"


async def _together(work: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Do all of it at once; the first failure ends the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(one)
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None
