"""What a revocation covers, and how it travels."""

from __future__ import annotations

import pytest

from lattice.claims import ActorClaims, read_actor
from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role
from lattice.revocation import Revocation
from tests.support import actors

MODULE = KeyPair.from_raw(Role.MODULE, bytes([7]) * 32)


def claims(revision: int = 2, module: KeyPair = MODULE) -> ActorClaims:
    return read_actor(actors.signed(actors.ECHO, module=module, revision=revision))


def test_each_kind_covers_what_it_names_and_nothing_else() -> None:
    mine, older, other = claims(), claims(1), claims(2, KeyPair.generate(Role.MODULE))
    assert mine.token_id and mine.token_id != older.token_id
    cases = {
        Revocation(id=MODULE.public): (True, True, False),
        Revocation(id=MODULE.public, revision=2): (True, False, False),
        Revocation(id=mine.token_id): (True, False, False),
        Revocation(id=actors.ACCOUNT.public): (True, True, True),
        Revocation(id=MODULE.public, lifted=True): (False, False, False),
    }
    for entry, covered in cases.items():
        assert tuple(entry.check().covers(each) for each in (mine, older, other)) == covered, entry


def test_it_is_read_as_it_was_written() -> None:
    entry = Revocation(id=MODULE.public, revision=3, reason="a hole", at=1700000000)
    assert Revocation.decode(entry.encode()) == entry
    assert (entry.key, entry.kind) == (f"revoked.{MODULE.public}.3", "actor")


@pytest.mark.parametrize(
    "entry",
    [
        Revocation(id=KeyPair.from_raw(Role.HOST, bytes(32)).public),
        Revocation(id=MODULE.public.swapcase()),
        Revocation(id=MODULE.public[:30] + MODULE.public[31:] + "A"),
        Revocation(id=actors.ACCOUNT.public, revision=1),
        Revocation(id="a.b.c.d.e"),
        Revocation(id="short"),
        Revocation(id=MODULE.public, reason="x" * 301),
    ],
)
def test_what_could_never_match_is_refused(entry: Revocation) -> None:
    with pytest.raises(MalformedMessage):
        entry.check()
    with pytest.raises(MalformedMessage):
        Revocation.decode(entry.encode())


def test_a_seed_is_refused_and_not_repeated() -> None:
    seed = KeyPair.generate(Role.MODULE).seed
    with pytest.raises(MalformedMessage) as caught:
        Revocation(id=seed).check()
    assert seed not in str(caught.value)


def test_a_bundled_provider_without_token_is_not_covered_by_an_empty_id() -> None:
    with pytest.raises(MalformedMessage):
        Revocation.from_dict({"id": ""})
