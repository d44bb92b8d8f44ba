"""The signed actors in the repository are what their sources build, byte for byte, in any folder."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from actors.build import ACTORS, BuildError, build
from actors.sign import EXAMPLES, Example
from lattice import claims, wasmfile

examples = pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)


@examples
def test_the_signed_file_is_the_built_module_with_the_kept_token(example: Example, tmp_path: Path) -> None:
    module = tmp_path / "module.wasm"
    build(example.source, module)
    signed = example.signed.read_bytes()
    (token,) = wasmfile.claims_tokens(signed)
    assert wasmfile.append_token(module.read_bytes(), token.token.decode()) == signed, (
        "sources and signed file differ; if the sources changed: python -m actors.sign --keys FOLDER"
    )


@examples
def test_another_folder_gives_the_same_bytes(example: Example, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a folder elsewhere" / "deep"
    shutil.copytree(ACTORS / "guest", elsewhere / "lib")
    shutil.copytree(example.source.parent, elsewhere / "source")
    build(elsewhere / "source" / example.source.name, tmp_path / "there.wasm", library=elsewhere / "lib")
    assert (tmp_path / "there.wasm").read_bytes() == wasmfile.strip(example.signed.read_bytes())


@examples
def test_a_built_actor_is_small(example: Example) -> None:
    signed = example.signed.read_bytes()
    assert len(wasmfile.strip(signed)) < 30_000
    assert len(signed) < 64 * 1024


@examples
def test_the_claims_hold_for_the_file_and_name_what_it_needs(example: Example) -> None:
    read = claims.read_actor(example.signed.read_bytes())
    assert (read.name, read.revision, read.version) == (example.title, example.revision, example.version)
    assert set(read.capabilities) == set(example.capabilities)
    assert read.call_alias == f"wasmhost/{example.name}"
    assert read.expires is None


def test_both_actors_are_signed_by_one_account() -> None:
    assert len({claims.read_actor(example.signed.read_bytes()).issuer for example in EXAMPLES}) == 1


def test_no_seed_lies_beside_the_sources() -> None:
    seed = re.compile(rb"\bS[AMCNOUV][A-Z2-7]{56}\b")
    for path in ACTORS.rglob("*"):
        if path.is_file():
            assert not seed.search(path.read_bytes()), path


def test_a_missing_compiler_is_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WASMHOST_RUSTC", str(tmp_path / "rustc"))
    with pytest.raises(BuildError, match=r"apt-get install rustc libstd-rust-dev-wasm32 lld"):
        build(EXAMPLES[0].source, tmp_path / "out.wasm")


def test_an_actor_that_does_not_compile_shows_the_compilers_words(tmp_path: Path) -> None:
    source = tmp_path / "broken.rs"
    source.write_text("use guest::http::Nothing;\n")
    with pytest.raises(BuildError, match=r"broken\.rs does not compile:\n(?s:.)*Nothing"):
        build(source, tmp_path / "out.wasm")
    assert not (tmp_path / "out.wasm").exists()
