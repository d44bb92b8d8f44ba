"""Settings of the policy service and of revocations, as classic hosts name them and beyond."""

from __future__ import annotations

from pathlib import Path

import pytest

from lattice.keys import KeyPair, Role
from wasmhost.configuration.config import ConfigError, load
from wasmhost.configuration.policy import PolicyConfig

MODULE = KeyPair.from_raw(Role.MODULE, bytes([7]) * 32)


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def environ(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), **variables}


def test_nobody_is_asked_without_a_subject_or_when_that_is_said(tmp_path: Path) -> None:
    assert load({}, environ(tmp_path)).policy is None
    off = environ(tmp_path, WASMCLOUD_POLICY_TOPIC="a.b", WASMHOST_POLICY_MODE="off")
    assert load({}, off).policy is None
    with pytest.raises(ConfigError, match="policy_mode: enforce asks a service, and none is named"):
        load({}, environ(tmp_path, WASMHOST_POLICY_MODE="enforce"))


def test_the_variables_of_classic_hosts_are_read(tmp_path: Path) -> None:
    variables = environ(
        tmp_path,
        WASMCLOUD_POLICY_TOPIC="wasmcloud.policy",
        WASMCLOUD_POLICY_CHANGES_TOPIC="wasmcloud.policy.changes",
        WASMCLOUD_POLICY_TIMEOUT="250",
    )
    general = PolicyConfig(topic="wasmcloud.policy", changes_topic="wasmcloud.policy.changes", timeout=0.25)
    assert load({}, variables).policy == general
    special = {**variables, "WASMCLOUD_POLICY_CHANGES_TOPIC_my_shop": "shop.changes"}
    assert load({}, special).policy == general
    in_shop = load({"lattice": "my-shop"}, special).policy
    assert in_shop is not None and in_shop.changes_topic == "shop.changes"


def test_what_is_asked_for_can_be_narrowed_and_a_subject_has_no_wildcards(tmp_path: Path) -> None:
    file = tmp_path / "host.yaml"
    file.write_text("policy_topic: a.b\npolicy_calls: false\npolicy_links: false\npolicy_cache_ms: 1000\n")
    narrow = load({}, environ(tmp_path), file).policy
    assert narrow == PolicyConfig(topic="a.b", calls=False, links=False, lifetime=1.0)
    with pytest.raises(ConfigError, match="not a NATS subject without wildcards"):
        load({"policy_topic": "a.>"}, environ(tmp_path))


def test_revocations_are_keys_and_token_ids_and_a_seed_is_not_repeated(tmp_path: Path) -> None:
    token = "4uLaYqRzS7b0OIbcGKVxwe"
    revoked = load({}, environ(tmp_path, WASMHOST_REVOKED=f"{MODULE.public},{token}")).revoked
    assert revoked == (MODULE.public, token)
    with pytest.raises(ConfigError, match="cannot be revoked: that is neither") as refused:
        load({}, environ(tmp_path, WASMHOST_REVOKED=MODULE.seed))
    assert MODULE.seed not in str(refused.value)
