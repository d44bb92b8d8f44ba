"""Delegation tokens: what one says when it is sound, and every way in which one is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lattice import delegation, jwt
from lattice.delegation import DelegationToken
from lattice.errors import LatticeError, MalformedMessage, NotAuthorized
from lattice.keys import KeyPair, Role

CLUSTER, OTHER, KEY = (KeyPair.from_raw(Role.CLUSTER, bytes([n]) * 32) for n in (1, 2, 3))
PROVIDER = KeyPair.from_raw(Role.SERVICE, bytes([4]) * 32).public
NOW = 1_800_000_000.0


def made(cluster: KeyPair = CLUSTER, **changes: Any) -> str:
    return delegation.sign(
        cluster,
        **{
            "key": KEY.public,
            "lattice": "default",
            "provider": PROVIDER,
            "link_name": "default",
            "generation": 2,
            "now": NOW,
            **changes,
        },
    )


def read(token: str, *, issuers: tuple[KeyPair, ...] = (CLUSTER,), now: float = NOW) -> DelegationToken:
    return DelegationToken.read(token, issuers={key.public for key in issuers}, lattice="default", now=now)


def test_a_sound_token_says_which_key_signs_for_which_provider() -> None:
    found = read(made())
    assert (found.issuer, found.key, found.provider) == (CLUSTER.public, KEY.public, PROVIDER)
    assert (found.link_name, found.generation, found.expires - found.issued_at) == ("default", 2, delegation.LIFETIME)
    body = jwt.decode("it", made()).body
    assert body["wascap"]["valid_signers"] == [KEY.public], "the member that classic cluster tokens have for it"


@pytest.mark.parametrize(
    ("token", "text"),
    [
        (made(OTHER), "not among the accepted"),
        (made(lattice="elsewhere"), "for lattice 'elsewhere'"),
        (made(now=NOW - delegation.LIFETIME - 1), "expired 1 s ago"),
        (made(now=NOW + 600), "in the future"),
        (made(key=CLUSTER.public), "is a cluster key itself"),
        (made()[:-4] + "AAAA", "signature"),
    ],
)
def test_a_token_that_is_foreign_expired_or_forged_is_refused(token: str, text: str) -> None:
    with pytest.raises(NotAuthorized, match=text):
        read(token)


def test_a_token_in_the_name_of_an_accepted_key_needs_its_signature() -> None:
    body = jwt.decode("it", made()).body
    with pytest.raises(NotAuthorized, match="signature is wrong"):
        read(jwt.encode(json.dumps(body).encode(), OTHER))


@pytest.mark.parametrize(
    "changes",
    [
        {"sub": OTHER.public},
        {"iss": PROVIDER},
        {"exp": "soon"},
        {"wascap": {}},
        {"wascap": {"valid_signers": [KEY.public, OTHER.public]}},
        {"wascap": {"valid_signers": [PROVIDER]}},
    ],
)
def test_a_token_of_another_shape_is_malformed_or_refused_and_nothing_worse(changes: dict[str, Any]) -> None:
    body = jwt.decode("it", made()).body
    if "wascap" in changes:
        changes = {"wascap": {**(body["wascap"] if changes["wascap"] else {}), **changes["wascap"]}}
    with pytest.raises(LatticeError):
        read(jwt.encode(json.dumps({**body, **changes}).encode(), CLUSTER))
    with pytest.raises(MalformedMessage):
        read("a.b.c")
