"""What a host does with a provider archive before it runs anything: each refusal in its own words, nothing unpacked."""

from __future__ import annotations

import asyncio
import os
import stat
import time
from pathlib import Path

import pytest

from lattice.claims import ClaimsError, Problem
from lattice.errors import Code, LatticeError
from lattice.keys import KeyPair, Role
from tests.support.actors import ACCOUNT
from tests.support.archives import SERVICE, archive, pack
from wasmhost.configuration.config import HostConfig
from wasmhost.images.archive_file import native_target
from wasmhost.images.files import ImageError
from wasmhost.state import locate
from wasmhost.supervision.provider_image import ProviderImage, ProviderImages

PROGRAM = b"#!/bin/sh\nexit 0\n" + b"#" * 100_000


def images(folder: Path, *, allow_file_load: bool = True, trust: str = ACCOUNT.public) -> ProviderImages:
    paths = locate({"WASMHOST_STATE": str(folder / "state")})
    config = HostConfig(paths=paths, allow_file_load=allow_file_load, trusted_issuers=frozenset({trust}))
    return ProviderImages(config)


def unpacked(folder: Path) -> list[Path]:
    return sorted((folder / "state").rglob("programs/*"))


def program_of(image: ProviderImage) -> Path:
    assert image.program is not None
    return image.program.path


@pytest.mark.parametrize("compress", [False, True])
async def test_a_sound_archive_is_unpacked_where_only_its_user_may_look(tmp_path: Path, compress: bool) -> None:
    reference = pack(tmp_path, PROGRAM, compress=compress)
    image = await images(tmp_path).load(reference)
    assert (image.reference, image.public_key, image.contract_id) == (reference, SERVICE.public, "test:contract")
    assert (image.name, image.claims.revision, image.ours) == ("Test provider", 3, False)
    path = program_of(image)
    assert image.command == (str(path),)
    assert path.read_bytes() == PROGRAM
    assert stat.S_IMODE(path.stat().st_mode) == 0o500
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    await image.check()
    same = await images(tmp_path).load(str(tmp_path / "provider.par"))
    assert program_of(same) == path
    assert unpacked(tmp_path) == [path]


async def refusal(folder: Path, data: bytes, **settings: str) -> LatticeError:
    """Why an archive with this content is refused; nothing of it has been unpacked then."""
    path = folder / "provider.par"
    path.write_bytes(data)
    with pytest.raises(LatticeError) as caught:
        await images(folder, **settings).load(path.as_uri())  # type: ignore[arg-type]
    assert str(path) in str(caught.value)
    assert unpacked(folder) == []
    return caught.value


async def test_one_changed_bit_of_the_program_is_noticed(tmp_path: Path) -> None:
    data = bytearray(archive({native_target(): PROGRAM}))
    data[-3000] ^= 1
    error = await refusal(tmp_path, bytes(data))
    assert isinstance(error, ClaimsError) and error.problem is Problem.WRONG_HASH


async def test_a_foreign_account_is_refused_naming_the_flag(tmp_path: Path) -> None:
    stranger = KeyPair.generate(Role.ACCOUNT)
    error = await refusal(tmp_path, archive({native_target(): PROGRAM}, account=stranger))
    assert isinstance(error, ClaimsError) and error.problem is Problem.UNTRUSTED
    assert f"--trust {stranger.public}" in str(error)


@pytest.mark.parametrize(
    ("claims", "problem"),
    [({"expires": 1000}, Problem.EXPIRED), ({"not_before": 4_000_000_000}, Problem.NOT_YET_VALID)],
)
async def test_claims_count_in_their_time_only(tmp_path: Path, claims: dict[str, int], problem: Problem) -> None:
    error = await refusal(tmp_path, archive({native_target(): PROGRAM}, **claims))
    assert isinstance(error, ClaimsError) and error.problem is problem


async def test_who_signed_is_judged_before_any_program_is_looked_at(tmp_path: Path) -> None:
    whole = archive({native_target(): PROGRAM}, account=KeyPair.generate(Role.ACCOUNT))
    error = await refusal(tmp_path, whole[:2048])
    assert isinstance(error, ClaimsError) and error.problem is Problem.UNTRUSTED


async def test_an_archive_for_other_machines_says_for_which(tmp_path: Path) -> None:
    error = await refusal(tmp_path, archive({"mips-windows": PROGRAM, "s390x-aix": PROGRAM}))
    assert error.code is Code.UNSUPPORTED
    assert f"no program for this machine ({native_target()}), only for mips-windows, s390x-aix" in str(error)
    assert f"wasmhost par insert {tmp_path / 'provider.par'} --arch {native_target()}" in str(error)


async def test_a_contract_that_nobody_could_link_is_refused(tmp_path: Path) -> None:
    error = await refusal(tmp_path, archive({native_target(): PROGRAM}, contract_id="a b\n"))
    assert error.code is Code.MALFORMED


async def test_what_is_not_a_readable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    found = images(tmp_path)

    async def said(reference: str) -> str:
        with pytest.raises(ImageError) as caught:
            await found.load(reference)
        return str(caught.value)

    assert "there is no file" in await said(f"file://{tmp_path}/none.par")
    assert "not a regular file" in await said(f"file://{tmp_path}")
    os.mkfifo(tmp_path / "pipe.par")
    assert "not a regular file" in await said(f"file://{tmp_path}/pipe.par")


async def test_files_are_loaded_only_where_that_is_allowed(tmp_path: Path) -> None:
    reference = pack(tmp_path, PROGRAM)
    with pytest.raises(ImageError, match=r"provider file loading is disabled.*--allow-file-load") as caught:
        await images(tmp_path, allow_file_load=False).load(reference)
    assert caught.value.code is Code.NOT_AUTHORIZED


async def test_a_program_changed_after_it_was_unpacked_is_not_run(tmp_path: Path) -> None:
    reference = pack(tmp_path, PROGRAM)
    found = images(tmp_path)
    image = await found.load(reference)
    path = program_of(image)
    path.chmod(0o700)
    path.write_bytes(PROGRAM + b"evil")
    with pytest.raises(ImageError, match="was changed by somebody"):
        await image.check()
    path.unlink()
    with pytest.raises(ImageError, match="cannot be read: No such file"):
        await image.check()
    (tmp_path / "evil").write_bytes(PROGRAM)
    path.symlink_to(tmp_path / "evil")
    with pytest.raises(ImageError, match="cannot be read"):
        await image.check()
    await found.load(reference)  # puts it right again
    await image.check()


async def test_a_program_planted_under_the_right_name_is_replaced(tmp_path: Path) -> None:
    reference = pack(tmp_path, PROGRAM)
    path = program_of(await images(tmp_path).load(reference))
    path.unlink()
    path.write_bytes(b"evil")
    path.chmod(0o755)
    image = await images(tmp_path).load(reference)
    assert program_of(image).read_bytes() == PROGRAM


async def test_programs_of_an_earlier_run_go_when_the_first_is_unpacked(tmp_path: Path) -> None:
    first = program_of(await images(tmp_path).load(pack(tmp_path, PROGRAM)))
    later = images(tmp_path)
    second, third = await asyncio.gather(
        later.load(pack(tmp_path, PROGRAM + b"2", name="2.par")),
        later.load(pack(tmp_path, PROGRAM + b"3", name="3.par")),
    )
    assert unpacked(tmp_path) == sorted([program_of(second), program_of(third)])
    assert not first.exists()


async def test_claims_that_expire_later_count_at_each_start(tmp_path: Path) -> None:
    image = await images(tmp_path).load(pack(tmp_path, PROGRAM, expires=int(time.time()) + 1))
    await image.check()
    await asyncio.sleep(2.1)
    with pytest.raises(ClaimsError) as caught:
        await image.check()
    assert caught.value.problem is Problem.EXPIRED


def test_the_target_of_this_machine_is_spelled_as_archives_spell_it() -> None:
    assert native_target().endswith(("-linux", "-macos"))
    assert "amd64" not in native_target()
