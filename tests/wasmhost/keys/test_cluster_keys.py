"""The cluster keys of a host: how they change, what is kept, and which files are read."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from lattice.errors import Code, LatticeError
from lattice.keys import KeyPair, Role
from wasmhost.configuration.config import HostConfig, NatsEndpoint
from wasmhost.keys.cluster_keys import ClusterKeys
from wasmhost.private_files import StateError
from wasmhost.state import StateFolder, StatePaths

NEW, OTHER = (KeyPair.from_raw(Role.CLUSTER, bytes([n]) * 32) for n in (1, 2))


@pytest.fixture
def config(tmp_path: Path) -> HostConfig:
    endpoint = NatsEndpoint(url="nats://127.0.0.1:4222")
    paths = StatePaths(host=tmp_path / "host", shared=tmp_path / "shared", cache=tmp_path / "cache")
    return HostConfig(paths=paths, rpc=endpoint, control=endpoint, providers=endpoint)


def opened(config: HostConfig) -> ClusterKeys:
    with StateFolder.open(config.paths) as state:
        return ClusterKeys.open(config, state)


def carry(config: HostConfig, key: KeyPair, name: str = "new.nk", *, shared: bool = False) -> Path:
    """What an operator does: the seed file into a key folder."""
    path = (config.paths.shared if shared else config.paths.host) / "cluster" / name
    path.write_text(key.seed + "\n")
    return path


def refusal(keys: ClusterKeys, action: str, wanted: str) -> LatticeError:
    before = keys.signing, keys.accepted, keys.removed
    with pytest.raises(LatticeError) as caught:
        getattr(keys, action)(wanted)
    assert (keys.signing, keys.accepted, keys.removed) == before, "a refused step changes nothing"
    return caught.value


@pytest.mark.parametrize("shared", [False, True])
def test_a_rotation_is_kept_over_a_restart_in_private_files(config: HostConfig, shared: bool) -> None:
    keys = opened(config)
    old = keys.signing.public
    path = carry(config, NEW, shared=shared)
    path.chmod(0o644)
    assert keys.add("new") == keys.add("new.nk") == keys.add(NEW.public) == NEW.public
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert keys.files == {"new": NEW.public}
    assert {key.public for key in keys.held} == {old, NEW.public}
    keys.use("new")
    keys.remove(old)
    for again in (keys, opened(config)):
        assert (again.signing, again.accepted, again.removed) == (NEW, {NEW.public}, (old,))
        assert again.held == (NEW,)
    stored = config.paths.host / "cluster.json"
    assert stat.S_IMODE(stored.stat().st_mode) == 0o600 and NEW.seed not in stored.read_text()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    # the host's own earlier key comes back
    again = opened(config)
    again.add(old)
    assert {key.public for key in again.held} == {old, NEW.public} and again.removed == ()


def test_what_would_leave_a_host_without_a_key_is_refused_with_the_reason(config: HostConfig) -> None:
    keys = opened(config)
    old = keys.signing.public
    assert "the only one" in str(refusal(keys, "remove", old))
    keys.add(NEW.public)
    assert "the one that it signs with" in str(refusal(keys, "remove", old))
    missing = refusal(keys, "use", NEW.public)
    assert missing.code is Code.NOT_FOUND and "carry the file" in str(missing)
    assert refusal(keys, "use", OTHER.public).code is Code.CONFLICT
    assert refusal(keys, "remove", OTHER.public).code is Code.NOT_FOUND
    carry(config, NEW)
    keys.use(NEW.public)  # the folder is read again
    assert keys.signing == NEW


def test_no_name_from_the_network_leads_out_of_the_key_folders(config: HostConfig, tmp_path: Path) -> None:
    keys = opened(config)
    outside = tmp_path / "outside.nk"
    outside.write_text(OTHER.seed)
    (config.paths.host / "cluster" / "link.nk").symlink_to(outside)
    (config.paths.host / "cluster" / "folder.nk").mkdir()
    os.mkfifo(config.paths.host / "cluster" / "pipe.nk")
    carry(config, KeyPair.generate(Role.USER), "user.nk")
    names = ("../../outside", str(outside), "..", "link", "folder", "pipe", "a\0b", "", "user", OTHER.seed)
    for name in names:
        text = str(refusal(keys, "add", name))
        assert OTHER.public not in text and OTHER.seed not in text
    assert keys.accepted == {keys.signing.public} and keys.files == {}


def test_a_changed_configuration_wins_over_what_was_changed_by_command(config: HostConfig) -> None:
    config = replace(config, cluster_seed=NEW.seed, cluster_issuers=(OTHER.public,))
    keys = opened(config)
    assert (keys.signing, keys.accepted) == (NEW, {NEW.public, OTHER.public})
    keys.remove(OTHER.public)
    assert opened(config).accepted == {NEW.public}
    third = KeyPair.generate(Role.CLUSTER).public
    assert opened(replace(config, cluster_issuers=(OTHER.public, third))).accepted == {NEW.public, OTHER.public, third}


def test_a_host_does_not_guess_where_its_record_or_its_seed_is_gone(config: HostConfig) -> None:
    keys = opened(config)
    path = carry(config, NEW)
    keys.add("new")
    keys.use("new")
    path.unlink()
    with pytest.raises(StateError, match="put it back"):
        opened(config)
    carry(config, NEW)
    stored = config.paths.host / "cluster.json"
    for broken in ("{", json.dumps({"signing": "C", "accepted": [], "removed": [], "configured": []})):
        stored.write_text(broken)
        with pytest.raises(StateError, match="cannot be used"):
            opened(config)


def test_a_change_that_cannot_be_stored_is_not_made(config: HostConfig) -> None:
    keys = opened(config)
    (config.paths.host / "cluster.json").mkdir()
    assert "nothing was changed" in str(refusal(keys, "add", OTHER.public))
