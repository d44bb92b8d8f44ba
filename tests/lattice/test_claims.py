"""Claims: published tokens are read, our own are written and judged, and every refusal has its own sentence."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import claims, jwt, wasmfile
from lattice.claims import BadClaims, ClaimsRefused, Problem
from lattice.errors import Code, MalformedMessage, NotAuthorized
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor, sign_provider
from tests.support.modules import CODE, PADDED, SMALL, TYPES, component, custom, module, section
from tests.support.strategies import ACCOUNT, ACTOR, CLUSTER, PROVIDER, bent, json_values, texts

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "claims.json").read_text())
NOW = 1_700_000_000


def signed(data: bytes = SMALL, **members: Any) -> bytes:
    return sign_actor(data, account=ACCOUNT, module=ACTOR, **{"name": "Echo", "issued_at": NOW} | members)


def token(**changes: Any) -> str:
    """An actor's token with some members of the body replaced; None removes one."""
    wascap = {"name": "x", "hash": "0" * 64, "tags": [], "caps": [], "prov": False}
    body = {"jti": "x", "iat": NOW, "iss": ACCOUNT.public, "sub": ACTOR.public, "wascap": wascap} | changes
    return jwt.encode(json.dumps({k: v for k, v in body.items() if v is not None}).encode(), ACCOUNT)


def problem_of(data: bytes) -> Problem:
    with pytest.raises(BadClaims) as caught:
        claims.read_actor(data)
    assert caught.value.code is Code.MALFORMED
    assert isinstance(caught.value, MalformedMessage)
    return caught.value.problem


# ---- published tokens


@pytest.mark.parametrize("vector", VECTORS["actors"], ids=lambda vector: str(vector["source"]))
def test_tokens_of_published_actors_are_read_with_a_valid_signature(vector: dict[str, Any]) -> None:
    body, wascap = vector["payload"], vector["payload"].get("wascap")
    if wascap is None:  # the format of 2019
        with pytest.raises(BadClaims, match="2019"):
            claims.read_actor_token(vector["jwt"])
        return
    read = claims.read_actor_token(vector["jwt"])
    assert read.subject == body["sub"] == vector["subject"]["nkey"]
    assert read.issuer == body["iss"] == vector["issuer"]["nkey"]
    assert read.hash == wascap["hash"]
    assert read.name == wascap.get("name", "")
    assert read.version == wascap.get("ver", "")
    assert read.revision == (wascap.get("rev") or body["iat"])
    assert read.capabilities == tuple(capability for capability in wascap.get("caps") or [] if capability)
    assert read.issued_at == body["iat"]
    assert (read.expires, read.not_before) == (body.get("exp"), body.get("nbf"))


@pytest.mark.parametrize("vector", VECTORS["actors"], ids=lambda vector: str(vector["source"]))
def test_bodies_of_published_tokens_are_compact_json_in_the_member_order_that_is_written(
    vector: dict[str, Any],
) -> None:
    body = jwt.decode_segment("body", vector["jwt"].split(".")[1].encode())
    assert json.dumps(vector["payload"], separators=(",", ":"), ensure_ascii=False).encode() == body
    order = ["exp", "jti", "iat", "iss", "sub", "nbf", "wascap", "wascap_revision"]
    assert [name for name in vector["payload"] if name in order] == [
        name for name in order if name in vector["payload"]
    ]
    inner = ["name", "hash", "tags", "caps", "rev", "ver", "call_alias", "prov"]
    wascap = vector["payload"].get("wascap", {})
    assert list(wascap) == [name for name in inner if name in wascap]


@pytest.mark.parametrize("vector", VECTORS["provider_archives"], ids=lambda vector: str(vector["source"]))
def test_tokens_of_published_providers_are_read_with_a_valid_signature(vector: dict[str, Any]) -> None:
    wascap = vector["payload"]["wascap"]
    read = claims.read_provider_token(vector["jwt"])
    assert (read.subject, read.issuer) == (vector["payload"]["sub"], vector["payload"]["iss"])
    assert (read.name, read.contract_id, read.vendor) == (wascap["name"], wascap["capid"], wascap["vendor"])
    assert dict(read.target_hashes) == wascap["target_hashes"]


@pytest.mark.parametrize("vector", VECTORS["actors"][:3], ids=lambda vector: str(vector["source"]))
def test_a_published_token_with_an_altered_body_has_no_valid_signature(vector: dict[str, Any]) -> None:
    head, body, signature = vector["jwt"].split(".")
    altered = jwt.decode_segment("body", body.encode()).replace(b'"iat":1', b'"iat":2')
    with suppress(BadClaims):
        claims.read_actor_token(f"{head}.{jwt.encode_segment(altered)}.{signature}")
        pytest.fail("an altered body was accepted")


# ---- sign and read


@given(
    name=texts,
    capabilities=st.lists(texts.filter(bool), max_size=3),
    tags=st.lists(texts.filter(bool), max_size=3),
    revision=st.integers(-(2**31), 2**31 - 1),
    version=texts,
    alias=st.none() | st.from_regex(r"[a-z0-9_/]{1,20}", fullmatch=True),
    expires=st.none() | st.integers(0, 2**40),
    not_before=st.none() | st.integers(0, 2**40),
)
def test_what_is_signed_is_what_is_read(
    *,
    name: str,
    capabilities: list[str],
    tags: list[str],
    revision: int,
    version: str,
    alias: str | None,
    expires: int | None,
    not_before: int | None,
) -> None:
    data = sign_actor(
        PADDED,
        account=ACCOUNT,
        module=ACTOR,
        name=name,
        capabilities=capabilities,
        tags=tags,
        revision=revision,
        version=version,
        call_alias=alias,
        expires=expires,
        not_before=not_before,
        issued_at=NOW,
    )
    read = claims.read_actor(data)
    assert (read.subject, read.issuer, read.name) == (ACTOR.public, ACCOUNT.public, name)
    assert (read.capabilities, read.tags) == (tuple(capabilities), tuple(tags))
    assert (read.revision, read.version, read.call_alias) == (revision or NOW, version, alias)
    assert (read.issued_at, read.expires, read.not_before) == (NOW, expires, not_before)
    assert all(isinstance(value, str) for value in read.as_metadata().values())


def test_the_token_is_the_last_section_and_the_lengths_are_shortest_form() -> None:
    data = signed(PADDED)
    (found,) = wasmfile.claims_tokens(data)
    assert data[: found.start] == SMALL
    assert found.end == len(data)
    assert found.name == "wasmcloud_jwt"
    assert jwt.decode("token", found.token.decode()).body["wascap_revision"] == 3


def test_signing_again_replaces_the_claims() -> None:
    again = signed(signed(name="first"), name="second")
    assert claims.read_actor(again).name == "second"
    assert wasmfile.strip(again) == SMALL


def test_components_are_signed_and_read_like_modules() -> None:
    data = signed(component(section(1, SMALL)))
    assert claims.read_actor(data).name == "Echo"


def test_a_kept_token_appended_to_the_same_module_is_the_same_file() -> None:
    data = signed()
    (found,) = wasmfile.claims_tokens(data)
    assert wasmfile.append_token(SMALL, found.token.decode()) == data


def test_metadata_and_events_have_the_members_that_classic_clients_read() -> None:
    read = claims.read_actor(
        signed(capabilities=["a:b", "c:d"], tags=["x"], revision=4, version="0.3.4", call_alias="wasmhost/echo")
    )
    assert read.as_metadata() == {
        "sub": ACTOR.public,
        "iss": ACCOUNT.public,
        "name": "Echo",
        "version": "0.3.4",
        "rev": "4",
        "caps": "a:b,c:d",
        "tags": "x",
        "call_alias": "wasmhost/echo",
        "contract_id": "",
    }
    assert read.event_document() == {
        "call_alias": "wasmhost/echo",
        "caps": ["a:b", "c:d"],
        "issuer": ACCOUNT.public,
        "tags": ["x"],
        "name": "Echo",
        "version": "0.3.4",
        "revision": 4,
        "not_before_human": "immediately",
        "expires_human": "never",
    }


def test_provider_claims_have_the_members_that_classic_clients_read() -> None:
    text = sign_provider(
        account=ACCOUNT,
        service=PROVIDER,
        name="KV",
        contract_id="wasmcloud:keyvalue",
        vendor="wasmhost",
        revision=2,
        version="0.1.0",
        target_hashes={"x86_64-linux": "A" * 64},
        expires=NOW,
        issued_at=NOW,
    )
    read = claims.read_provider_token(text)
    assert read.as_metadata() == {
        "sub": PROVIDER.public,
        "iss": ACCOUNT.public,
        "name": "KV",
        "version": "0.1.0",
        "rev": "2",
        "caps": "",
        "tags": "",
        "call_alias": "",
        "contract_id": "wasmcloud:keyvalue",
    }
    assert read.event_document() == {
        "issuer": ACCOUNT.public,
        "tags": None,
        "name": "KV",
        "version": "0.1.0",
        "not_before_human": "immediately",
        "expires_human": "2023-11-14T22:13:20Z",
    }
    assert read.target_hashes == (("x86_64-linux", "A" * 64),)


# ---- refusals of files


def test_a_file_without_claims_is_unsigned() -> None:
    assert problem_of(SMALL) is Problem.UNSIGNED


def test_two_tokens_are_ambiguous() -> None:
    (found,) = wasmfile.claims_tokens(signed())
    assert problem_of(wasmfile.append_token(signed(), found.token.decode())) is Problem.TWO_TOKENS
    assert problem_of(module(TYPES, custom("jwt", found.token)) + custom("wasmcloud_jwt", found.token)) is (
        Problem.TWO_TOKENS
    )


def test_claims_of_a_nested_module_give_no_identity() -> None:
    assert problem_of(component(section(1, signed()))) is Problem.NESTED_TOKEN
    (found,) = wasmfile.claims_tokens(signed())
    assert problem_of(wasmfile.append_token(component(section(1, signed())), found.token.decode())) is (
        Problem.NESTED_TOKEN
    )


@pytest.mark.parametrize("bit", range(8))
def test_one_changed_bit_of_code_is_noticed(bit: int) -> None:
    data = bytearray(signed())
    data[data.index(CODE) + len(CODE) - 1] ^= 1 << bit
    assert problem_of(bytes(data)) is Problem.WRONG_HASH


@pytest.mark.parametrize("revision", [None, 2, 3])
def test_the_hash_is_compared_whatever_the_generation_of_the_token(revision: int | None) -> None:
    """Classic hosts skip it below revision 3, so that such a token can be attached to any code."""
    text = token(wascap_revision=revision)
    assert problem_of(wasmfile.append_token(SMALL, text)) is Problem.WRONG_HASH


@pytest.mark.parametrize("rule", [0, 1])
def test_both_hash_rules_are_accepted_for_a_padded_file(rule: int) -> None:
    digest = wasmfile.module_hashes(PADDED)[rule]
    data = wasmfile.append_token(PADDED, token(wascap={"name": "x", "hash": digest}))
    assert claims.read_actor(data).hash == digest


def test_a_signature_of_somebody_else_is_noticed() -> None:
    head, body, _ = token().split(".")
    forged = f"{head}.{body}.{jwt.encode_segment(KeyPair.generate(Role.ACCOUNT).sign(f'{head}.{body}'.encode()))}"
    assert problem_of(wasmfile.append_token(SMALL, forged)) is Problem.BAD_SIGNATURE


@pytest.mark.parametrize(
    "data",
    [b"", b"just some text\n", SMALL[:9], SMALL + b"\x01", module(custom("jwt", b"\xff")), module(custom("jwt", b""))],
)
def test_a_file_that_is_no_module_is_malformed(data: bytes) -> None:
    assert problem_of(data) is Problem.MALFORMED


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"iss": None}, "issuer"),
        ({"iss": CLUSTER.public}, "this is a cluster key; an account key begins with A"),
        ({"sub": PROVIDER.public}, "this is a provider key; an actor key begins with M"),
        ({"sub": ACTOR.public[:-1] + "A"}, "checksum"),
        ({"sub": 7}, "sub is an integer, not text"),
        ({"iat": None}, "iat is missing"),
        ({"iat": 1.7e9}, "iat is a float"),
        ({"iat": True}, "iat is a boolean"),
        ({"exp": "tomorrow"}, "exp is text"),
        ({"nbf": -1}, "nbf is negative"),
        ({"wascap": None}, "2019"),
        ({"wascap": {"hash": "abc"}}, "hash is not 64"),
        ({"wascap": {"hash": "a" * 64}}, "hash is not 64"),
        ({"wascap": {"hash": "A" * 64, "caps": "a,b"}}, "caps is text"),
        ({"wascap": {"hash": "A" * 64, "rev": 2**31}}, "rev does not fit"),
        ({"wascap": []}, "wascap is an array, not an object"),
        ({"wascap": {"hash": "A" * 64, "name": "\ud800"}}, "not JSON"),
    ],
)
def test_a_token_with_a_wrong_member_is_malformed(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadClaims, match=reason) as caught:
        claims.read_actor_token(token(**changes))
    assert caught.value.problem is Problem.MALFORMED


@pytest.mark.parametrize("capabilities", [[], [""], None])
def test_three_spellings_of_nothing_grant_nothing(capabilities: list[str] | None) -> None:
    assert claims.read_actor_token(token(wascap={"hash": "A" * 64, "caps": capabilities})).capabilities == ()


# ---- time and trust


def refusal(check: Any, *arguments: Any) -> ClaimsRefused:
    with pytest.raises(ClaimsRefused) as caught:
        check(*arguments)
    assert isinstance(caught.value, NotAuthorized)
    assert caught.value.code is Code.NOT_AUTHORIZED
    return caught.value


def test_expired_claims_are_refused_from_the_second_after() -> None:
    read = claims.read_actor(signed(expires=NOW))
    claims.check_times(read, NOW)
    error = refusal(claims.check_times, read, NOW + 1)
    assert error.problem is Problem.EXPIRED
    assert "2023-11-14T22:13:20Z" in str(error)


def test_claims_of_the_future_are_refused_with_a_minute_of_grace() -> None:
    read = claims.read_actor(signed(not_before=NOW))
    claims.check_times(read, NOW - 60)
    error = refusal(claims.check_times, read, NOW - 61)
    assert error.problem is Problem.NOT_YET_VALID


def test_an_account_that_is_not_trusted_is_named_with_the_flag() -> None:
    read = claims.read_actor(signed())
    claims.check_trust(read, [ACCOUNT.public])
    for trusted in ([], [CLUSTER.public]):
        error = refusal(claims.check_trust, read, trusted)
        assert error.problem is Problem.UNTRUSTED
        assert f"--trust {ACCOUNT.public}" in str(error)


# ---- signing refuses


@pytest.mark.parametrize("alias", ["", "Upper", "a b", "a-b", "ü", ACTOR.public.lower()])
def test_an_alias_that_hosts_would_change_is_not_signed(alias: str) -> None:
    with pytest.raises(BadClaims, match="call alias"):
        signed(call_alias=alias)


@pytest.mark.parametrize(
    ("text", "alias"), [(" My Echo-1.0 ", "my_echo_1_0"), ("a/b", "a/b"), ("grüezi", "grezi"), ("", "")]
)
def test_aliases_are_compared_in_one_spelling(text: str, alias: str) -> None:
    assert claims.normalise_alias(text) == alias


def test_keys_sign_only_in_their_role() -> None:
    with pytest.raises(BadClaims):
        sign_actor(SMALL, account=ACTOR, module=ACTOR, name="x")
    with pytest.raises(BadClaims):
        sign_actor(SMALL, account=ACCOUNT, module=PROVIDER, name="x")
    with pytest.raises(BadClaims):
        sign_provider(account=ACCOUNT, service=ACTOR, name="x", contract_id="a:b")
    with pytest.raises(BadClaims):
        signed(b"no module")
    with pytest.raises(BadClaims):
        signed(revision=2**31)


# ---- garbage


SIGNED = signed()


@given(bent(st.just(SIGNED)) | st.binary(max_size=100).map(lambda body: module(custom("jwt", body))))
def test_a_bent_file_is_refused_and_nothing_worse(data: bytes) -> None:
    if data != SIGNED:
        with pytest.raises(BadClaims):
            claims.read_actor(data)


@given(json_values(["iss", "sub", "iat", "exp", "wascap", "hash", "caps", "rev", "target_hashes", "capid"]))
def test_any_signed_json_is_malformed_and_nothing_worse(body: Any) -> None:
    if isinstance(body, dict):
        body = {"iss": ACCOUNT.public, "iat": 1, "wascap": {"hash": "A" * 64, "capid": "a:b"}} | body
    for subject, read in ((ACTOR, claims.read_actor_token), (PROVIDER, claims.read_provider_token)):
        if isinstance(body, dict):
            body = {"sub": subject.public} | body
        with suppress(BadClaims):
            read(jwt.encode(json.dumps(body).encode(), ACCOUNT))
