"""Provider archives from the command line: packed, looked into, added to, and never of another provider unnoticed."""

from __future__ import annotations

import getpass
import json
import stat
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from lattice import jwt
from lattice.keys import KeyPair, Role
from wasmhost.cli.entry import run
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.images.archive_file import examine_archive, native_target

REQUIRED = ["--capid", "acme:thing", "--vendor", "Acme", "--name", "Thing"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WASMHOST_STATE", str(tmp_path / "state"))
    for variable in ("WASH_KEYS", "WASH_ISSUER_KEY", "WASH_SUBJECT_KEY"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "thing").write_bytes(b"#!/bin/sh\nexit 0\n")
    (tmp_path / "other").write_bytes(b"another program")
    return tmp_path


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object, code: int = 0) -> str:
        ended = run([str(argument) for argument in arguments])
        shown = self._capsys.readouterr()
        assert ended == code, f"{ended}\n{shown.out}\n{shown.err}"
        return shown.err if code else shown.out

    def document(self, *arguments: object) -> Any:
        return json.loads(self(*arguments, "-o", "json"))


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_an_archive_is_packed_beside_its_program_and_signed_with_the_development_key(home: Path, shell: Shell) -> None:
    made = shell.document("par", "create", *REQUIRED, "--binary", home / "thing", "-r", "7", "--version", "1.2.0")
    assert made["file"] == str(home / "thing.par")
    assert (made["contract_id"], made["vendor"], made["name"]) == ("acme:thing", "Acme", "Thing")
    assert (made["revision"], made["version"], made["compressed"], made["valid_now"]) == (7, "1.2.0", False, True)
    content = (home / "thing").read_bytes()
    digest = sha256(content).hexdigest().upper()
    assert made["programs"] == [{"target": native_target(), "size": len(content), "sha256": digest}]
    assert shell.document("par", "inspect", home / "thing.par") == made
    again = shell.document("par", "create", *REQUIRED, "--binary", home / "thing", "--compress")
    assert again["file"] == str(home / "thing.par.gz")
    assert again["compressed"] is True
    assert (again["provider_id"], again["account_id"]) == (made["provider_id"], made["account_id"])
    elsewhere = shell.document("par", "create", *REQUIRED, "--binary", home / "other")
    assert elsewhere["provider_id"] != made["provider_id"]


def test_everything_that_is_asked_for_is_in_the_claims(home: Path, shell: Shell) -> None:
    (home / "schema.json").write_text('{"type": "object"}')
    account, service = KeyPair.generate(Role.ACCOUNT), KeyPair.generate(Role.SERVICE)
    (home / "account.nk").write_text(account.seed)
    options = ["--arch", "aarch64-macos", "--schema", home / "schema.json", "--expires", "2", "--not-before", "1"]
    keys = ["--issuer", home / "account.nk", "--subject", service.seed, "--destination", home / "x.par"]
    made = shell.document("par", "create", *REQUIRED, "-b", home / "thing", *options, *keys)
    assert (made["provider_id"], made["account_id"], made["targets"]) == (
        service.public,
        account.public,
        ["aarch64-macos"],
    )
    assert (made["problem"], made["valid_now"]) == ("not_yet_valid", False)
    token = shell("par", "inspect", home / "x.par", "--jwt-only").strip()
    body = jwt.decode("token", token).body
    assert body["wascap"]["config_schema"] == {"type": "object"}
    assert body["exp"] - body["iat"] == 2 * 86_400
    assert body["nbf"] - body["iat"] == 86_400


def test_text_fits_80_columns_and_says_what_was_done(home: Path, shell: Shell) -> None:
    made = shell("par", "create", *REQUIRED, "-b", home / "thing")
    shown = shell("par", "inspect", home / "thing.par")
    added = shell("par", "insert", home / "thing.par", "-a", "aarch64-linux", "-b", home / "other")
    assert made.startswith("packed ")
    assert "contract  acme:thing" in shown and f"  {native_target()}  17 bytes" in shown
    assert added.startswith("added aarch64-linux in ")
    for text in (shown, added.partition("\n")[2], made.partition("\n")[2]):
        assert max(map(len, text.splitlines())) <= 80


def test_a_program_is_added_and_replaced_and_nothing_else_changes(home: Path, shell: Shell) -> None:
    before = shell.document("par", "create", *REQUIRED, "-b", home / "thing", "--compress", "--expires", "9")
    archive = Path(before["file"])
    after = shell.document("par", "insert", archive, "--arch", "aarch64-linux", "--binary", home / "other")
    changed = {"targets", "programs", "issued_at", "token_id"}
    assert {key: value for key, value in after.items() if key not in changed} == {
        key: value for key, value in before.items() if key not in changed
    }
    assert after["targets"] == sorted(["aarch64-linux", native_target()])
    (home / "other").write_bytes(b"newer")
    last = shell("par", "insert", archive, "--arch", "aarch64-linux", "--binary", home / "other")
    assert last.startswith("replaced aarch64-linux")
    assert {each.target: each.size for each in examine_archive(archive).programs} == {
        "aarch64-linux": 5,
        native_target(): 17,
    }


def test_insert_never_signs_for_another_provider_or_by_another_account(home: Path, shell: Shell) -> None:
    account, service = KeyPair.generate(Role.ACCOUNT), KeyPair.generate(Role.SERVICE)
    keys = ["--issuer", account.seed, "--subject", service.seed]
    shell("par", "create", *REQUIRED, "-b", home / "thing", *keys)
    archive, before = home / "thing.par", (home / "thing.par").read_bytes()
    more = ["par", "insert", archive, "--arch", "aarch64-linux", "--binary", home / "other"]
    refused = shell(*more, code=ExitCode.USAGE)  # the classic command line takes whatever key it finds
    assert f"is signed by {account.public}" in refused and "--issuer" in refused
    other = KeyPair.generate(Role.SERVICE)
    refused = shell(*more, "--issuer", account.seed, "--subject", other.seed, code=ExitCode.USAGE)
    assert f"is of provider {service.public}" in refused and other.public in refused
    assert other.seed not in refused
    assert archive.read_bytes() == before
    assert shell.document(*more, "--issuer", account.seed)["provider_id"] == service.public


def test_keys_of_the_classic_command_line_are_found_in_their_folder(home: Path, shell: Shell) -> None:
    folder = home / "keys"
    folder.mkdir()
    account, service = KeyPair.generate(Role.ACCOUNT), KeyPair.generate(Role.SERVICE)
    (folder / f"{getpass.getuser()}_account.nk").write_text(account.seed)
    (folder / "thing_service.nk").write_text(service.seed)
    made = shell.document("par", "create", *REQUIRED, "-b", home / "thing", "--directory", folder)
    assert (made["provider_id"], made["account_id"]) == (service.public, account.public)
    missing = ["par", "create", *REQUIRED, "-b", home / "other", "-d", folder]
    refused = shell(*missing, "--disable-keygen", code=ExitCode.USAGE)
    assert f"there is no key {folder / 'other_service.nk'}" in refused
    made = shell.document(*missing)
    key = folder / "other_service.nk"
    assert KeyPair.from_seed(key.read_text()).public == made["provider_id"]
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    refused = shell("par", "create", *REQUIRED, "-b", home / "thing", "--disable-keygen", code=ExitCode.USAGE)
    assert "none may be made" in refused and "--issuer" in refused


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--arch", "amd64-linux"], "write x86_64-linux"),
        (["--arch", "x86_64-unknown-linux-gnu"], "write ARCH-OS"),
        (["--binary", "nothing-there"], "there is no file nothing-there"),
        (["--binary", "/"], "not a regular file"),
        (["--binary", "/dev/null"], "not a regular file"),
        (["--binary", "empty"], "empty is empty"),
        (["--capid", "thing"], "'thing' is no contract"),
        (["--schema", "thing"], "not JSON"),
        (["--issuer", "SUNOSEED"], "no account seed"),
    ],
)
def test_what_cannot_be_packed_says_why(
    home: Path, shell: Shell, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(home)
    (home / "empty").touch()
    options = {"--binary": "thing", "--capid": "acme:thing", **dict([arguments])}
    given = [part for option in options.items() for part in option]
    assert words in shell("par", "create", "--vendor", "A", "--name", "B", *given, code=ExitCode.USAGE)
    assert list(home.glob("*.par*")) == []


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8bnonsense", b"\0asm\1\0\0\0"])
def test_a_file_that_is_no_archive_is_invalid_input(home: Path, shell: Shell, content: bytes) -> None:
    path = home / "x.par"
    path.write_bytes(content)
    for command in (["inspect", path], ["insert", path, "-b", home / "thing"]):
        refused = shell("par", *command, code=ExitCode.USAGE)
        assert f"{path}: " in refused and "Next: " in refused
    assert "there is no file" in shell("par", "inspect", home / "none.par", code=ExitCode.USAGE)


def test_a_changed_program_is_told(home: Path, shell: Shell) -> None:
    shell("par", "create", *REQUIRED, "-b", home / "thing")
    data = (home / "thing.par").read_bytes().replace(b"exit 0", b"exit 1")
    (home / "thing.par").write_bytes(data)
    assert "SHA-256 differs" in shell("par", "inspect", home / "thing.par", code=ExitCode.USAGE)
    assert "SHA-256 differs" in shell(
        "par", "insert", home / "thing.par", "-a", "aarch64-linux", "-b", home / "other", code=ExitCode.USAGE
    )


def test_a_program_for_another_machine_than_it_is_packed_for_is_noticed(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (home / "elf").write_bytes(b"\x7fELF\2\1" + bytes(12) + (183).to_bytes(2, "little"))
    assert run(["par", "create", *REQUIRED, "-b", str(home / "elf"), "-a", "x86_64-linux"]) == ExitCode.DONE
    assert "is a program for aarch64, packed as one for x86_64-linux" in capsys.readouterr().err
    assert run(["par", "create", *REQUIRED, "-b", str(home / "elf"), "-a", "aarch64-linux"]) == ExitCode.DONE
    assert "Warning" not in capsys.readouterr().err
