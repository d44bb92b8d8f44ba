"""May this call run: who may sign for whom, each refusal, and no call twice."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import antiforgery, jwt, verify
from lattice.antiforgery import Signer
from lattice.authority import Authority, Delegation
from lattice.errors import Code, MalformedMessage, NotAuthorized
from lattice.invocation import Entity, Invocation
from lattice.keys import KeyPair, Role, derive
from lattice.verify import PayloadDigest, ReplayWindow, verify_chunked, verify_invocation
from tests.support.strategies import ACTOR, CLUSTER, HOST, PROVIDER, json_values, texts

NOW = 1_700_000_000.0
FOREIGN = KeyPair.from_raw(Role.CLUSTER, b"\x09" * 32)
ORIGIN = Entity.actor(ACTOR.public)
TARGET = Entity.provider(PROVIDER.public, "wasmcloud:keyvalue", "default")
HTTP = Entity.provider(PROVIDER.public, "wasmcloud:httpserver", "default")


def call(key: KeyPair = CLUSTER, *, origin: Entity = ORIGIN, target: Entity = TARGET, **options: Any) -> Invocation:
    signer = Signer(key, HOST.public, clock=lambda: options.get("at", NOW), lifetime=options.get("lifetime", 300))
    return signer.sign(
        origin=origin, target=target, operation=options.get("operation", "Op"), msg=options.get("msg", b"m")
    )


def signed_claims(invocation: Invocation, key: KeyPair = CLUSTER, **changes: Any) -> Invocation:
    """The invocation with some members of its token replaced (None removes one), signed again."""
    body = jwt.decode("x", invocation.encoded_claims).body | changes
    body = {name: value for name, value in body.items() if value is not None}
    return replace(invocation, encoded_claims=jwt.encode(json.dumps(body).encode(), key))


def check(
    invocation: Invocation,
    *,
    now: float = NOW,
    authority: Authority | None = None,
    replay: ReplayWindow | None = None,
    target_key: str = "",
) -> None:
    verify_invocation(
        invocation,
        target_key=target_key or invocation.target.public_key,
        authority=authority or Authority.for_host(CLUSTER),
        replay=replay if replay is not None else ReplayWindow(),
        now=now,
    )


def refusal(invocation: Invocation, **options: Any) -> str:
    replay: ReplayWindow = options.setdefault("replay", ReplayWindow())
    before = len(replay)
    with pytest.raises(NotAuthorized) as caught:
        check(invocation, **options)
    assert len(replay) == before, "a refused call must not use up its id"
    assert caught.value.code is Code.NOT_AUTHORIZED
    return str(caught.value)


# ---- acceptance


def test_a_call_signed_by_the_cluster_is_accepted_over_the_wire() -> None:
    check(Invocation.decode(call().encode()))


def test_a_signer_makes_new_ids_and_tokens_that_expire() -> None:
    signer = Signer(CLUSTER, HOST.public, clock=lambda: NOW)
    calls = [signer.sign(origin=ORIGIN, target=TARGET, operation="Op", msg=b"m") for _ in range(100)]
    assert len({made.id for made in calls}) == 100
    claims = [antiforgery.parse(made.encoded_claims) for made in calls]
    assert all(claim.subject == made.id for claim, made in zip(claims, calls, strict=True))
    assert {(claim.issued_at, claim.expires, claim.issuer) for claim in claims} == {
        (int(NOW), int(NOW) + 300, CLUSTER.public)
    }
    body = jwt.decode("x", calls[0].encoded_claims).body
    assert len(body["jti"]) == 22
    assert body["jti"].isalnum()
    assert body["wascap_revision"] == 3
    assert calls[0].host_id == HOST.public
    assert calls[0].content_length == 1


@given(texts, texts, texts, texts, st.binary(max_size=50))
def test_whatever_the_names_what_is_signed_is_accepted(
    key: str, link: str, contract: str, operation: str, msg: bytes
) -> None:
    entity = Entity(key, link, contract)
    check(call(origin=entity, target=entity, operation=operation, msg=msg))


def test_a_token_without_expiry_is_accepted_within_its_age() -> None:
    """No classic sender sets one."""
    check(signed_claims(call(), exp=None), now=NOW + 300)
    assert "too old" in refusal(signed_claims(call(), exp=None), now=NOW + 301)


@pytest.mark.parametrize("host_id", [HOST.public, CLUSTER.public, "N", "NwashHostCallerId" + "0" * 39])
def test_host_ids_of_all_generations_are_accepted(host_id: str) -> None:
    """Elixir hosts send their cluster key, the classic command line something that is no key at all."""
    check(replace(call(), host_id=host_id))


# ---- refusals, each with the text of the classic hosts


def test_a_foreign_issuer_is_refused() -> None:
    message = refusal(call(FOREIGN))
    assert message.startswith("Issuer of this invocation is not among the list of valid issuers")
    assert FOREIGN.public in message


def test_a_listed_foreign_issuer_is_accepted() -> None:
    check(call(FOREIGN), authority=Authority.for_host(CLUSTER, [FOREIGN.public]))


def test_a_changed_message_is_refused_empty_or_not() -> None:
    made = call()
    for msg in (b"M", b""):
        assert refusal(replace(made, msg=msg)).startswith("Invocation hash does not match signed claims hash (")
    assert "hash does not match" in refusal(replace(call(msg=b""), msg=b"x"))


def test_another_target_is_refused() -> None:
    other = Entity.provider(KeyPair.generate(Role.SERVICE).public, "wasmcloud:keyvalue", "default")
    assert "is not" in refusal(call(), target_key=other.public_key)
    assert refusal(replace(call(), target=other)) == "Invocation claims and invocation target URL do not match"


def test_another_operation_is_refused_though_the_hash_could_be_the_same() -> None:
    made = call(operation="Opm", msg=b"")
    moved = replace(made, operation="Op", msg=b"m")
    assert refusal(moved) == "Invocation claims and invocation target URL do not match"


def test_another_origin_is_refused() -> None:
    other = Entity.actor(KeyPair.generate(Role.MODULE).public)
    assert refusal(replace(call(), origin=other)) == "Invocation claims and invocation origin URL do not match"


def test_another_id_is_refused() -> None:
    assert "another invocation id" in refusal(replace(call(), id="other"))


def test_times_are_checked() -> None:
    assert refusal(call(lifetime=10), now=NOW + 11) == (
        "Invocation claims token expired 1 s ago; compare the clocks of both machines"
    )
    check(call(lifetime=10), now=NOW + 10)
    assert "too old" in refusal(call(lifetime=10_000), now=NOW + 301)
    assert "60 s in the future" not in refusal(call(at=NOW + 120))
    check(call(at=NOW + 60))
    early = signed_claims(call(), nbf=int(NOW) + 61)
    assert refusal(early).startswith("Attempt to use invocation before claims token allows, by 6")
    check(signed_claims(call(), nbf=int(NOW) + 60))


def test_a_signature_that_does_not_fit_is_refused() -> None:
    made = call()
    head, body, _ = made.encoded_claims.split(".")
    forged = f"{head}.{body}.{jwt.encode_segment(FOREIGN.sign(f'{head}.{body}'.encode()))}"
    assert refusal(replace(made, encoded_claims=forged)) == "Invocation claims signature invalid"


def test_an_odd_host_id_is_refused() -> None:
    assert refusal(replace(call(), host_id="")) == "Invalid host ID on invocation: ''"
    assert refusal(replace(call(), host_id="abc")) == "Invalid host ID on invocation: 'abc'"


def test_a_token_that_is_none_is_malformed() -> None:
    for token in ("", "a.b.c", call().encoded_claims[:-1]):
        with pytest.raises(MalformedMessage):
            check(replace(call(), encoded_claims=token))
    with pytest.raises(MalformedMessage, match="No wascap metadata found on claims"):
        check(signed_claims(call(), wascap=None))


@given(
    st.dictionaries(
        st.sampled_from(["iss", "sub", "iat", "exp", "nbf", "wascap", "jti"]),
        json_values(["hash", "origin_url"]),
        min_size=1,
    )
)
def test_any_signed_claims_are_refused_and_nothing_worse(changes: dict[str, Any]) -> None:
    if not {"jti", "nbf", "exp"} >= set(changes):
        with pytest.raises((NotAuthorized, MalformedMessage)):
            check(signed_claims(call(), **(changes | {"sub": "other"})))


# ---- replay


def test_a_call_is_accepted_once() -> None:
    replay = ReplayWindow()
    made = call()
    check(made, replay=replay)
    assert refusal(made, replay=replay) == f"Invocation {made.id} was replayed"
    assert "replayed" in refusal(made, replay=replay, now=NOW + 299)


def test_a_forgery_does_not_use_up_an_id() -> None:
    replay = ReplayWindow()
    made = call()
    head, body, _ = made.encoded_claims.split(".")
    forged = replace(made, encoded_claims=f"{head}.{body}.{jwt.encode_segment(bytes(64))}")
    assert "signature" in refusal(forged, replay=replay)
    check(made, replay=replay)


def test_ids_are_counted_per_issuer() -> None:
    """A provider must not use up the ids that a host is going to make."""
    replay = ReplayWindow()
    authority = Authority.for_host(CLUSTER, [FOREIGN.public])
    made = call()
    same_id = signed_claims(replace(call(FOREIGN), id=made.id), FOREIGN, sub=made.id)
    check(same_id, replay=replay, authority=authority)
    check(made, replay=replay, authority=authority)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 200)), max_size=200))
def test_no_id_is_accepted_twice_while_its_token_could_be(steps: list[tuple[int, int]]) -> None:
    """Whatever the order and the gaps: an id is forgotten only when its issue time is refused."""
    window = ReplayWindow(window=100, capacity=20)
    now, accepted = 1000.0, dict[int, int]()
    for gap, number in steps:
        now += gap
        issued_at = accepted.get(number, int(now))
        valid = issued_at > window.horizon and issued_at >= now - 100
        if valid and not window.seen(str(number), now, "issuer", issued_at):
            assert number not in accepted
            accepted[number] = issued_at
        assert len(window) <= 20


def test_a_clock_that_is_set_back_refuses_no_new_call_and_accepts_no_old_one_again() -> None:
    window, ahead = ReplayWindow(window=420, capacity=20), 3600.0

    def accept(name: str, now: float) -> None:
        assert not window.may_have_forgotten(int(now)), f"{name} is as good as any"
        assert not window.seen(name, now, issued_at=int(now))

    accept("before", NOW)
    for number in range(5):
        accept(f"ahead {number}", NOW + ahead)
    assert window.seen("ahead 1", NOW + ahead + 1, issued_at=int(NOW + ahead))
    for number in range(100):  # more than fits: generations turn several times
        accept(f"back {number}", NOW + number)
    assert len(window) <= 40
    assert window.seen("back 99", NOW + 100, issued_at=int(NOW + 99))
    for name in ("ahead 0", "ahead 4"):  # an hour later those tokens are of the right time again
        known = window.knows(name) or window.may_have_forgotten(int(NOW + ahead))
        assert known, f"{name} was accepted once"
    accept("later", NOW + ahead + 1000)
    accept("later still", NOW + ahead + 2000)
    assert len(window) <= 20, "in the end it is forgotten"


def test_what_was_forgotten_while_the_clock_was_ahead_stays_refused() -> None:
    window = ReplayWindow(window=420, capacity=4)
    for number in range(10):
        window.seen(f"ahead {number}", NOW + 3600 + number, issued_at=int(NOW) + 3600 + number)
    window.seen("back", NOW, issued_at=int(NOW))
    assert not window.may_have_forgotten(int(NOW))
    for number in range(10):
        assert window.knows(f"ahead {number}") or window.may_have_forgotten(int(NOW) + 3600 + number)
    assert not window.may_have_forgotten(int(NOW) + 3700)


def test_a_full_window_shrinks_instead_of_opening() -> None:
    window = ReplayWindow(window=1000, capacity=4)
    for second in range(10):
        assert not window.seen(f"id {second}", second, "c", second)
    assert len(window) <= 4
    assert window.horizon >= 4
    assert not window.knows("id 0", "c")
    late = call(at=4)
    with pytest.raises(NotAuthorized, match="too old for a host under this load"):
        check(late, now=10, replay=window)


# ---- who may sign for whom


def provider_key(public: str = PROVIDER.public, link: str = "default", generation: int = 0) -> KeyPair:
    return derive(CLUSTER, lattice="default", purpose="provider", subject=public, link_name=link, generation=generation)


def client_key(label: str) -> KeyPair:
    return derive(CLUSTER, lattice="default", purpose="client", subject=label)


def test_a_provider_s_key_signs_for_that_provider_and_link_only() -> None:
    check(call(provider_key(), origin=HTTP, target=ORIGIN))
    other_link = Entity.provider(PROVIDER.public, "wasmcloud:httpserver", "second")
    other_provider = Entity.provider(KeyPair.generate(Role.SERVICE).public, "wasmcloud:httpserver", "default")
    for origin in (other_link, other_provider, ORIGIN, Entity("wasmhost-cli"), Entity("")):
        assert "valid issuers" in refusal(call(provider_key(), origin=origin, target=ORIGIN))


def test_a_client_s_key_signs_for_its_label_only() -> None:
    check(call(client_key("wasmhost-cli"), origin=Entity("wasmhost-cli"), target=ORIGIN))
    for label in ("other-cli", ACTOR.public, PROVIDER.public, "m", "v"):
        assert "valid issuers" in refusal(call(client_key("wasmhost-cli"), origin=Entity(label), target=ORIGIN))


@pytest.mark.parametrize("label", [ACTOR.public, PROVIDER.public, "M", "mine", "V", "very"])
def test_no_client_key_signs_for_an_actor_or_a_provider(label: str) -> None:
    assert "valid issuers" in refusal(call(client_key(label), origin=Entity(label), target=ORIGIN))


def test_a_derived_key_of_another_lattice_or_cluster_is_refused() -> None:
    made = call(provider_key(), origin=HTTP, target=ORIGIN)
    assert "valid issuers" in refusal(made, authority=Authority.for_host(CLUSTER, lattice="other"))
    assert "valid issuers" in refusal(made, authority=Authority.for_host(FOREIGN))
    assert "valid issuers" in refusal(made, authority=Authority([CLUSTER.public]))


def test_raising_the_generation_revokes_the_key_before() -> None:
    generations = {(PROVIDER.public, "default"): 0}
    authority = Authority.for_host(CLUSTER, generation=lambda provider, link: generations[provider, link])
    check(call(provider_key(), origin=HTTP, target=ORIGIN), authority=authority)
    generations[PROVIDER.public, "default"] = 1
    assert "valid issuers" in refusal(call(provider_key(), origin=HTTP, target=ORIGIN), authority=authority)
    check(call(provider_key(generation=1), origin=HTTP, target=ORIGIN), authority=authority)


def test_a_delegated_key_signs_for_its_provider_and_link_only() -> None:
    authority = Authority([], {FOREIGN.public: Delegation(PROVIDER.public, "default")})
    check(call(FOREIGN, origin=HTTP, target=ORIGIN), authority=authority)
    other = Entity.provider(PROVIDER.public, "wasmcloud:httpserver", "second")
    for origin in (other, ORIGIN):
        assert "valid issuers" in refusal(call(FOREIGN, origin=origin, target=ORIGIN), authority=authority)


def test_an_origin_too_long_to_be_true_is_not_worth_a_derivation() -> None:
    label = "x" * 600
    assert "valid issuers" in refusal(call(client_key(label), origin=Entity(label), target=ORIGIN))


# ---- capabilities and links


def test_a_provider_needs_its_contract_in_the_claims_of_the_called_actor() -> None:
    from_http = call(origin=HTTP, target=ORIGIN)
    verify.authorise_provider_origin(from_http, {"wasmcloud:httpserver"})
    for capabilities in ({"wasmcloud:keyvalue"}, set[str]()):
        with pytest.raises(NotAuthorized) as caught:
            verify.authorise_provider_origin(from_http, capabilities)
        assert str(caught.value).startswith(
            "Invocation source does not have the required capability claim wasmcloud:httpserver"
        )


def test_a_provider_that_hides_its_contract_is_refused_and_clients_are_not() -> None:
    with pytest.raises(NotAuthorized):
        verify.authorise_provider_origin(call(origin=Entity(PROVIDER.public), target=ORIGIN), ["a:b"])
    with pytest.raises(NotAuthorized):
        verify.authorise_provider_origin(call(origin=Entity("client", "x", "a:c"), target=ORIGIN), ["a:b"])
    for origin in (ORIGIN, Entity("__WASH__"), Entity("wasmhost-cli")):
        verify.authorise_provider_origin(call(origin=origin, target=ORIGIN), [])


def test_the_refusals_of_a_host_call_say_what_is_missing_and_how_to_get_it() -> None:
    contract = "wasmcloud:keyvalue"
    verify.authorise_capability(actor=ACTOR.public, capabilities={contract}, contract=contract)
    with pytest.raises(NotAuthorized) as no_claim:
        verify.authorise_capability(actor=ACTOR.public, capabilities={"wasmcloud:httpserver"}, contract=contract)
    assert str(no_claim.value).startswith(
        "Invocation not authorized: missing capability claim for wasmcloud:keyvalue (M"
    )

    def no_link(link_name: str) -> str:
        missing = verify.not_linked(actor=ACTOR.public, contract=contract, link_name=link_name, lattice="default")
        return str(missing)

    assert no_link("default") == (
        f"Invocation not authorized: missing link definition for wasmcloud:keyvalue on default ({ACTOR.public} has no "
        f"link 'default'); create one: wasmhost link put {ACTOR.public} PROVIDER wasmcloud:keyvalue"
    )
    assert no_link("second").endswith(" --link second")


# ---- chunked calls


def check_chunked(invocation: Invocation, *, replay: ReplayWindow | None = None, now: float = NOW) -> PayloadDigest:
    return verify_chunked(
        invocation,
        target_key=PROVIDER.public,
        authority=Authority.for_host(CLUSTER),
        replay=replay if replay is not None else ReplayWindow(),
        now=now,
    )


def announced(msg: bytes = b"payload", **options: Any) -> Invocation:
    """A call whose payload is elsewhere."""
    return replace(call(msg=msg, **options), msg=b"")


@pytest.mark.parametrize("pieces", [[b"payload"], [b"pay", b"", b"load"], [b"p", b"a", b"y", b"l", b"o", b"a", b"d"]])
def test_a_payload_is_compared_in_whatever_pieces_it_comes(pieces: list[bytes]) -> None:
    invocation = announced()
    assert invocation.chunked and Invocation.decode(invocation.encode()).chunked
    digest = check_chunked(invocation)
    for piece in pieces:
        digest.update(piece)
    digest.check()


@pytest.mark.parametrize("pieces", [[], [b""], [b"payloaD"], [b"payload", b"!"], [b"load", b"pay"]])
def test_another_payload_is_refused_in_the_classic_words(pieces: list[bytes]) -> None:
    digest = check_chunked(announced())
    for piece in pieces:
        digest.update(piece)
    with pytest.raises(NotAuthorized, match="Invocation hash does not match signed claims hash"):
        digest.check()


def test_everything_but_the_hash_is_checked_before_a_payload_is_fetched() -> None:
    sound = announced()
    token, _, signature = sound.encoded_claims.rpartition(".")
    forged = f"{token}.{'A' if signature[0] != 'A' else 'B'}{signature[1:]}"
    for bad, told in (
        (announced(key=FOREIGN), "not among the list of valid issuers"),
        (announced(at=NOW - 301, lifetime=900), "too old"),
        (replace(announced(), id="another"), "about another invocation id"),
        (replace(announced(), operation="Erase"), "target URL do not match"),
        (replace(sound, encoded_claims=forged), "signature invalid"),
    ):
        replay = ReplayWindow()
        with pytest.raises(NotAuthorized, match=told):
            check_chunked(bad, replay=replay)
        assert len(replay) == 0


def test_a_chunked_call_is_fetched_for_once() -> None:
    replay, invocation = ReplayWindow(), announced()
    check_chunked(invocation, replay=replay)
    with pytest.raises(NotAuthorized, match="was replayed"):
        check_chunked(invocation, replay=replay)


def test_a_chunked_call_never_passes_as_a_whole_one() -> None:
    assert "Invocation hash does not match" in refusal(announced())
