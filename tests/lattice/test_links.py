"""Links: one provider per actor, contract and link name; tables that never change under their reader."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import MalformedMessage
from lattice.links import LinkDefinition, LinkTable, link_id
from tests.support.strategies import ACTOR, HOST, PROVIDER, json_values, msgpack_junk, text_maps, texts

links = st.builds(
    LinkDefinition, actor_id=texts, provider_id=texts, link_name=texts, contract_id=texts, values=text_maps
)


def link(**changes: Any) -> LinkDefinition:
    return LinkDefinition(
        **{"actor_id": ACTOR.public, "provider_id": PROVIDER.public, "contract_id": "a:b", "link_name": "default"}
        | changes
    )


def test_the_protocol_vectors_are_built_byte_for_byte() -> None:
    assert link(actor_id="M1", provider_id="V1", values={"k": "v"}).encode().hex() == (
        "85a86163746f725f6964a24d31ab70726f76696465725f6964a25631a96c696e6b5f6e616d65a764656661756c74ab636f6e74726163745f"
        "6964a3613a62a676616c75657381a16ba176"
    )
    assert link_id("Mbob", "wasmcloud:testy", "default") == (
        "B40411AD09B70A2C83D59923584F66BA2C5A3C274DC4F19416DA49CCD6531F9C"
    )
    assert link(contract_id="wasmcloud:keyvalue").id == (
        "314538C0C78AD02F3D9E6BE06A6540B8197C7A85DA0B03ACCCDDFCEF7658AE25"
    )


@given(links)
def test_a_link_comes_back_from_msgpack_and_json(definition: LinkDefinition) -> None:
    assert LinkDefinition.decode(definition.encode()) == definition
    assert LinkDefinition.from_json(json.loads(json.dumps(definition.to_json()))) == definition


def test_a_removal_names_only_the_key() -> None:
    removal = LinkDefinition.from_json({"actor_id": "M1", "contract_id": "a:b", "link_name": "second"})
    assert removal.key == ("M1", "a:b", "second")
    assert LinkDefinition.from_json({"actor_id": "M1", "contract_id": "a:b", "values": None}).link_name == "default"


def test_values_stay_out_of_the_repr() -> None:
    assert "secret" not in repr(link(values={"URL": "redis://:secret@host"}))


def test_a_link_targets_a_provider_or_an_actor() -> None:
    assert link().check() == link()
    link(provider_id=ACTOR.public).check()
    for changes in (
        {"actor_id": PROVIDER.public},
        {"actor_id": ""},
        {"provider_id": HOST.public},
        {"provider_id": ""},
        {"link_name": "a.b"},
        {"link_name": ""},
        {"contract_id": ""},
        {"contract_id": "a b"},
    ):
        with pytest.raises(MalformedMessage):
            link(**changes).check()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "link definition is an array, not an object"),
        ({"actor_id": 1}, "link definition: actor_id is an integer, not text"),
        ({"values": {"port": 8080}}, "link definition: values.port is an integer, not text"),
        ({"values": "x"}, "link definition: values is text or bytes, not an object"),
    ],
)
def test_a_wrong_member_is_named(value: object, message: str) -> None:
    with pytest.raises(MalformedMessage) as caught:
        LinkDefinition.from_json(value)
    assert str(caught.value) == message


@given(msgpack_junk("actor_id", "provider_id", "values", "link_name"))
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    with suppress(MalformedMessage):
        LinkDefinition.decode(data)


@given(json_values(["actor_id", "values", "link_name"]))
def test_json_garbage_is_malformed_and_nothing_worse(value: object) -> None:
    with suppress(MalformedMessage):
        LinkDefinition.from_json(value)


def test_a_table_changes_only_by_making_another() -> None:
    first = link(values={"v": "1"})
    empty = LinkTable()
    table = empty.with_link(first)
    second = table.with_link(link(values={"v": "2"}))
    assert len(empty) == 0
    assert table.resolve(*first.key) == first
    assert second.resolve(*first.key) == link(values={"v": "2"})
    assert len(second) == 1
    assert table.without(first.key) == empty
    assert empty.without(first.key) is empty
    assert table.resolve(ACTOR.public, "a:b", "other") is None


def test_a_table_lists_the_links_of_a_provider_process_and_of_an_actor() -> None:
    first, second = link(), link(link_name="second")
    other = link(contract_id="c:d", provider_id="V9")
    table = LinkTable([first, second, other])
    assert table.for_provider(PROVIDER.public, "default") == [first]
    assert table.for_provider(PROVIDER.public, "second") == [second]
    assert table.for_actor(ACTOR.public) == [first, second, other] == list(table)
    assert first.key in table


@given(st.lists(links, max_size=10), links)
def test_with_and_without_are_what_a_dictionary_would_do(
    definitions: list[LinkDefinition], one: LinkDefinition
) -> None:
    expected = {definition.key: definition for definition in definitions}
    table = LinkTable(definitions)
    assert {found.key: found for found in table} == expected
    assert {found.key: found for found in table.with_link(one)} == expected | {one.key: one}
    assert table.with_link(one).without(one.key).get(one.key) is None
