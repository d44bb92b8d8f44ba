"""``apply``: what one host shall run, from the file that the classic client calls a host manifest."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import click

from lattice import bundled
from lattice.document import Document
from lattice.errors import LatticeError, MalformedMessage
from lattice.inventory import Inventory
from lattice.keys import Role, require_key
from lattice.links import LinkDefinition
from lattice.subjects import DEFAULT_LINK_NAME
from wasmhost.cli import actor_start, links, providers
from wasmhost.cli import names as complete
from wasmhost.cli.app import App, lattice_options, pass_app
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.image_references import image_reference
from wasmhost.cli.problems import Problem, from_error, invalid
from wasmhost.cli.session import Session
from wasmhost.configuration import small_yaml

_VARIABLE: Final = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::([^}]*))?\}")
_MEMBERS: Final = ("actors", "capabilities", "links")


@dataclass(frozen=True, slots=True)
class HostManifest:
    """``actors``, ``capabilities`` and ``links`` of one host, in the order of the file."""

    actors: tuple[str, ...]
    providers: tuple[tuple[str, str], ...]
    """Image reference and link name."""
    links: tuple[LinkDefinition, ...]

    @property
    def images(self) -> list[str]:
        return [*self.actors, *(reference for reference, _ in self.providers)]

    @classmethod
    def read(cls, path: Path, variables: Mapping[str, str] | None) -> HostManifest:
        """Read a YAML file; with ``variables``, ``${NAME:default}`` in its texts is replaced. Raises Problem."""
        try:
            content = small_yaml.read(path)
            fields = Document(str(path), content)
            unknown = sorted(set(fields.names()) - set(_MEMBERS))
            if unknown:
                raise invalid(
                    f"{path}: '{unknown[0]}' is no member of a host manifest; those are {', '.join(_MEMBERS)}",
                    "a manifest with apiVersion is for `wasmhost up`",
                )
            content = content if variables is None else _expanded(content, variables)
            fields = Document(str(path), content)
            return cls(
                actors=tuple(image_reference(text) for text in fields.texts("actors")),
                providers=tuple(
                    (image_reference(entry.required_text("image_ref")), entry.text("link_name") or DEFAULT_LINK_NAME)
                    for entry in fields.documents("capabilities")
                ),
                links=tuple(_link(entry) for entry in fields.documents("links")),
            )
        except OSError as error:
            raise invalid(f"{path} cannot be read: {error.strerror}", "check the path") from error
        except small_yaml.BadYaml as error:
            hint = "docs/commands.md shows a host manifest"
            raise invalid(f"{path}{error.where} is not YAML: {error}", hint) from error
        except MalformedMessage as error:
            raise invalid(str(error), "docs/commands.md shows a host manifest") from error


def _link(entry: Document) -> LinkDefinition:
    provider = entry.required_text("provider_id")
    if bundled.is_bundled(provider):
        provider = bundled.find(provider).public_key
    return LinkDefinition(
        actor_id=require_key(entry.required_text("actor"), Role.MODULE, f"{entry.what}: actor"),
        provider_id=require_key(provider, Role.SERVICE, f"{entry.what}: provider_id"),
        contract_id=entry.required_text("contract_id"),
        link_name=entry.text("link_name") or DEFAULT_LINK_NAME,
        values=entry.mapping("values"),
    )


def _expanded(value: object, variables: Mapping[str, str]) -> object:
    """``value`` with the variables in its texts replaced: after parsing, so that no value can change the structure."""

    def replaced(match: re.Match[str]) -> str:
        name, default = match.groups()
        found = variables.get(name, default)
        if found is None:
            raise invalid(f"the variable {name} is not set", f"set it, or write ${{{name}:default}}")
        return str(found)

    match value:
        case str():
            return _VARIABLE.sub(replaced, value)
        case list():
            return [_expanded(item, variables) for item in value]
        case dict():
            return {key: _expanded(item, variables) for key, item in value.items()}
    return value


@dataclass(slots=True)
class _Applied:
    """What became of the entries so far."""

    app: App
    entries: list[dict[str, Any]]
    failures: list[Problem]

    async def carry_out(
        self, kind: str, what: str, there: bool, work: Callable[[], Coroutine[Any, Any, object]]
    ) -> None:
        """One entry; a failure is kept, and the next entry gets its turn."""
        outcome = "runs already"
        if not there:
            outcome = "done"
            try:
                await work()
            except (LatticeError, Problem) as error:
                problem = error if isinstance(error, Problem) else from_error(error) or Problem(str(error))
                self.failures.append(problem)
                self.app.output.say(f"{kind} {what}: {problem}")
                return
        self.entries.append({"kind": kind, "name": what, "outcome": outcome})
        if not self.app.output.json:
            self.app.output.text(f"{kind} {what}: {outcome}")


@click.command(short_help="have one host run what a host manifest lists")
@click.argument("host", shell_complete=complete.hosts)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("-e", "--expand-env", is_flag=True, help="Replace ${NAME:default} in its texts by variables.")
@lattice_options
@pass_app
def apply(app: App, host: str, file: Path, expand_env: bool) -> None:
    """Start the actors and capabilities that FILE lists on HOST, then put its links.

    An entry that fails does not keep the others from their turn; the exit code is that of the first one. What runs on
    HOST already is left as it is.
    """
    manifest = HostManifest.read(file, dict(os.environ) if expand_env else None)
    if not expand_env and any(_VARIABLE.search(reference) for reference in manifest.images):
        app.output.say("Variables in FILE are replaced with --expand-env only.")
    applied = _Applied(app, [], [])

    async def work(session: Session) -> Inventory:
        meant = await session.find_host(host)
        before = await session.client.inventory(meant.id)
        images = {actor.image_ref for actor in before.actors}
        running = {(provider.image_ref, provider.link_name) for provider in before.providers}
        known = await session.client.links()
        for reference in manifest.actors:
            start = partial(actor_start.start_and_wait, session, meant.id, reference, count=1)
            await applied.carry_out("actor", reference, reference in images, start)
        for reference, link_name in manifest.providers:
            begin = partial(providers.start_and_wait, session, meant.id, reference, link_name=link_name)
            name = reference if link_name == DEFAULT_LINK_NAME else f"{reference} ({link_name})"
            await applied.carry_out("provider", name, (reference, link_name) in running, begin)
        for link in manifest.links:
            name = f"{link.actor_id[:12]}… {link.contract_id} {link.link_name}"
            await applied.carry_out("link", name, link in known, partial(links.put_and_wait, session, link))
        return before

    inventory = app.run(work)
    if applied.failures:
        first = applied.failures[0]
        total = len(applied.entries) + len(applied.failures)
        raise Problem(
            f"{len(applied.failures)} of {total} entries failed, the first one: {first}",
            exit_code=ExitCode(first.exit_code),
            hint=first.hint,
        )
    if app.output.json:
        app.output.document({"host_id": inventory.host_id, "applied": applied.entries})
