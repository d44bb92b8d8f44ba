"""Provider archives: ``par create``, ``par inspect``, ``par insert``."""

from __future__ import annotations

import getpass
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO, TypeVar

import click

from lattice.archive import MAX_ARCHIVE, MAX_PROGRAM, Archive, check_target, write_archive
from lattice.claims import read_provider_token
from lattice.document import parse
from lattice.errors import LatticeError, MalformedMessage
from lattice.keys import KeyPair, Role
from lattice.signing import resign_provider, sign_provider
from wasmhost.cli.app import App, output_option, pass_app, state_option
from wasmhost.cli.inspection import archive_document, examined, show_archive
from wasmhost.cli.problems import Problem, invalid
from wasmhost.cli.signed_files import named
from wasmhost.cli.signing import contract_id, lifetime, read_seed
from wasmhost.images.archive_file import native_target
from wasmhost.images.files import ImageError, opened
from wasmhost.state import read_key, read_or_make_key

F = TypeVar("F", bound=Callable[..., Any])
_FILE = click.Path(path_type=Path)
_DAYS = click.FloatRange(min=0, min_open=True)
_ELF_MACHINES = {3: "x86", 40: "arm", 62: "x86_64", 183: "aarch64"}


@dataclass(frozen=True, slots=True)
class _Keys:
    """Where signing keys come from, as the options say."""

    app: App
    issuer: str | None
    subject: str | None
    directory: Path | None
    make: bool
    """Make a key where there is none."""

    def account(self) -> KeyPair:
        if self.issuer is not None:
            return read_seed(self.issuer, Role.ACCOUNT)
        if self.directory is not None:
            return self._in_folder(f"{getpass.getuser()}_account.nk", Role.ACCOUNT, "--issuer")
        return self._own(self.app.keyring.account, "account.nk", "--issuer")

    def service(self, binary: Path) -> KeyPair:
        """The key of the provider whose program is built at ``binary``."""
        if self.subject is not None:
            return read_seed(self.subject, Role.SERVICE)
        if self.directory is not None:
            return self._in_folder(f"{binary.stem}_service.nk", Role.SERVICE, "--subject")
        return self._own(lambda: self.app.keyring.provider(binary), "", "--subject")

    def _in_folder(self, name: str, role: Role, option: str) -> KeyPair:
        assert self.directory is not None
        path = self.directory.expanduser() / name
        found = read_key(path, role)
        if found is not None:
            return found
        if not self.make:
            raise invalid(f"there is no key {path}", f"name one with {option}")
        return read_or_make_key(path, role)

    def _own(self, key: Callable[[], KeyPair], name: str, option: str) -> KeyPair:
        if not self.make and not (name and (self.app.paths.shared / name).exists()):
            raise invalid("no key is named, and none may be made", f"name one with {option}")
        return key()


def _key_options(command: F) -> F:
    for option in (
        click.option(
            "-i",
            "--issuer",
            metavar="SEED",
            envvar="WASH_ISSUER_KEY",
            help="Account seed or its file (default: your development account).",
        ),
        click.option("-s", "--subject", metavar="SEED", envvar="WASH_SUBJECT_KEY", help="Provider seed or its file."),
        click.option(
            "-d",
            "--directory",
            type=_FILE,
            envvar="WASH_KEYS",
            help="Folder with keys: USER_account.nk and BINARY_service.nk.",
        ),
        click.option("--disable-keygen", is_flag=True, help="Make no key where there is none."),
        state_option,
        output_option,
    ):
        command = option(command)
    return command


def _program_options(command: F) -> F:
    for option in (
        click.option(
            "-a", "--arch", "target", metavar="TARGET", help="ARCH-OS of the program (default: that of this machine)."
        ),
        click.option("-b", "--binary", type=_FILE, required=True, metavar="FILE", help="The program."),
    ):
        command = option(command)
    return command


@click.command(short_help="pack a native provider into a signed archive")
@click.option("-c", "--capid", "contract", required=True, metavar="CONTRACT", help="Contract that it offers.")
@click.option("-v", "--vendor", required=True, help="Who made it.")
@click.option("-n", "--name", required=True, help="Name for people.")
@_program_options
@click.option("-r", "--revision", type=click.IntRange(0, 2**31 - 1), default=0, help="Counts up with releases.")
@click.option("--version", default="", help="Version for people, such as 1.2.0.")
@click.option("-j", "--schema", type=_FILE, metavar="FILE", help="JSON schema of its link values.")
@click.option("-x", "--expires", type=_DAYS, metavar="DAYS", help="Valid that long.")
@click.option("--not-before", type=_DAYS, metavar="DAYS", help="Not valid before that many days.")
@click.option("--compress", is_flag=True, help="Compress the archive; its name ends in .gz then.")
@click.option("--destination", type=_FILE, metavar="FILE", help="The archive (default: BINARY.par).")
@_key_options
@pass_app
def create(
    app: App,
    /,
    *,
    contract: str,
    vendor: str,
    name: str,
    target: str | None,
    binary: Path,
    compress: bool,
    destination: Path | None,
    schema: Path | None,
    expires: float | None,
    not_before: float | None,
    disable_keygen: bool,
    issuer: str | None,
    subject: str | None,
    directory: Path | None,
    **release: Any,
) -> None:
    """Pack a native provider into a signed archive, which hosts start.

    The identity of the provider is kept by the path of its program, so that a rebuilt one is the same provider;
    --subject names another.
    """
    keys = _Keys(app, issuer, subject, directory, make=not disable_keygen)
    target = check_target(target or native_target())
    now = int(time.time())
    with _program(binary) as program:
        place = destination or binary.with_name(f"{binary.stem}.par")
        if compress and place.suffix != ".gz":
            place = place.with_name(f"{place.name}.gz")
        _warn_of_mismatch(app, binary, program, target)
        token = sign_provider(
            account=keys.account(),
            service=keys.service(binary),
            name=name,
            contract_id=contract_id(contract),
            vendor=vendor,
            target_hashes={target: _digest(program)},
            config_schema=_schema(schema),
            **lifetime(now, expires, not_before),
            **release,
        )
        _write(place, token, {target: program}, compress=compress)
    _show(app, "packed", place, target, own_account=keys.issuer is None and keys.directory is None)


@click.command(short_help="show what is in an archive, checked")
@click.argument("archive", type=_FILE)
@click.option("--jwt-only", is_flag=True, help="Print the signed token as it stands.")
@output_option
@pass_app
def inspect(app: App, archive: Path, jwt_only: bool) -> None:
    """Show who signed ARCHIVE and what is in it, after checking the signature and the hash of every program."""
    show_archive(app, archive, jwt_only=jwt_only)


@click.command(short_help="add a program for another machine to an archive")
@click.argument("archive", type=_FILE)
@_program_options
@_key_options
@pass_app
def insert(
    app: App,
    /,
    *,
    archive: Path,
    target: str | None,
    binary: Path,
    issuer: str | None,
    subject: str | None,
    directory: Path | None,
    disable_keygen: bool,
) -> None:
    """Add a program for another machine to ARCHIVE, or replace the one for the same.

    The archive is signed again by the same account, for the same provider: another key is refused.
    """
    keys = _Keys(app, issuer, subject, directory, make=not disable_keygen)
    target = check_target(target or native_target())
    known = examined(archive)
    provider, account = known.claims.subject, keys.account()
    if subject is not None and (given := read_seed(subject, Role.SERVICE).public) != provider:
        raise invalid(
            f"{archive} is of provider {provider}, and the seed given is that of {given}",
            "make an archive of its own for that one with `wasmhost par create`",
        )
    if account.public != known.claims.issuer:
        raise invalid(
            f"{archive} is signed by {known.claims.issuer}, and the key at hand is that of {account.public}",
            "name the seed of the account that signed it with --issuer",
        )
    with _program(binary) as program, _unpacked(archive, besides=target) as others:
        _warn_of_mismatch(app, binary, program, target)
        hashes = dict(known.claims.target_hashes) | {target: _digest(program)}
        token = resign_provider(known.claims.token, account=account, target_hashes=hashes)
        _write(archive, token, {**others, target: program}, compress=known.compressed)
    verb = "replaced" if any(each.target == target for each in known.programs) else "added"
    _show(app, verb, archive, target, own_account=False)


def _schema(path: Path | None) -> object:
    if path is None:
        return None
    try:
        with opened(path, most=64 * 1024, wanted="a JSON schema") as file:
            return parse("schema", file.read())
    except ImageError as error:
        raise invalid(str(error)) from error
    except MalformedMessage as error:
        raise invalid(f"{path}: {error}", "name a file with a JSON schema") from error


@contextmanager
def _program(path: Path) -> Iterator[BinaryIO]:
    try:
        with opened(path, most=MAX_PROGRAM, wanted="the provider's program") as file:
            if not os.fstat(file.fileno()).st_size:
                raise invalid(f"{path} is empty", "name the provider's program")
            yield file
    except ImageError as error:
        raise invalid(str(error)) from error


def _digest(program: BinaryIO) -> str:
    computed = sha256()
    program.seek(0)
    while chunk := program.read(256 * 1024):
        computed.update(chunk)
    program.seek(0)
    return computed.hexdigest().upper()


def _warn_of_mismatch(app: App, path: Path, program: BinaryIO, target: str) -> None:
    """Say so when an ELF program names another machine than the one it is packed for."""
    head = program.read(20)
    little = head[5:6] == b"\x01"
    machine = _ELF_MACHINES.get(int.from_bytes(head[18:20], "little" if little else "big"))
    if head.startswith(b"\x7fELF") and machine and not target.startswith(f"{machine}-"):
        app.output.say(f"Warning: {path} is a program for {machine}, packed as one for {target}.")


@contextmanager
def _unpacked(archive: Path, *, besides: str) -> Iterator[Mapping[str, BinaryIO]]:
    """The programs of an archive but one, each as a temporary file."""
    with ExitStack() as files:
        folder = Path(files.enter_context(TemporaryDirectory()))
        found: dict[str, BinaryIO] = {}
        with opened(archive, most=MAX_ARCHIVE, wanted="a provider archive") as stream:
            for program in Archive.open(stream).programs():
                if program.target != besides:
                    file = files.enter_context((folder / program.target).open("w+b"))
                    for chunk in program.chunks():
                        file.write(chunk)
                    file.seek(0)
                    found[program.target] = file
        yield found


def _write(place: Path, token: str, programs: Mapping[str, BinaryIO], *, compress: bool) -> None:
    """Write the archive whole or not at all. Raises Problem."""
    hashes = dict(read_provider_token(token).target_hashes)
    draft = place.with_name(f".{place.name}.{os.urandom(4).hex()}")
    sized = [(target, os.fstat(file.fileno()).st_size, file) for target, file in programs.items() if target in hashes]
    try:
        with draft.open("xb") as stream:  # never through a link that somebody put there
            write_archive(stream, token, sized, compress=compress)
        draft.replace(place)
    except OSError as error:
        raise Problem(
            f"{place} cannot be written: {(error.strerror or str(error)).lower()}",
            hint="name another place with --destination, or free some space",
        ) from error
    except LatticeError as error:
        raise named(error, place) from error
    finally:
        draft.unlink(missing_ok=True)


def _show(app: App, verb: str, place: Path, target: str, *, own_account: bool) -> None:
    contents = examined(place)
    if app.output.json:
        app.output.document(archive_document(place, contents, time.time()))
        return
    app.output.text(f"{verb} {target} in {place}" if verb != "packed" else f"packed {place}")
    app.output.facts([("provider", contents.claims.subject), ("account", contents.claims.issuer)])
    app.output.text("targets   " + ", ".join(each.target for each in contents.programs))
    if own_account:
        app.output.say(
            "Signed with your development account; a host runs it when started with --trust and that account."
        )
