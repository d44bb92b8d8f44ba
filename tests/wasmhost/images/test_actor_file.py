"""What a host says about an actor file that it does not start: each problem in its own words."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from lattice import wasmfile
from lattice.claims import ClaimsError, Problem
from lattice.errors import Code, LatticeError
from lattice.keys import KeyPair, Role
from tests.support.actors import ACCOUNT, ECHO, signed, write
from wasmhost.configuration.config import HostConfig
from wasmhost.images.actor_file import ImageError, load_actor
from wasmhost.state import locate

NOW = 1_700_000_000


def config(folder: Path, *, allow_file_load: bool = True, trust: str = ACCOUNT.public) -> HostConfig:
    paths = locate({"WASMHOST_STATE": str(folder / "state")})
    return HostConfig(paths=paths, allow_file_load=allow_file_load, trusted_issuers=frozenset({trust}))


async def problem(folder: Path, wasm: bytes, *, trust: str = ACCOUNT.public) -> tuple[Problem, str]:
    with pytest.raises(ClaimsError) as caught:
        await load_actor(write(folder, wasm), config=config(folder, trust=trust), now=NOW)
    assert str(folder / "actor_s.wasm") in str(caught.value)
    return caught.value.problem, str(caught.value)


def claims_section(wasm: bytes) -> wasmfile.ClaimsSection:
    (section,) = wasmfile.claims_tokens(wasm)
    return section


async def test_a_sound_actor_is_loaded_with_its_claims(tmp_path: Path) -> None:
    module = KeyPair.generate(Role.MODULE)
    wasm = signed(ECHO, module=module, capabilities=["wasmcloud:httpserver"], call_alias="test/echo")
    reference = write(tmp_path, wasm)
    image = await load_actor(reference, config=config(tmp_path), now=NOW)
    assert (image.reference, image.wasm, image.claims.subject) == (reference, wasm, module.public)
    assert image.claims.capabilities == ("wasmcloud:httpserver",) and len(image.digest) == 64
    same = await load_actor(str(tmp_path / "actor_s.wasm"), config=config(tmp_path), now=NOW)
    assert same.digest == image.digest


async def test_one_changed_bit_of_code_is_noticed(tmp_path: Path) -> None:
    wasm = bytearray(signed(ECHO))
    wasm[claims_section(bytes(wasm)).start - 2] ^= 0x01
    kind, text = await problem(tmp_path, bytes(wasm))
    assert kind is Problem.WRONG_HASH and "SHA-256 differs" in text


async def test_an_unsigned_module_is_refused_with_the_command_that_signs_it(tmp_path: Path) -> None:
    wasm = signed(ECHO)
    kind, text = await problem(tmp_path, wasm[: claims_section(wasm).start])
    assert kind is Problem.UNSIGNED and "wasmhost claims sign" in text


async def test_two_tokens_are_refused(tmp_path: Path) -> None:
    wasm = signed(ECHO)
    section = claims_section(wasm)
    kind, text = await problem(tmp_path, wasm + wasm[section.start : section.end])
    assert kind is Problem.TWO_TOKENS and "2 tokens" in text


async def test_expired_and_not_yet_valid_claims_are_told_apart(tmp_path: Path) -> None:
    kind, text = await problem(tmp_path, signed(ECHO, expires=NOW - 1))
    assert kind is Problem.EXPIRED and "expired" in text
    kind, text = await problem(tmp_path, signed(ECHO, not_before=NOW + 3600))
    assert kind is Problem.NOT_YET_VALID and "not valid before" in text


async def test_a_foreign_account_is_refused_naming_the_flag(tmp_path: Path) -> None:
    stranger = KeyPair.generate(Role.ACCOUNT)
    kind, text = await problem(tmp_path, signed(ECHO, account=stranger))
    assert kind is Problem.UNTRUSTED and f"--trust {stranger.public}" in text


async def test_a_text_file_is_no_actor(tmp_path: Path) -> None:
    kind, _ = await problem(tmp_path, b"this is a text\n")
    assert kind is Problem.MALFORMED


async def image_error(reference: str, settings: HostConfig) -> LatticeError:
    with pytest.raises(ImageError) as caught:
        await load_actor(reference, config=settings, now=time.time())
    return caught.value


async def test_what_is_not_a_readable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    settings = config(tmp_path)
    missing = await image_error(f"file://{tmp_path}/none.wasm", settings)
    assert missing.code is Code.NOT_FOUND and "there is no file" in str(missing)
    assert "not a regular file" in str(await image_error(f"file://{tmp_path}", settings))
    os.mkfifo(tmp_path / "pipe.wasm")
    assert "not a regular file" in str(await image_error(f"file://{tmp_path}/pipe.wasm", settings))
    assert "start provider" in str(await image_error("bundled:httpserver", settings))


async def test_files_are_loaded_only_where_that_is_allowed(tmp_path: Path) -> None:
    refused = await image_error(write(tmp_path, signed(ECHO)), config(tmp_path, allow_file_load=False))
    assert refused.code is Code.NOT_AUTHORIZED and "actor file loading is disabled" in str(refused)
    assert "--allow-file-load" in str(refused)
