"""``wasmhost inspect``: what a file is, who signed it, what it may use."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from lattice import bundled, wasmfile
from lattice import claims as lattice_claims
from lattice.bundled import BundledProvider
from lattice.claims import ActorClaims, ProviderClaims
from lattice.errors import LatticeError, MalformedMessage
from wasmhost.cli.app import App, output_option, pass_app
from wasmhost.cli.output import duration
from wasmhost.cli.problems import invalid
from wasmhost.cli.signed_files import claims_document, day, named, opened, time_problem
from wasmhost.images.archive_file import ArchiveContents, examine_archive
from wasmhost.images.files import ImageError
from wasmhost.images.reference import BundledReference, parse

_GZIP, _ELF = b"\x1f\x8b", b"\x7fELF"
_TAR_MARK = slice(257, 262)


@click.command(short_help="show what a file is, who signed it and what it may use")
@click.argument("file", metavar="FILE")
@click.option("--jwt-only", is_flag=True, help="Print the signed token as it stands.")
@output_option
@pass_app
def inspect(app: App, file: str, jwt_only: bool) -> None:
    """Show the claims of FILE, an actor or a provider archive, after checking signature and hash.

    `bundled:NAME` is a provider that comes with this program.
    """
    path = Path(file).expanduser()
    if not path.exists():
        if ":" not in file:  # else it may be a reference
            raise invalid(f"there is no file {file}", "check the path")
        place = parse(file, base=Path.cwd())
        if isinstance(place, BundledReference):
            _show_bundled(app, bundled.find(file))
            return
        path = path if path.absolute() == place.path else place.path
    with opened(path) as stream:
        head = stream.read(512)
    if head.startswith(_GZIP) or head[_TAR_MARK] == b"ustar":
        show_archive(app, path, jwt_only=jwt_only)
        return
    if head.startswith(_ELF):
        raise invalid(
            f"{path} is a native program; providers come as signed archives", "name the archive that it was packed into"
        )
    data = path.read_bytes()
    claims = _actor_claims(path, data)  # which says what is wrong with a file that is no actor
    if jwt_only:
        _print_token(app, claims.token)
    else:
        _show_actor(app, path, data, claims)


def _actor_claims(path: Path, data: bytes) -> ActorClaims:
    try:
        return lattice_claims.read_actor(data)
    except LatticeError as error:
        raise named(error, path) from error


def _print_token(app: App, token: str) -> None:
    if app.output.json:
        app.output.document({"token": token})
    else:
        app.output.text(token)


def _show_actor(app: App, path: Path, data: bytes, claims: ActorClaims) -> None:
    now = time.time()
    form = wasmfile.kind(data)
    if app.output.json:
        app.output.document(
            {"file": str(path.absolute()), "kind": "actor", "form": form, **claims_document(claims, now)}
        )
        return
    app.output.facts(
        [
            ("actor", claims.subject),
            ("account", claims.issuer),
            ("token", claims.token_id),
            ("name", claims.name),
            ("version", claims.version),
            ("revision", str(claims.revision)),
            ("alias", claims.call_alias or ""),
            ("tags", ", ".join(claims.tags)),
            ("valid", _validity(claims, now)),
            ("size", f"{len(data)} bytes"),
        ]
    )
    app.output.text("may use" + ("" if claims.capabilities else "  nothing"))
    for contract in sorted(claims.capabilities):
        app.output.text(f"  {contract}")
    if form == "component":
        app.output.say("It is a component; this version runs core modules only.")


def provider_document(claims: ProviderClaims, now: float) -> dict[str, Any]:
    """The claims of a provider as ``-o json`` shows them."""
    problem = time_problem(claims, now)
    return {
        "provider_id": claims.subject,
        "account_id": claims.issuer,
        "name": claims.name,
        "vendor": claims.vendor or None,
        "contract_id": claims.contract_id,
        "version": claims.version or None,
        "revision": claims.revision,
        "token_id": claims.token_id or None,
        "targets": [target for target, _ in claims.target_hashes],
        "issued_at": day(claims.issued_at),
        "expires": day(claims.expires),
        "not_before": day(claims.not_before),
        "valid_now": problem is None,
        "problem": problem,
    }


def archive_document(path: Path, contents: ArchiveContents, now: float) -> dict[str, Any]:
    """A provider archive as ``-o json`` shows it."""
    return {
        "file": str(path.absolute()),
        "kind": "provider",
        **provider_document(contents.claims, now),
        "compressed": contents.compressed,
        "programs": [{"target": each.target, "size": each.size, "sha256": each.digest} for each in contents.programs],
    }


def examined(path: Path) -> ArchiveContents:
    """What is in the archive at ``path``, checked. Raises Problem."""
    try:
        return examine_archive(path)
    except MalformedMessage as error:
        raise invalid(str(error), "get the archive again from whoever made it") from error
    except ImageError as error:
        raise invalid(str(error)) from error


def show_archive(app: App, path: Path, *, jwt_only: bool = False) -> None:
    """Print what is in an archive, after checking signature and hashes. Raises Problem."""
    contents = examined(path)
    claims, now = contents.claims, time.time()
    if jwt_only:
        _print_token(app, claims.token)
        return
    if app.output.json:
        app.output.document(archive_document(path, contents, now))
        return
    packed = {each.target: f"{each.size} bytes" for each in contents.programs}
    app.output.facts(
        [
            ("provider", claims.subject),
            ("account", claims.issuer),
            ("name", claims.name),
            ("vendor", claims.vendor),
            ("contract", claims.contract_id),
            ("version", claims.version),
            ("revision", str(claims.revision)),
            ("valid", _validity(claims, now)),
        ]
    )
    app.output.text("programs")
    for target, _ in claims.target_hashes:
        app.output.text(f"  {target}  {packed.get(target, 'signed, but not in the archive')}")


def _show_bundled(app: App, provider: BundledProvider) -> None:
    if app.output.json:
        document = provider_document(provider.claims(), time.time())
        app.output.document({"file": None, "kind": "provider", "reference": provider.reference, **document})
        return
    app.output.facts(
        [
            ("provider", provider.public_key),
            ("name", provider.title),
            ("contract", provider.contract_id),
            ("version", provider.version),
        ]
    )
    app.output.say("It comes with this program, unsigned.")


def _validity(claims: ActorClaims | ProviderClaims, now: float) -> str:
    """When the claims may be used, for people."""
    if claims.expires is not None and claims.expires < now:
        return f"expired {duration(now - claims.expires)} ago"
    parts = []
    if claims.not_before is not None and claims.not_before > now:
        parts.append(f"in {duration(claims.not_before - now)}")
    parts.append(f"expires in {duration(claims.expires - now)}" if claims.expires is not None else "never expires")
    return ", ".join(parts)
