"""What the commands that sign share: seeds, contracts, release and lifetime, and the options for them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from lattice.errors import LatticeError
from lattice.keys import KeyPair, Role
from lattice.signing import Lifetime
from wasmhost.cli.problems import invalid

F = TypeVar("F", bound=Callable[..., Any])

_DAY: Final = 86_400
SHORT_CONTRACTS: Final = {
    "keyvalue": "wasmcloud:keyvalue",
    "httpserver": "wasmcloud:httpserver",
    "httpclient": "wasmcloud:httpclient",
    "messaging": "wasmcloud:messaging",
    "blobstore": "wasmcloud:blobstore",
    "sqldb": "wasmcloud:sqldb",
    "logging": "wasmcloud:builtin:logging",
    "numbergen": "wasmcloud:builtin:numbergen",
}


def read_seed(text: str, role: Role) -> KeyPair:
    """The key pair of a seed, given as itself or as the name of a file that holds it. Raises Problem."""
    source = Path(text).expanduser()
    try:
        if source.is_file():
            text = source.read_text()
    except OSError as error:
        raise invalid(f"{source} cannot be read: {error.strerror}", "check its permissions") from error
    try:
        key = KeyPair.from_seed(text.strip())
    except LatticeError:
        key = None
    if key is None or key.role is not role:
        kind = role.name.lower()
        raise invalid(
            f"that is no {kind} seed, nor a file with one; {kind} seeds start with S{role.letter} (value hidden)",
            "make one with `wasmhost keys gen`",
        )
    return key


def contract_id(text: str) -> str:
    """A contract as claims spell it: the short name of a standard one is completed. Raises Problem."""
    if ":" in text:
        return text
    if text in SHORT_CONTRACTS:
        return SHORT_CONTRACTS[text]
    raise invalid(f"'{text}' is no contract", f"write vendor:name, or one of {', '.join(SHORT_CONTRACTS)}")


def lifetime(now: int, expires: float | None, not_before: float | None) -> Lifetime:
    """Days from ``now`` as seconds since the epoch, each in its own place: the classic command line swaps them."""

    def after(days: float | None) -> int | None:
        return None if days is None else now + round(days * _DAY)

    return {"issued_at": now, "expires": after(expires), "not_before": after(not_before)}


def capability_options(command: F) -> F:
    """Add what an actor may do, and what it is called."""
    for option in (
        click.option("-a", "--call-alias", help="Name by which other actors call it: a-z, 0-9, _ and /."),
        click.option("-t", "--tag", "tags", multiple=True, help="Free text. Repeatable."),
        click.option(
            "-c",
            "--cap",
            "capabilities",
            multiple=True,
            metavar="CONTRACT",
            help="Contract it may use, such as wasmcloud:keyvalue, or keyvalue for short. Repeatable.",
        ),
    ):
        command = option(command)
    return command


def token_options(command: F) -> F:
    """Add who signs, which release it is and when it counts."""
    days, later = click.FloatRange(min=0, min_open=True), click.FloatRange(min=0)
    revision = click.IntRange(0, 2**31 - 1)
    for option in (
        click.option("--issuer", metavar="SEED", help="Account seed or its file (default: your development account)."),
        click.option("-b", "--not-before", type=later, metavar="DAYS", help="Not valid before that many days."),
        click.option("-x", "--expires", type=days, metavar="DAYS", help="Valid that long."),
        click.option("-v", "--ver", "version", default="", help="Version for people, such as 1.2.0."),
        click.option("-r", "--rev", "revision", type=revision, default=0, help="Counts up with releases."),
    ):
        command = option(command)
    return command
