"""Making a lattice run applications: each command sent, and waited for until what it asks for is there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence

from lattice import bundled
from lattice.links import LinkDefinition
from wasmhost.apps.application import CapabilityComponent
from wasmhost.cli import actors, links, providers
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session
from wasmhost.cli.up.addresses import HTTP_CONTRACT
from wasmhost.cli.up.history import History
from wasmhost.cli.up.images import PreparedActor, PreparedApplication
from wasmhost.cli.up.progress import Progress

ProviderKey = tuple[str, str]
"""(image reference, link name): one process, however many applications name it."""


class Deployment:
    """The applications of one ``up`` on one host."""

    def __init__(
        self,
        session: Session,
        host_id: str,
        applications: Sequence[PreparedApplication],
        *,
        history: History,
        progress: Progress,
    ) -> None:
        self._session = session
        self._host_id = host_id
        self._applications = applications
        self._history = history
        self._progress = progress

    async def run(self) -> list[LinkDefinition]:
        """Remove what an earlier run left, start actors and providers, link them; the links that are ready.

        Raises Problem for the first thing that does not work.
        """
        await self._remove_stale()
        provider_ids = await self._start_all()
        wanted = self._links(provider_ids)
        self._history.note(self._history.links() | {link.key for link in wanted})
        # HTTP last: the first request finds everything behind the actor in place.
        for last in (False, True):
            await _together(self._link(link) for link in wanted if (link.contract_id == HTTP_CONTRACT) is last)
        return wanted

    async def _remove_stale(self) -> None:
        """Take away the links that an earlier run put and that no application names now."""
        before = self._history.links()
        if not before:
            return
        stale = before - {
            (
                actor.claims.subject,
                application.application.capability(link.target).contract,
                application.application.capability(link.target).link_name,
            )
            for application in self._applications
            for actor in application.actors
            for link in actor.component.links
        }
        for link in await self._session.client.links():
            if link.key in stale:
                await links.delete_and_wait(self._session, link)
                self._progress.step(
                    f"removed the link of {self._name(link.actor_id)} for {link.contract_id} that an earlier up put"
                )
        self._history.note(before - stale)

    async def _start_all(self) -> dict[ProviderKey, str]:
        """Start every actor and provider at once; the public keys of the providers."""
        wanted: dict[ProviderKey, CapabilityComponent] = {}
        for application in self._applications:
            for component in application.providers:
                wanted.setdefault((component.image, component.link_name), component)
        found: dict[ProviderKey, str] = {}

        async def start_provider(key: ProviderKey, component: CapabilityComponent) -> None:
            found[key] = await self._start_provider(component)

        await _together(
            [
                *(start_provider(key, component) for key, component in wanted.items()),
                *(self._start_actor(actor) for application in self._applications for actor in application.actors),
            ]
        )
        return found

    async def _start_provider(self, component: CapabilityComponent) -> str:
        if bundled.is_bundled(component.image):
            known = bundled.find(component.image)
            self._progress.names[known.public_key] = component.name
        _, provider = await providers.start_and_wait(
            self._session,
            self._host_id,
            component.image,
            link_name=component.link_name,
            configuration=component.config,
        )
        self._progress.names[provider.id] = component.name
        self._progress.detail(f"provider {component.name}: {component.contract}, ready")
        return provider.id

    async def _start_actor(self, actor: PreparedActor) -> None:
        component = actor.component
        placed = await actors.start_and_wait(
            self._session, self._host_id, actor.reference, count=component.scaler.instances
        )
        plural = "instance" if placed.instances == 1 else "instances"
        self._progress.detail(f"actor {component.name}: {placed.instances} {plural}")

    def _links(self, provider_ids: dict[ProviderKey, str]) -> list[LinkDefinition]:
        wanted = []
        for application in self._applications:
            for actor in application.actors:
                for trait in actor.component.links:
                    target = application.application.capability(trait.target)
                    wanted.append(
                        LinkDefinition(
                            actor_id=actor.claims.subject,
                            provider_id=provider_ids[target.image, target.link_name],
                            contract_id=target.contract,
                            link_name=target.link_name,
                            values=dict(trait.values),
                        )
                    )
        return wanted

    async def _link(self, link: LinkDefinition) -> None:
        who = f"{self._name(link.actor_id)} -> {self._name(link.provider_id)}"
        try:
            await links.put_and_wait(self._session, link)
        except Problem as problem:
            raise Problem(
                f"link {who}: {problem.reason or problem}",
                exit_code=problem.exit_code,
                hint=_up_hint(problem),
            ) from problem
        self._progress.detail(f"link {who}: ready")

    def _name(self, key: str) -> str:
        return self._progress.names.get(key, key[:12] + "…")


def _up_hint(problem: Problem) -> str:
    """What helps here: `up` is over, so nothing is tried again."""
    from wasmhost.cli.exit_codes import ExitCode

    if problem.exit_code is ExitCode.CONFLICT:
        return "stop what uses that port, or give the link another address in the manifest"
    return problem.hint


async def _together(work: Iterable[Awaitable[None]]) -> None:
    """Do all of it at once; the first failure ends the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(_awaited(one))
    except BaseExceptionGroup as failures:
        raise failures.exceptions[0] from None


async def _awaited(one: Awaitable[None]) -> None:
    await one
