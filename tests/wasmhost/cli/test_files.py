"""Commands on files and keys, which need no lattice; and what errors become."""

from __future__ import annotations

import hashlib
import json
import stat
from pathlib import Path
from typing import Any

import pytest

from lattice import claims, wasmfile
from lattice.errors import Code, GuestError, LatticeError, Unreachable
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor
from tests.support import archives
from wasmhost.cli import exit_codes, problems
from wasmhost.cli.entry import run
from wasmhost.cli.exit_codes import ExitCode

ROOT = Path(__file__).resolve().parents[3]
ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WASMHOST_STATE", str(tmp_path / "state"))
    return tmp_path


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def document(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    code, out, err = ended(capsys, *arguments, "-o", "json")
    assert code == 0, err
    return json.loads(out)


def test_claims_of_a_shipped_actor_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    shown = document(capsys, "claims", "inspect", str(ECHO))
    assert (shown["name"], shown["call_alias"], shown["valid_now"]) == ("Echo", "wasmhost/echo", True)
    code, out, _ = ended(capsys, "claims", "inspect", str(ECHO))
    assert code == 0
    assert shown["actor_id"] in out
    assert "wasmcloud:httpserver" in out
    assert max(map(len, out.splitlines())) <= 80


def test_a_signed_copy_carries_what_was_asked_for(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = home / "mine.wasm"
    bare.write_bytes(wasmfile.strip(ECHO.read_bytes()))
    arguments = ["-c", "keyvalue", "-c", "acme:thing", "-t", "demo", "-r", "7", "-v", "1.2.0", "-a", "acme/mine"]
    signed = document(capsys, "claims", "sign", str(bare), *arguments, "--expires", "2")
    assert signed["file"] == str(home / "mine_s.wasm")
    assert signed["capabilities"] == ["acme:thing", "wasmcloud:keyvalue"]
    assert (signed["revision"], signed["version"], signed["call_alias"]) == (7, "1.2.0", "acme/mine")
    assert (signed["tags"], signed["name"], signed["valid_now"]) == (["demo"], "mine", True)
    read = claims.read_actor((home / "mine_s.wasm").read_bytes())
    assert read.expires is not None
    assert read.expires - read.issued_at == 2 * 86_400
    assert wasmfile.claims_tokens(bare.read_bytes()) == [], "the original is left alone"
    again = document(capsys, "claims", "sign", str(bare))
    assert (again["actor_id"], again["account_id"]) == (signed["actor_id"], signed["account_id"])


def test_given_keys_sign_whether_as_text_or_as_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    account, module = KeyPair.generate(Role.ACCOUNT), KeyPair.generate(Role.MODULE)
    seed_file = home / "account.seed"
    seed_file.write_text(account.seed + "\n")
    target = home / "out.wasm"
    keys = ["--issuer", str(seed_file), "--subject", module.seed]
    signed = document(capsys, "claims", "sign", str(ECHO), *keys, "-d", str(target))
    assert (signed["account_id"], signed["actor_id"]) == (account.public, module.public)
    code, _, err = ended(capsys, "claims", "sign", str(ECHO), "--issuer", module.seed)
    assert code == ExitCode.USAGE
    assert "SA" in err
    assert module.seed not in err


def test_claims_that_may_not_be_used_now_say_so(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    early = document(capsys, "claims", "sign", str(ECHO), "--not-before", "3", "-d", str(home / "early.wasm"))
    assert (early["valid_now"], early["problem"]) == (False, "not_yet_valid")
    old = sign_actor(
        ECHO.read_bytes(),
        account=KeyPair.generate(Role.ACCOUNT),
        module=KeyPair.generate(Role.MODULE),
        name="old",
        expires=1000,
        issued_at=10,
    )
    (home / "old.wasm").write_bytes(old)
    assert document(capsys, "claims", "inspect", str(home / "old.wasm"))["problem"] == "expired"
    assert "expired" in ended(capsys, "claims", "inspect", str(home / "old.wasm"))[1]


@pytest.mark.parametrize(
    ("content", "words"), [(b"hello", "not a WebAssembly file"), (b"\0asm\1\0\0\0", "not signed"), (b"", "")]
)
def test_files_that_carry_no_claims_are_invalid_input(
    home: Path, capsys: pytest.CaptureFixture[str], content: bytes, words: str
) -> None:
    path = home / "file.wasm"
    path.write_bytes(content)
    code, _, err = ended(capsys, "claims", "inspect", str(path))
    assert code == ExitCode.USAGE
    assert f"{path}: " in err
    assert words in err


def test_a_missing_file_and_a_folder_are_invalid_input(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for path in (home / "none.wasm", home):
        code, _, err = ended(capsys, "claims", "inspect", str(path))
        assert code == ExitCode.USAGE
        assert str(path) in err
        assert "Next: " in err


def test_a_new_key_is_printed_or_written_where_nobody_else_reads(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = document(capsys, "keys", "gen", "host")
    assert KeyPair.from_seed(made["seed"]).public == made["public_key"]
    assert made["public_key"].startswith("N")
    path = home / "key.nk"
    written = document(capsys, "keys", "gen", "--out", str(path))
    assert "seed" not in written
    assert KeyPair.from_seed(path.read_text()).public == written["public_key"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    code, _, err = ended(capsys, "keys", "gen", "--out", str(path))
    assert code == ExitCode.FAILED
    assert "exists" in err
    assert path.read_text() == before


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Unreachable("x", code=Code.DISCONNECTED), ExitCode.UNREACHABLE),
        (Unreachable("x", code=Code.TIMED_OUT), ExitCode.TIMED_OUT),
        (GuestError("x"), ExitCode.ANSWERED_ERROR),
        (LatticeError("x", code=Code.CONFLICT), ExitCode.CONFLICT),
        (LatticeError("x", code=Code.NOT_FOUND), ExitCode.NOT_FOUND),
        (claims.BadClaims(claims.Problem.WRONG_HASH, "x"), ExitCode.USAGE),
        (claims.ClaimsRefused(claims.Problem.UNTRUSTED, "x"), ExitCode.NOT_AUTHORISED),
        (PermissionError(13, "Permission denied", "/f"), ExitCode.FAILED),
        (FileNotFoundError(2, "No such file", "/f"), ExitCode.USAGE),
    ],
)
def test_known_errors_have_their_exit_code(error: Exception, code: ExitCode) -> None:
    found = problems.from_error(error)
    assert found is not None
    assert found.exit_code is code


def test_a_bug_is_no_known_error() -> None:
    assert problems.from_error(KeyError("x")) is None


@pytest.mark.parametrize("code", list(Code))
def test_every_reason_on_the_wire_has_an_exit_code(code: Code) -> None:
    assert exit_codes.for_code(code) is not ExitCode.DONE
    assert exit_codes.for_code("from another planet") is ExitCode.FAILED


# -- keys


def test_keys_are_listed_without_their_seeds_and_printed_on_request(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "made when they are needed" in ended(capsys, "keys", "list")[2]
    bare = home / "mine.wasm"
    bare.write_bytes(wasmfile.strip(ECHO.read_bytes()))
    document(capsys, "claims", "sign", str(bare))
    code, out, _ = ended(capsys, "keys", "list")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()[1:]] == ["account", "module"]
    assert max(map(len, out.splitlines())) <= 80
    account = next(key for key in document(capsys, "keys", "list")["keys"] if key["name"] == "account")
    assert (account["mode"], account["problem"]) == ("0600", None)
    seed = Path(account["file"]).read_text()
    for name in ("account", "acc", account["public_key"], account["public_key"][:6], account["file"]):
        assert ended(capsys, "keys", "get", name) == (0, account["public_key"] + "\n", "")
    assert ended(capsys, "keys", "get", "account", "--seed")[1].strip() == seed
    assert document(capsys, "keys", "get", "account", "--seed")["seed"] == seed
    assert "seed" not in document(capsys, "keys", "get", "account")
    code, _, err = ended(capsys, "keys", "get", "cluster")
    assert (code, "no key 'cluster' among yours" in err) == (3, True)


def test_what_is_wrong_with_a_key_file_is_said(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = home / "elsewhere"
    folder.mkdir()
    key = KeyPair.generate(Role.USER)
    (folder / "open.nk").write_text(key.seed)
    (folder / "open.nk").chmod(0o644)
    (folder / "broken.nk").write_text("SUNOTHING")
    keys = {key["name"]: key for key in document(capsys, "keys", "list", "--directory", str(folder))["keys"]}
    assert keys["open"]["public_key"] == key.public
    assert f"chmod 600 {folder / 'open.nk'}" in keys["open"]["problem"]
    assert keys["broken"]["kind"] is None
    assert stat.S_IMODE((folder / "open.nk").stat().st_mode) == 0o644, "looking changes nothing"
    code, _, err = ended(capsys, "keys", "get", "broken", "--directory", str(folder))
    assert (code, "broken.nk" in err) == (1, True)


# -- tokens


def test_the_token_of_an_actor_says_what_the_flags_say(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = home / "mine.wasm"
    bare.write_bytes(wasmfile.strip(ECHO.read_bytes()))
    flags = ["--name", "Mine", "-c", "keyvalue", "-t", "demo", "-r", "7", "-v", "1.2.0", "-a", "acme/mine"]
    made = document(capsys, "claims", "token", "actor", *flags, "--file", str(bare))
    read = claims.read_actor_token(made["token"])
    assert (read.name, read.capabilities, read.tags, read.revision) == ("Mine", ("wasmcloud:keyvalue",), ("demo",), 7)
    assert (read.version, read.call_alias) == ("1.2.0", "acme/mine")
    signed = wasmfile.append_token(bare.read_bytes(), made["token"])
    assert claims.read_actor(signed).subject == document(capsys, "claims", "sign", str(bare))["actor_id"]


def test_expiry_and_beginning_are_not_swapped(capsys: pytest.CaptureFixture[str]) -> None:
    seed = KeyPair.generate(Role.SERVICE).seed
    made = document(
        capsys, "claims", "token", "provider", "--name", "P", "--capid", "acme:x", "-s", seed, "-x", "5", "-b", "1"
    )
    read = claims.read_provider_token(made["token"])
    assert read.expires is not None and read.not_before is not None
    assert read.expires - read.issued_at == 5 * 86_400
    assert read.not_before - read.issued_at == 86_400
    assert (made["valid_now"], made["problem"]) == (False, "not_yet_valid")


def test_the_token_of_a_provider_names_its_programs(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "program").write_bytes(b"\x7fELF...")
    seed = home / "provider.nk"
    seed.write_text(KeyPair.generate(Role.SERVICE).seed)
    flags = ["--name", "P", "--capid", "keyvalue", "--vendor", "acme", "-s", str(seed)]
    program = f"x86_64-linux={home / 'program'}"
    made = document(capsys, "claims", "token", "provider", *flags, "--binary", program)
    read = claims.read_provider_token(made["token"])
    assert (read.contract_id, read.vendor) == ("wasmcloud:keyvalue", "acme")
    assert read.target_hashes == (("x86_64-linux", hashlib.sha256(b"\x7fELF...").hexdigest().upper()),)
    assert ended(capsys, "claims", "token", "provider", *flags, "--binary", "amd64-linux=x")[0] == 2
    assert ended(capsys, "claims", "token", "provider", *flags, "--binary", "program")[0] == 2


def test_a_token_without_a_file_says_that_it_stands_for_no_code(capsys: pytest.CaptureFixture[str]) -> None:
    seed = KeyPair.generate(Role.MODULE).seed
    code, out, err = ended(capsys, "claims", "token", "actor", "--name", "A", "-s", seed)
    assert (code, out.count("."), "names no code" in err) == (0, 2, True)
    code, _, err = ended(capsys, "claims", "token", "actor", "--name", "A")
    assert (code, "--subject" in err) == (2, True)


# -- inspect


def test_whatever_is_inspected_is_told_for_what_it_is(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    actor = document(capsys, "inspect", str(ECHO))
    assert (actor["kind"], actor["form"], actor["name"]) == ("actor", "module", "Echo")
    token = ended(capsys, "inspect", str(ECHO), "--jwt-only")[1].strip()
    assert claims.read_actor_token(token).subject == actor["actor_id"]
    provider = document(capsys, "inspect", "bundled:keyvalue")
    assert (provider["kind"], provider["contract_id"]) == ("provider", "wasmcloud:keyvalue")
    (home / "text.par").write_bytes(b"\x1f\x8bnonsense")
    (home / "program").write_bytes(b"\x7fELF....")
    (home / "app.yaml").write_text("kind: Application\n")
    for name, words in (
        ("text.par", "get the archive again"),
        ("program", "native program"),
        ("app.yaml", "not a WebAssembly file"),
        ("ghcr.io/acme/echo:0.1.0", "registry"),
        ("none.wasm", "there is no file"),
        ("", "a folder"),
    ):
        code, _, err = ended(capsys, "inspect", name if ":" in name else str(home / name))
        assert (code, words in err) == (1 if ":" in name else 2, True), err


def test_a_provider_archive_is_inspected(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archives.pack(home, b"\x7fELF program", name="store.par.gz", compress=True)
    shown = document(capsys, "inspect", str(home / "store.par.gz"))
    assert (shown["kind"], shown["name"], shown["contract_id"]) == ("provider", "Test provider", "test:contract")
    assert len(shown["targets"]) == 1
    token = ended(capsys, "inspect", str(home / "store.par.gz"), "--jwt-only")[1].strip()
    assert claims.read_provider_token(token).subject == shown["provider_id"]
    assert "test:contract" in ended(capsys, "inspect", str(home / "store.par.gz"))[1]
