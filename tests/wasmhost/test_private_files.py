"""What is kept for one user stays where it is, and what others put in its place is not used."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from lattice.keys import KeyPair, Role
from wasmhost.cli.up.history import History
from wasmhost.configuration.config import HostConfig
from wasmhost.contexts.context import RECORD_NAME, UpRecord
from wasmhost.images.programs import ProgramStore
from wasmhost.keys.identity import Identity
from wasmhost.private_files import StateError, make_private_folder, read_private, replace_file
from wasmhost.state import StateFolder, StatePaths, locate


@pytest.fixture
def paths(tmp_path: Path) -> StatePaths:
    return locate({"WASMHOST_STATE": str(tmp_path / "state")})


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_folder_that_is_made_on_the_way_is_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        make_private_folder(tmp_path / "a/b/c")
    finally:
        os.umask(before)
    assert [mode(tmp_path / each) for each in ("a", "a/b", "a/b/c")] == [0o700] * 3


def test_a_link_in_the_place_of_a_folder_is_refused_and_nothing_behind_it_touched(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o755)
    elsewhere.chmod(0o755)
    (elsewhere / "precious").write_text("kept")
    (tmp_path / "programs").symlink_to(elsewhere)
    with pytest.raises(StateError, match=r"programs is a symbolic link to .*elsewhere; name the folder itself with"):
        make_private_folder(tmp_path / "programs")
    with pytest.raises(StateError):
        ProgramStore(tmp_path / "programs")._prepare()
    assert mode(elsewhere) == 0o755 and (elsewhere / "precious").read_text() == "kept"


def test_a_link_of_this_user_on_the_way_is_followed_and_one_of_another_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "home").symlink_to(tmp_path / "disk")
    make_private_folder(tmp_path / "home/wasmhost")
    assert mode(tmp_path / "disk/wasmhost") == 0o700
    if os.geteuid() == 0:
        os.chown(tmp_path / "home", 65534, -1, follow_symlinks=False)  # root least of all
    else:
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
    with pytest.raises(StateError, match=r"home is a symbolic link of user \d+ to"):
        make_private_folder(tmp_path / "home/wasmhost")


def test_a_key_behind_a_link_is_not_used(paths: StatePaths, tmp_path: Path) -> None:
    known = tmp_path / "known.nk"
    known.write_text(KeyPair.generate(Role.HOST).seed)
    with StateFolder.open(paths) as state:
        (paths.host / "host.nk").symlink_to(known)
        with pytest.raises(StateError, match=r"host\.nk is a symbolic link; put the file itself there"):
            state.host_key()
        (paths.host / "host.nk").unlink()
        os.mkfifo(paths.host / "host.nk")
        with pytest.raises(StateError, match=r"host\.nk is no regular file"):  # and nobody waits for a writer
            state.host_key()


def test_a_record_behind_a_link_is_not_used(paths: StatePaths, tmp_path: Path) -> None:
    config = HostConfig(paths=paths)
    with StateFolder.open(paths) as state:
        Identity.open(config, state)
        stored = tmp_path / "cluster.json"
        stored.write_text("{}")
        (paths.host / "cluster.json").symlink_to(stored)
        with pytest.raises(StateError, match=r"cluster\.json is a symbolic link"):
            Identity.open(config, state)
    record = UpRecord(pid=os.getpid(), nats_url="nats://127.0.0.1:4222", lattice="theirs")
    record.write(tmp_path)
    (paths.host / RECORD_NAME).symlink_to(tmp_path / RECORD_NAME)
    assert UpRecord.read(tmp_path) == record and UpRecord.read(paths.host) is None


def test_what_is_written_replaces_a_link_and_nothing_behind_it(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    (tmp_path / "links.json").symlink_to(elsewhere)
    History(tmp_path / "links.json", place="x").note([])
    replace_file(tmp_path / "other", b"1")
    assert elsewhere.read_text() == "kept" and not (tmp_path / "links.json").is_symlink()
    assert mode(tmp_path / "links.json") == mode(tmp_path / "other") == 0o600
    (tmp_path / ".draft.new").symlink_to(elsewhere)
    with pytest.raises(OSError):
        replace_file(tmp_path / "draft", b"2")
    assert elsewhere.read_text() == "kept"


def test_a_file_that_others_could_read_is_closed_to_them_and_one_of_theirs_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "duties.json"
    file.write_bytes(b"[]")
    file.chmod(0o664)
    assert read_private(file) == b"[]" and read_private(file, most=1) == b"["
    assert mode(file) == 0o600
    me = os.geteuid()
    if me == 0:
        os.chown(file, 65534, -1)
    monkeypatch.setattr(os, "geteuid", lambda: me + 4711)
    with pytest.raises(StateError, match=r"belongs to user \d+; remove it"):
        read_private(file)
