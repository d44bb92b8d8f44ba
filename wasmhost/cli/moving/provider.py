"""Moving a provider: it starts on the other host, is ready with all its links, then the one here leaves and finishes.

One that listens for clients takes the listening sockets over where both hosts are on one machine.
"""

from __future__ import annotations

import time
from contextlib import suppress

from lattice import bundled
from lattice.cloudevents import Event
from lattice.control import Inventory, ProviderDescription, StartProvider
from lattice.errors import Code, LatticeError, Unreachable
from wasmhost.apps.moving import find_provider, lacking
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.failures import start_failure
from wasmhost.cli.moving.steps import DRAIN_TIMEOUT, Moved, goes_on, require_ours, step
from wasmhost.cli.problems import Problem
from wasmhost.cli.session import Session

_FOLLOWS = "`wasmhost migrate` hands an address over between hosts of one user on one machine only"


async def move_provider(
    session: Session,
    provider: ProviderDescription,
    source: Inventory,
    target: Inventory,
    *,
    drain: float = DRAIN_TIMEOUT,
    force: bool = False,
) -> Moved:
    """Move a provider of ``source``. Raises Problem, and it goes on where it was if the other host fails it."""
    name = provider.name or provider.image_ref or provider.id
    await require_ours(session, target)
    _check(provider, name, target, force=force)
    begun = time.monotonic()
    started = find_provider(target, provider.id, provider.link_name) is None
    try:
        await _start(session, provider, source, target, follow=started)
    except (LatticeError, Problem) as error:
        if started:
            await _take_back(session, provider, target)
        problem = goes_on(error, what=name, source=source, target=target)
        if problem.exit_code is ExitCode.CONFLICT and "in use" in str(problem):
            problem.hint = _FOLLOWS
        raise problem from error
    ready = time.monotonic()
    await _stop(session, provider, source.host_id, drain=drain)
    return Moved(
        kind="provider",
        public_key=provider.id,
        name=name,
        link_name=provider.link_name,
        instances=1,
        source=source,
        target=target,
        ready_s=ready - begun,
        gone_s=time.monotonic() - ready,
    )


def _check(provider: ProviderDescription, name: str, target: Inventory, *, force: bool) -> None:
    ours = bundled.by_key(provider.id)
    if ours is not None and ours.volatile and not force:
        raise Problem(
            f"{name} keeps its data in its process: moved, it would begin empty",
            hint="add --force to lose the data, or link the actors to a provider that stores them elsewhere",
        )
    if missing := lacking(target, [provider.annotations]):
        labels = ", ".join(f"{label}={value}" for label, value in missing.items())
        raise Problem(
            f"{name} needs a host with the labels {labels}, which {target.friendly_name} lacks",
            hint="choose another host: `wasmhost get inventory` lists their labels",
        )


async def _start(
    session: Session, provider: ProviderDescription, source: Inventory, target: Inventory, *, follow: bool
) -> None:
    """Have it ready on the other host, with every link. ``follow``: it does not run there yet."""
    client, reference = session.client, provider.image_ref or ""
    wanted = {
        link.actor_id
        for link in await client.links()
        if (link.provider_id, link.link_name) == (provider.id, provider.link_name)
    }

    async def command() -> None:
        if not follow:
            return
        await client.follow_provider(
            StartProvider(
                provider_ref=reference,
                host_id=target.host_id,
                link_name=provider.link_name,
                annotations=provider.annotations,
                sealed_configuration=await _sealed_configuration(session, provider, source),
                provider_id=provider.id,
                predecessor=source.host_id,
            )
        )

    async def done() -> bool | None:
        found = find_provider(await client.inventory(target.host_id), provider.id, provider.link_name)
        if found is None:
            return None
        for actor, link in found.links.items():
            if link.get("state") == "failed" and provider.links.get(actor, {}).get("state") != "failed":
                reason = link.get("reason", "")
                raise Problem(reason, exit_code=ExitCode.CONFLICT if "in use" in reason else ExitCode.FAILED)
        if found.state == "failed":
            raise Problem(found.error or "it failed without a reason")
        as_good = found.state in ("", "ready") or (found.state, found.error) == (provider.state, provider.error)
        settled = {actor for actor, link in found.links.items() if link.get("state") != "starting"}
        return True if as_good and (not found.state or wanted <= settled) else None

    def failed(event: Event) -> Problem | None:
        same = event.data.get("link_name", provider.link_name) == provider.link_name
        return start_failure(event, reference, target.host_id) if same else None

    await step(session, command, done, failed=failed, late="it was not ready")


async def _sealed_configuration(session: Session, provider: ProviderDescription, source: Inventory) -> str | None:
    try:
        launch = await session.client.provider_launch(source.host_id, provider.id, provider.link_name)
    except (Unreachable, LatticeError) as error:
        if error.code in (Code.NO_RESPONDERS, Code.TIMED_OUT, Code.UNSUPPORTED):
            raise Problem(
                f"{source.friendly_name} does not say how it started the provider, as hosts of other makers do not",
                hint="start it on the other host with its configuration, then stop it here",
            ) from error
        raise
    return launch.sealed_configuration


async def _stop(session: Session, provider: ProviderDescription, host_id: str, *, drain: float) -> None:
    client = session.client

    async def command() -> None:
        await client.stop_provider(
            host_id, provider.id, link_name=provider.link_name, contract_id=provider.contract_id, drain=drain
        )

    async def done() -> bool | None:
        found = find_provider(await client.inventory(host_id), provider.id, provider.link_name)
        return True if found is None else None

    await step(session, command, done, late="what was under way did not end")


async def _take_back(session: Session, provider: ProviderDescription, target: Inventory) -> None:
    """Stop what was started on the other host; as far as that can be told."""
    with suppress(LatticeError, Problem):
        await _stop(session, provider, target.host_id, drain=0)
