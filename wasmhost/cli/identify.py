"""Which thing a user means: a key, the beginning of one, a name, a call alias or an image reference."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from wasmhost.cli.problems import Problem, invalid, not_found

KEY_LENGTH = 56
SHOWN = 5
"""How many candidates an error lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One thing that can be named. Empty texts never match."""

    key: str
    name: str = ""
    alias: str = ""
    references: frozenset[str] = frozenset()

    def describe(self) -> str:
        label = self.name or self.alias or next(iter(sorted(self.references)), "")
        return f"{self.key[:12]}… ({label})" if label else self.key[:12] + "…"


def resolve(
    text: str, candidates: Sequence[Candidate], *, what: str, look: str, where: str = "in this lattice"
) -> Candidate:
    """The one candidate meant by ``text``.

    Tried in this order, the first that matches anything decides: whole key; image reference, name or alias as it
    stands; name in other letter case; beginning of a key; file name of a reference; beginning of a name or alias. More
    than one match is an error that lists them. ``what`` names the kind ("actor"), ``look`` the command that lists all.
    """
    wanted = text.strip().removesuffix("…")
    if not wanted:
        raise invalid(f"an empty text names no {what}", f"see `{look}`")
    for matches in _RULES:
        found = _distinct(c for c in candidates if matches(c, wanted))
        if len(found) == 1:
            return found[0]
        if found:
            raise _ambiguous(wanted, found, what)
    raise _unknown(wanted, candidates, f"no {what} '{wanted}' {where}", look)


def _by_key(candidate: Candidate, text: str) -> bool:
    return candidate.key == text.upper()


def _by_exact_text(candidate: Candidate, text: str) -> bool:
    return text in (candidate.name, candidate.alias) or text in candidate.references


def _by_folded_name(candidate: Candidate, text: str) -> bool:
    return text.casefold() in (candidate.name.casefold(), candidate.alias.casefold())


def _by_key_prefix(candidate: Candidate, text: str) -> bool:
    return candidate.key.startswith(text.upper())


def _by_name_prefix(candidate: Candidate, text: str) -> bool:
    folded = text.casefold()
    return any(name.casefold().startswith(folded) for name in (candidate.name, candidate.alias))


def _by_file_name(candidate: Candidate, text: str) -> bool:
    return any(
        text in (PurePosixPath(r).name, PurePosixPath(r).stem, r.removeprefix("bundled:")) for r in candidate.references
    )


_RULES: tuple[Callable[[Candidate, str], bool], ...] = (
    _by_key,
    _by_exact_text,
    _by_folded_name,
    _by_key_prefix,
    _by_file_name,
    _by_name_prefix,
)


def _distinct(found: Iterable[Candidate]) -> list[Candidate]:
    by_key: dict[str, Candidate] = {}
    for candidate in found:
        by_key.setdefault(candidate.key, candidate)
    return list(by_key.values())


def _ambiguous(text: str, found: Sequence[Candidate], what: str) -> Problem:
    listed = ", ".join(c.describe() for c in found[:SHOWN])
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return invalid(f"'{text}' names {len(found)} {what}s: {listed}{more}", "type more of the key")


def _unknown(text: str, candidates: Sequence[Candidate], message: str, look: str) -> Problem:
    spellings = {s for c in candidates for s in (c.name, c.alias, *c.references) if s}
    close = difflib.get_close_matches(text, sorted(spellings), n=1)
    hint = f"did you mean '{close[0]}'? " if close else ""
    return not_found(message, f"{hint}`{look}` lists what is there")
