"""Keys, folders and locks on a real file system."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lattice.errors import Code
from lattice.keys import KeyPair, Role
from wasmhost.configuration.config import HostConfig
from wasmhost.keys.identity import Identity, friendly_name
from wasmhost.private_files import StateError
from wasmhost.state import Keyring, StateFolder, StatePaths, locate, read_or_make_key


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return locate({"WASMHOST_STATE": str(tmp_path / "state")})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_folders_follow_xdg_and_one_variable_overrides_them(tmp_path: Path) -> None:
    xdg = {"HOME": "/home/u", "XDG_STATE_HOME": "/s", "XDG_CACHE_HOME": "/c"}
    assert locate(xdg) == StatePaths(Path("/s/wasmhost/hosts/default"), Path("/s/wasmhost"), Path("/c/wasmhost"))
    assert locate(xdg, name="two").host == Path("/s/wasmhost/hosts/two")
    assert locate(xdg, state="/d").host == Path("/d")
    assert locate(xdg, state="/d").shared == Path("/s/wasmhost")
    own = locate({**xdg, "WASMHOST_STATE": str(tmp_path)})
    assert (own.host, own.shared, own.cache) == (tmp_path / "hosts/default", tmp_path, tmp_path / "cache")


def test_seeds_are_made_once_and_only_their_user_can_read_them(paths: StatePaths) -> None:
    with StateFolder.open(paths) as state:
        host, cluster = state.host_key(), state.cluster_key()
        assert (host.role, cluster.role) == (Role.HOST, Role.CLUSTER)
    with StateFolder.open(paths) as state:
        assert (state.host_key(), state.cluster_key()) == (host, cluster)
    for seed in (paths.host / "host.nk", paths.shared / "cluster.nk"):
        assert mode(seed) == 0o600 and mode(seed.parent) == 0o700
        assert len(seed.read_text()) == 58
    assert not list(paths.shared.rglob(".*.nk.*"))


def test_a_second_host_of_the_user_has_its_own_key_and_the_same_cluster(tmp_path: Path) -> None:
    environ = {"WASMHOST_STATE": str(tmp_path)}
    with StateFolder.open(locate(environ)) as one, StateFolder.open(locate(environ, name="two")) as two:
        assert one.host_key() != two.host_key()
        assert one.cluster_key() == two.cluster_key()


def test_a_folder_in_use_is_refused_naming_its_process(paths: StatePaths) -> None:
    with StateFolder.open(paths):
        with pytest.raises(StateError, match=rf"in use by process {os.getpid()}; .*--name") as caught:
            StateFolder.open(paths)
        assert caught.value.code is Code.CONFLICT
    StateFolder.open(paths).close()


def test_the_lock_of_a_killed_process_is_free(paths: StatePaths) -> None:
    script = (
        "import sys, time; from pathlib import Path; from wasmhost.state import *;"
        "folder = StateFolder.open(StatePaths(*map(Path, sys.argv[1:]))); print('held', flush=True); time.sleep(60)"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", script, *map(str, (paths.host, paths.shared, paths.cache))], stdout=subprocess.PIPE
    )
    try:
        assert child.stdout is not None and child.stdout.readline() == b"held\n"
        with pytest.raises(StateError, match=f"process {child.pid}"):
            StateFolder.open(paths)
    finally:
        child.kill()
        child.wait()
    StateFolder.open(paths).close()


def test_many_starts_at_once_agree_on_one_key(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        keys = list(pool.map(lambda _: read_or_make_key(tmp_path / "keys/a.nk", Role.ACCOUNT), range(16)))
    assert len({key.public for key in keys}) == 1


def test_a_damaged_key_file_is_refused_without_showing_it(paths: StatePaths) -> None:
    with StateFolder.open(paths) as state:
        seed = KeyPair.generate(Role.HOST).seed
        wrong = seed[:20] + ("A" if seed[20] != "A" else "B") + seed[21:]
        (paths.host / "host.nk").write_text(wrong)
        with pytest.raises(StateError, match=r"host\.nk .*restore it") as caught:
            state.host_key()
        assert wrong not in str(caught.value)
        (paths.host / "host.nk").write_text(KeyPair.generate(Role.USER).seed)
        with pytest.raises(StateError, match="SN"):
            state.host_key()


def test_a_seed_file_that_others_could_read_is_closed_to_them(tmp_path: Path) -> None:
    key = KeyPair.generate(Role.ACCOUNT)
    path = tmp_path / "account.nk"
    path.write_text(key.seed + "\n")
    path.chmod(0o644)
    assert read_or_make_key(path, Role.ACCOUNT) == key
    assert mode(path) == 0o600


def test_a_folder_that_cannot_be_written_says_so_and_what_to_do(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(StateError, match=r"cannot be written: .*--state DIR or WASMHOST_STATE"):
        StateFolder.open(locate({"WASMHOST_STATE": str(blocked)}))


def test_a_folder_of_another_user_is_refused_however_open_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir()
    folder.chmod(0o777)
    paths = locate({"WASMHOST_STATE": str(tmp_path / "shared")}, state=str(folder))
    me = os.geteuid()
    if me == 0:
        os.chown(folder, 65534, -1)
        StateFolder.open(paths).close()  # root may
    monkeypatch.setattr(os, "geteuid", lambda: me + 4711)
    with pytest.raises(StateError, match=r"belongs to user \d+, .*--state DIR or WASMHOST_STATE"):
        StateFolder.open(paths)


def test_the_key_of_an_unsigned_file_is_kept_per_path(paths: StatePaths, tmp_path: Path) -> None:
    keyring = Keyring(paths)
    one, two = tmp_path / "one.wasm", tmp_path / "two.wasm"
    assert keyring.module(one) == keyring.module(one)
    assert keyring.module(one) != keyring.module(two)
    assert keyring.account().role is Role.ACCOUNT and keyring.account() == keyring.account()


def test_configured_seeds_win_over_kept_ones(paths: StatePaths) -> None:
    host, cluster = KeyPair.generate(Role.HOST), KeyPair.generate(Role.CLUSTER)
    other = KeyPair.generate(Role.CLUSTER).public
    config = HostConfig(paths=paths, host_seed=host.seed, cluster_seed=cluster.seed, cluster_issuers=(other,))
    with StateFolder.open(paths) as state:
        identity = Identity.open(config, state)
        assert (identity.host, identity.cluster) == (host, cluster)
        assert identity.issuers == {cluster.public, other}
        assert not (paths.shared / "cluster.nk").exists()
        kept = Identity.open(HostConfig(paths=paths), state)
        assert (
            kept.friendly_name
            == friendly_name(kept.host_id)
            == Identity.open(HostConfig(paths=paths), state).friendly_name
        )
