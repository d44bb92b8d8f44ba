"""What a host was asked to run, written and read."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role
from wasmhost.keys.sealing import Seal
from wasmhost.restore.duty_book import ActorDuty, Duty, ProviderDuty, decode, encode, manager_of, open_ones

texts = st.text(min_size=1, max_size=20)
annotations = st.dictionaries(texts, st.text(max_size=20), max_size=3)
actor_duties = st.builds(
    ActorDuty, actor_id=texts, reference=texts, count=st.integers(1, 1000), annotations=annotations
)
provider_duties = st.builds(
    ProviderDuty,
    provider_id=texts,
    reference=texts,
    link_name=texts,
    sealed_configuration=st.text(max_size=20),
    annotations=annotations,
)
ECHO = ActorDuty(actor_id="M1", reference="file:///echo.wasm", count=2, annotations={"a": "b"})
STORE = ProviderDuty(provider_id="V1", reference="bundled:keyvalue", link_name="default")


@settings(max_examples=30)
@given(st.lists(actor_duties, max_size=3), st.lists(provider_duties, max_size=3))
def test_reading_reverses_writing(actors: list[ActorDuty], providers: list[ProviderDuty]) -> None:
    assert decode(encode([*actors, *providers])) == [*actors, *providers]


@given(st.binary())
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        decode(data)


@given(st.data())
def test_a_file_with_damage_is_malformed_or_read(data: st.DataObject) -> None:
    whole = bytearray(encode([ECHO, STORE]))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with suppress(MalformedMessage):
        assert len(decode(bytes(whole[: data.draw(st.integers(0, len(whole)))]))) == 2


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version":2}',
        '{"version":1,"actors":[{"actor_id":"M1","image_ref":"x","count":0}]}',
        '{"version":1,"actors":[{"actor_id":"M1","count":1}]}',
        '{"version":1,"actors":{}}',
        '{"version":1,"providers":[{"provider_id":"V1","image_ref":"x"}]}',
    ],
)
def test_what_is_no_such_file_is_refused(text: str) -> None:
    with pytest.raises(MalformedMessage):
        decode(text.encode())


@pytest.mark.parametrize(
    ("given", "manager"),
    [
        ({}, None),
        ({"team": "shop"}, None),
        ({"wasmcloud.dev/managed-by": "wadm", "wasmcloud.dev/appspec": "shop"}, ("wadm", "shop")),
        ({"wasmcloud.dev/managed-by": "wasmhost"}, ("wasmhost", "")),
        ({"managed-by": "wasmhost"}, ("wasmhost", "")),
        ({"wasmcloud.dev/appspec": "shop"}, ("", "shop")),
    ],
)
def test_a_manager_is_known_by_its_annotations(given: dict[str, str], manager: tuple[str, str] | None) -> None:
    assert manager_of(given) == manager


@pytest.mark.parametrize(
    ("present", "decided"),
    [
        (ActorDuty(actor_id="M1", reference=ECHO.reference, count=7, annotations={"a": "b"}), True),
        (ActorDuty(actor_id="M1", reference=ECHO.reference, count=7), False),
        (ActorDuty(actor_id="M1", reference="file:///newer.wasm", count=7), True),
        (ActorDuty(actor_id="M2", reference=ECHO.reference, count=2, annotations={"a": "b"}), False),
        (STORE, False),
    ],
)
def test_what_runs_shows_whether_something_newer_was_asked_for(present: Duty, decided: bool) -> None:
    assert open_ones([ECHO], [present]) == ([] if decided else [ECHO])


def test_a_sealed_text_opens_with_the_same_host_key_only() -> None:
    key = KeyPair.generate(Role.HOST)
    sealed = Seal(key).close("password=secret")
    assert "secret" not in sealed
    assert Seal(KeyPair.from_seed(key.seed)).open(sealed) == "password=secret"
    assert Seal(key).close("password=secret") == sealed
    for seal, text in (
        (Seal(KeyPair.generate(Role.HOST)), sealed),
        (Seal(key), sealed[:-6] + "AAAAA="),
        (Seal(key), ""),
        (Seal(key), "v1:é"),
    ):
        with pytest.raises(MalformedMessage):
            seal.open(text)
