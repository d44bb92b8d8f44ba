"""nkeys: the published vectors, the checksum, and keys that stand for the cluster."""

from __future__ import annotations

import json
import pickle
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import keys
from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role, derive
from tests.support.strategies import ACTOR, CLUSTER, HOST, PROVIDER

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors" / "claims.json").read_text())["keys"]


@pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: str(vector["role"]))
def test_published_keys_read_write_and_sign_alike(vector: dict[str, Any]) -> None:
    pair = KeyPair.from_seed(vector["seed"])
    raw = bytes.fromhex(vector["raw_seed_hex"])
    message, signature = vector["message_utf8"].encode(), bytes.fromhex(vector["signature_hex"])
    assert pair.public == vector["public"]
    assert pair.seed == vector["seed"]
    assert pair.role.value == vector["prefix_byte"]
    assert KeyPair.from_raw(pair.role, raw) == pair
    assert keys.decode_public(pair.public) == (pair.role, bytes.fromhex(vector["public_raw_hex"]))
    assert pair.sign(message) == signature
    assert keys.verify(pair.public, message, signature)


@pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: str(vector["case"]))
def test_published_mistakes_are_refused_without_repeating_them(vector: dict[str, Any]) -> None:
    if vector["expect"] == "accept after stripping":
        assert KeyPair.from_seed(vector["value"]).seed == vector["value"].strip()
        return
    with pytest.raises(MalformedMessage) as caught:
        KeyPair.from_seed(vector["value"])
    assert vector["value"] not in str(caught.value)


def test_the_protocol_vectors_have_these_keys() -> None:
    assert CLUSTER.seed == "SCAACAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAKOFQ"
    assert CLUSTER.public == "CCFIRY65OQE7DFP5KLNS2PF2LVZMUZYJX4OZIEQ36N2IQANUB5XVZKMI"
    assert HOST.seed == "SNAAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAQCAIBAEAWCHI"
    assert HOST.public == "NCATS5YOVB6ROX2WUNKGNQ2MP3GMXDMKSG2O4N5CLX3A6W4PZGZZJWVF"
    assert ACTOR.public == "MDWUSKGGFDI4FRXK5EBTRECZSVQSSWJHHJOGH6JWG3AUMFFMQ435C2JZ"
    assert PROVIDER.public == "VDFJHLAXAUMHA4OWPOB4P7YO72AQR2HMIUYFOXLXE2DZGM633K7HYIF3"


@given(st.sampled_from(Role), st.binary(min_size=32, max_size=32))
def test_every_seed_comes_back_from_its_text(role: Role, raw: bytes) -> None:
    pair = KeyPair.from_raw(role, raw)
    assert KeyPair.from_seed(pair.seed) == pair
    assert pair.seed[1] == pair.public[0] == role.letter
    assert keys.role_of(pair.public) is role


@given(st.sampled_from(Role), st.integers(0, 55), st.sampled_from("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"))
def test_one_altered_character_never_passes(role: Role, at: int, letter: str) -> None:
    pair = KeyPair.from_raw(role, b"\x07" * 32)
    for text, read in ((pair.public, keys.decode_public), (pair.seed, KeyPair.from_seed)):
        altered = text[:at] + letter + text[at + 1 :]
        if altered != text:
            with pytest.raises(MalformedMessage):
                read(altered)


@given(st.text(max_size=60) | st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", min_size=56, max_size=58))
def test_other_texts_are_no_keys(text: str) -> None:
    for read in (keys.decode_public, KeyPair.from_seed):
        with suppress(MalformedMessage):
            read(text)
    assert keys.role_of(text) is None


def test_a_wrong_signature_is_false_whatever_its_length() -> None:
    signature = HOST.sign(b"message")
    assert keys.verify(HOST.public, b"message", signature)
    for other in (signature[:-1], signature + b"x", b"", bytes(64), signature[1:] + signature[:1]):
        assert not keys.verify(HOST.public, b"message", other)
    assert not keys.verify(HOST.public, b"massage", signature)
    assert not keys.verify(CLUSTER.public, b"message", signature)
    with pytest.raises(MalformedMessage):
        keys.verify("nonsense", b"message", signature)


def test_a_demanded_role_is_explained() -> None:
    with pytest.raises(MalformedMessage, match=r"a host seed \(SN…\); a cluster seed begins with SC"):
        KeyPair.from_seed(HOST.seed, Role.CLUSTER)
    with pytest.raises(MalformedMessage, match="this is a provider key; an actor key begins with M"):
        keys.require_key(PROVIDER.public, Role.MODULE, "actor")
    assert keys.require_key(ACTOR.public, Role.MODULE, "actor") == ACTOR.public


def test_seeds_leak_neither_by_repr_nor_by_pickle() -> None:
    pair = KeyPair.generate(Role.ACCOUNT)
    assert pair.seed not in repr(pair)
    assert pair.seed not in f"{pair}"
    with pytest.raises(TypeError):
        pickle.dumps(pair)


def derived(**changes: Any) -> str:
    arguments: dict[str, Any] = {"lattice": "default", "purpose": "provider", "subject": "V1", "link_name": "default"}
    return derive(CLUSTER, **(arguments | changes)).public


def test_derived_keys_are_cluster_keys_that_every_holder_of_the_seed_computes_alike() -> None:
    key = derive(CLUSTER, lattice="default", purpose="provider", subject=PROVIDER.public, link_name="default")
    assert key.role is Role.CLUSTER
    assert key.public == "CDYFMBJSMKR3IMTH4H7NSCEAHWI3EMN7DO5VDVXWCUIU2CETPAAX5U2P"


def test_each_part_of_a_derivation_changes_the_key() -> None:
    all_keys = [
        derived(),
        derived(lattice="other"),
        derived(purpose="client"),
        derived(subject="V2"),
        derived(link_name="second"),
        derived(generation=1),
        derived(subject="V1default", link_name=""),
        derived(subject="V", link_name="1default"),
        CLUSTER.public,
    ]
    assert len(set(all_keys)) == len(all_keys)
