"""The images of applications as local files: found, checked, and signed with the development key where unsigned."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lattice import bundled
from lattice.claims import ActorClaims, ClaimsError, ProviderClaims, check_times, read_actor
from lattice.claims import Problem as ClaimsProblem
from lattice.errors import LatticeError
from lattice.signing import sign_actor
from wasmhost.apps.application import ActorComponent, Application, CapabilityComponent, Mark
from wasmhost.apps.planner import Image
from wasmhost.cli import exit_codes
from wasmhost.cli.problems import Problem, from_error, invalid
from wasmhost.images.archive_file import read_archive_claims
from wasmhost.images.files import name_file
from wasmhost.images.reference import BundledReference, FileReference, parse
from wasmhost.private_files import make_private_folder
from wasmhost.state import Keyring

BUILTIN_CONTRACTS = ("wasmcloud:builtin:logging", "wasmcloud:builtin:numbergen")


@dataclass(frozen=True, slots=True)
class PreparedActor:
    """An actor component whose file was read and found sound."""

    component: ActorComponent
    path: Path
    """The file that the manifest names."""
    reference: str
    """What the host is asked to start; another file than ``path`` when that was unsigned."""
    claims: ActorClaims
    signed_here: bool


@dataclass(frozen=True, slots=True)
class PreparedArchive:
    """A capability component whose provider archive was found signed; its programs have not been looked at."""

    path: Path
    claims: ProviderClaims


@dataclass(frozen=True, slots=True)
class PreparedApplication:
    """An application whose images exist."""

    application: Application
    actors: tuple[PreparedActor, ...]
    providers: Mapping[str, Image]
    """By component name."""
    archives: tuple[PreparedArchive, ...] = ()
    """Those of the providers that are files."""

    def names(self) -> Iterator[tuple[str, str]]:
        """Component name and public key of everything in it."""
        for name, image in self.providers.items():
            yield name, image.public_key
        for actor in self.actors:
            yield actor.component.name, actor.claims.subject


def images_of(applications: Iterable[PreparedApplication]) -> dict[tuple[str, str], Image]:
    """All images, as the planner wants them: by application and component name."""
    found: dict[tuple[str, str], Image] = {}
    for prepared in applications:
        name = prepared.application.name
        found |= {(name, component): image for component, image in prepared.providers.items()}
        found |= {(name, a.component.name): Image(a.reference, a.claims.subject) for a in prepared.actors}
    return found


def prepare(applications: Sequence[Application], *, keyring: Keyring, folder: Path) -> tuple[PreparedApplication, ...]:
    """Read every image that the applications name. Signed copies of unsigned files go below ``folder``.

    Blocks on files. Raises Problem for all images that cannot be used, with their places in the manifests.
    """
    prepared = []
    troubles: list[tuple[Mark, Problem]] = []
    for application in applications:
        archives: list[PreparedArchive] = []
        providers: dict[str, Image] = {}
        actors: list[PreparedActor] = []
        for capability in application.capabilities:
            try:
                providers[capability.name] = _prepare_provider(application, capability, archives)
            except Problem as problem:
                troubles.append((capability.mark, problem))
        for actor in application.actors:
            try:
                actors.append(_prepare(application, actor, keyring, folder))
            except Problem as problem:
                troubles.append((actor.mark, problem))
        prepared.append(PreparedApplication(application, tuple(actors), providers, tuple(archives)))
    if troubles:
        raise _together(troubles)
    return tuple(prepared)


def _together(troubles: Sequence[tuple[Mark, Problem]]) -> Problem:
    """One Problem that tells all of them in the order of each manifest, with the exit code of the first."""
    ordered = [problem for _, problem in sorted(troubles, key=lambda one: (one[0].file, one[0].line, one[0].column))]
    if len(ordered) == 1:
        return ordered[0]
    sentences = [f"{problem}; {problem.hint}" if problem.hint else str(problem) for problem in ordered]
    return Problem("\n".join(sentences), exit_code=ordered[0].exit_code)


def _prepare_provider(
    application: Application, component: CapabilityComponent, archives: list[PreparedArchive]
) -> Image:
    """The image of a provider; what an archive says of itself is added to ``archives``."""
    try:
        place = parse(component.image, base=application.folder)
        if isinstance(place, BundledReference):
            known = bundled.find(component.image)
            image, contract = Image(component.image, known.public_key), known.contract_id
        else:
            archive = _read_archive(Path(os.path.normpath(place.path)))
            archives.append(archive)
            image, contract = Image(f"file://{archive.path}", archive.claims.subject), archive.claims.contract_id
    except ClaimsError as error:
        problem = from_error(error)
        hint = problem.hint if problem is not None else ""
        raise Problem(
            f"{component.mark}: {error}", exit_code=exit_codes.for_artifact(error.problem), hint=hint
        ) from error
    except LatticeError as error:
        raise _at(component.mark, error) from error
    if contract != component.contract:
        raise invalid(
            f"{component.mark}: {component.image} offers {contract}, not {component.contract}",
            f"write contract: {contract}",
        )
    return image


def _read_archive(path: Path) -> PreparedArchive:
    claims = read_archive_claims(path)
    try:
        check_times(claims, time.time())
    except LatticeError as error:
        name_file(error, path)
        raise
    return PreparedArchive(path, claims)


def _prepare(application: Application, component: ActorComponent, keyring: Keyring, folder: Path) -> PreparedActor:
    try:
        place = parse(component.image, base=application.folder)
    except LatticeError as error:
        raise _at(component.mark, error) from error
    if not isinstance(place, FileReference):
        raise invalid(
            f"{component.mark}: {component.image} is a provider, not an actor", "give the component type: capability"
        )
    path = Path(os.path.normpath(place.path))
    data = _read(path, component.mark)
    try:
        claims = read_actor(data)
        check_times(claims, time.time())
    except ClaimsError as error:
        if error.problem is ClaimsProblem.UNSIGNED:
            return _signed(application, component, (path, data), keyring, folder)
        problem = from_error(error)
        hint = problem.hint if problem is not None else ""
        raise Problem(
            f"{component.mark}: {path}: {error}", exit_code=exit_codes.for_artifact(error.problem), hint=hint
        ) from error
    return PreparedActor(component, path, f"file://{path}", claims, signed_here=False)


def _read(path: Path, mark: Mark) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise invalid(f"{mark}: there is no file {path}", "paths count from the folder of the manifest") from None
    except OSError as error:
        raise invalid(f"{mark}: {path} cannot be read: {(error.strerror or str(error)).lower()}", "check it") from error


def _signed(
    application: Application, component: ActorComponent, file: tuple[Path, bytes], keyring: Keyring, folder: Path
) -> PreparedActor:
    """A signed copy of an unsigned file, with the rights that its manifest implies."""
    path, data = file
    contracts = {application.capability(link.target).contract for link in component.links}
    try:
        signed = sign_actor(
            data,
            account=keyring.account(),
            module=keyring.module(path),
            name=component.name,
            capabilities=(*sorted(contracts), *BUILTIN_CONTRACTS),
            version=application.version,
        )
    except ClaimsError as error:
        raise invalid(f"{path}: {error}", "name a WebAssembly file") from error
    place = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    copy = folder / place / f"{path.stem}_s.wasm"
    make_private_folder(copy.parent)
    draft = copy.with_suffix(".new")
    draft.write_bytes(signed)
    draft.replace(copy)
    return PreparedActor(component, path, f"file://{copy}", read_actor(signed), signed_here=True)


def _at(mark: Mark, error: LatticeError) -> Problem:
    """The error with its place in the manifest; whatever its kind, the input is what is wrong."""
    return invalid(f"{mark}: {error}")
