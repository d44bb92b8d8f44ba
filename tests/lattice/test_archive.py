"""Provider archives: what is written can be read, and nothing else gets past the reader."""

from __future__ import annotations

import gzip
import io
import random
import subprocess
import tarfile
import tracemalloc
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import archive as archives
from lattice.archive import Archive, check_target
from lattice.claims import BadClaims, Problem, read_provider_token
from lattice.keys import KeyPair, Role
from lattice.signing import resign_provider
from tests.support.actors import ACCOUNT
from tests.support.archives import SERVICE, archive, token

LINUX, MACOS = b"\x7fELF linux" * 300, b"\xcf\xfa\xed\xfe macos" * 211
PROGRAMS = {"x86_64-linux": LINUX, "aarch64-macos": MACOS}


def read(data: bytes) -> dict[str, bytes]:
    """Every program, checked."""
    opened = Archive.open(io.BytesIO(data))
    return {program.target: b"".join(program.chunks()) for program in opened.programs()}


def refused(data: bytes) -> BadClaims:
    with pytest.raises(BadClaims) as caught:
        read(data)
    return caught.value


Entry = tuple[str, bytes]


def tar(*entries: Entry, type: bytes = tarfile.REGTYPE, format: int = tarfile.GNU_FORMAT) -> bytes:
    """An archive as any tool may make it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=format) as writer:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.type = tarfile.REGTYPE if name == "claims.jwt" else type
            writer.addfile(info, io.BytesIO(content))
    return packed.getvalue()


CLAIMS = ("claims.jwt", token(PROGRAMS).encode())
GOOD = ("x86_64-linux.bin", LINUX)


@pytest.mark.parametrize("compress", [False, True])
def test_what_is_written_is_read_again(compress: bool) -> None:
    data = archive(PROGRAMS, compress=compress)
    assert read(data) == PROGRAMS
    opened = Archive.open(io.BytesIO(data))
    claims = opened.claims
    assert (claims.subject, claims.issuer, claims.contract_id) == (SERVICE.public, ACCOUNT.public, "test:contract")
    assert (claims.name, claims.vendor, claims.revision, claims.version) == ("Test provider", "tests", 3, "0.3.0")
    assert opened.compressed is compress


def test_other_tools_read_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "a.par.gz").write_bytes(archive(PROGRAMS, compress=True))
    listed = subprocess.run(["tar", "tvzf", tmp_path / "a.par.gz"], capture_output=True, text=True, check=True).stdout
    assert [line.split()[-1] for line in listed.splitlines()] == [
        "claims.jwt",
        "aarch64-macos.bin",
        "x86_64-linux.bin",
    ]
    with tarfile.open(tmp_path / "a.par.gz") as reader:
        member = reader.extractfile("x86_64-linux.bin")
        assert member is not None and member.read() == LINUX
    plain = archive(PROGRAMS)
    assert plain[257:265] == b"ustar  \0"  # the GNU flavour, as published archives have it


def test_the_same_token_and_programs_give_the_same_bytes() -> None:
    signed = token(PROGRAMS)

    def packed(order: list[str]) -> bytes:
        target = io.BytesIO()
        programs = [(name, len(PROGRAMS[name]), io.BytesIO(PROGRAMS[name])) for name in order]
        archives.write_archive(target, signed, programs, compress=True)
        return target.getvalue()

    assert packed(["x86_64-linux", "aarch64-macos"]) == packed(["aarch64-macos", "x86_64-linux"])


def test_a_program_that_is_not_the_signed_one_is_not_packed() -> None:
    with pytest.raises(BadClaims, match="is not the one that was signed"):
        archives.write_archive(io.BytesIO(), token({"x86_64-linux": b"1"}), [("x86_64-linux", 1, io.BytesIO(b"2"))])


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_archives_of_ordinary_tools_are_read(format: int) -> None:
    assert read(tar(CLAIMS, GOOD, format=format)) == {"x86_64-linux": LINUX}
    assert read(gzip.compress(tar(CLAIMS, GOOD, format=format))) == {"x86_64-linux": LINUX}


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "not a provider archive"),
        (b"hello", "ends too early"),
        (b"\0asm\1\0\0\0" * 100, "not a provider archive"),
        (gzip.compress(b"hello" * 1000), "not a provider archive"),
        (tar(), "claims.jwt is not its first entry"),
        (tar(GOOD, CLAIMS), "claims.jwt is not its first entry"),
        (tar(("./claims.jwt", CLAIMS[1]), GOOD), "claims.jwt is not its first entry"),
        (tar(("sub/claims.jwt", CLAIMS[1]), GOOD), "claims.jwt is not its first entry"),
        (tar(("claims.json", CLAIMS[1]), GOOD), "claims.jwt is not its first entry"),
        (tar(CLAIMS), "holds claims and no program"),
        (tar(CLAIMS, GOOD, CLAIMS), "does not belong"),
        (tar(CLAIMS, GOOD, GOOD), "two entries are called x86_64-linux.bin"),
        (tar(CLAIMS, GOOD, ("README", b"")), "entry 'README' does not belong"),
        (tar(CLAIMS, ("../x86_64-linux.bin", LINUX)), "does not belong"),
        (tar(CLAIMS, ("/x86_64-linux.bin", LINUX)), "does not belong"),
        (tar(CLAIMS, ("x86_64-windows.bin", LINUX)), "do not list x86_64-windows.bin"),
        (tar(CLAIMS, (f"{'a' * 120}-linux.bin", LINUX)), "not a regular file"),
        (tar(CLAIMS, GOOD, format=tarfile.PAX_FORMAT) + b"\1", "behind the end"),
        (gzip.compress(tar(CLAIMS, GOOD)) + b"x", "behind the end of the gzip stream"),
        (gzip.compress(tar(CLAIMS, GOOD)) * 2, "behind the end of the gzip stream"),
        (tar(CLAIMS, GOOD) + tar(CLAIMS, GOOD), "behind the end of the archive"),
        (tar(("claims.jwt", b"x" * 70_000), GOOD), "above the limit"),
        (tar(("claims.jwt", b"a.b.c"), GOOD), "claims:"),
        (tar(("claims.jwt", CLAIMS[1] + b"\n"), GOOD), "claims:"),
    ],
)
def test_what_is_no_provider_archive_is_malformed(data: bytes, words: str) -> None:
    error = refused(data)
    assert words in str(error)
    assert error.problem is Problem.MALFORMED


@pytest.mark.parametrize(
    "type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.CONTTYPE]
)
def test_links_folders_and_devices_are_refused(type: bytes) -> None:
    assert "is not a regular file" in str(refused(tar(CLAIMS, ("x86_64-linux.bin", b""), type=type)))


def test_a_changed_program_is_told_from_a_damaged_archive() -> None:
    data = archive(PROGRAMS)
    where = data.index(LINUX) + 1000
    error = refused(data[:where] + b"!" + data[where + 1 :])
    assert error.problem is Problem.WRONG_HASH
    assert f"the program for x86_64-linux is not what {ACCOUNT.public} signed" in str(error)


def test_a_changed_token_has_no_valid_signature() -> None:
    name, text = CLAIMS
    first, _, signature = text.decode().split(".")
    forged = ".".join((first, token({**PROGRAMS, "x86_64-linux": b"evil"}).split(".")[1], signature))
    error = refused(tar((name, forged.encode()), ("x86_64-linux.bin", b"evil")))
    assert error.problem is Problem.BAD_SIGNATURE


def test_nothing_behind_unsound_claims_is_read() -> None:
    class Watched(io.BytesIO):
        furthest = 0

        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            self.furthest = max(self.furthest, self.tell())
            return data

    stream = Watched(tar(("claims.jwt", CLAIMS[1][:-4] + b"AAAA"), GOOD))
    with pytest.raises(BadClaims):
        Archive.open(stream)
    assert stream.furthest <= 2048


def test_another_program_than_the_wanted_one_may_be_passed_over() -> None:
    data = archive(PROGRAMS)
    changed = data.replace(MACOS, bytes(len(MACOS)))
    opened = Archive.open(io.BytesIO(changed))
    found = {p.target: b"".join(p.chunks()) for p in opened.programs() if p.target == "x86_64-linux"}
    assert found == {"x86_64-linux": LINUX}


def test_a_program_is_handed_out_in_small_parts_however_well_it_is_packed() -> None:
    size = 64 * 1024 * 1024
    data = archive({"x86_64-linux": bytes(size)}, compress=True)
    assert len(data) < 100_000
    tracemalloc.start()
    try:
        opened = Archive.open(io.BytesIO(data))
        assert sum(len(chunk) for program in opened.programs() for chunk in program.chunks()) == size
        assert tracemalloc.get_traced_memory()[1] < 4 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_sizes_and_numbers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    many = {f"a{number}-linux": b"x" for number in range(archives.MAX_ENTRIES)}
    assert "more than 32 entries" in str(refused(archive(many)))
    data = archive({"x86_64-linux": bytes(100_000)}, compress=True)
    monkeypatch.setattr(archives, "MAX_ARCHIVE", 50_000)
    assert "larger than 50000 bytes when unpacked" in str(refused(data))
    assert "larger than 50000 bytes" in str(refused(archive({"x86_64-linux": bytes(100_000)})))
    monkeypatch.setattr(archives, "MAX_PROGRAM", 10_000)
    assert "x86_64-linux.bin has 100000 bytes" in str(refused(data))


@pytest.mark.parametrize("compress", [False, True])
def test_an_archive_that_is_cut_off_anywhere_is_refused(compress: bool) -> None:
    data = archive({"x86_64-linux": b"\x7fELF" * 400}, compress=compress)
    end = len(data) if compress else len(data) - 1024  # one block of zeros is end enough
    for length in sorted(random.Random(1).sample(range(end), 200)):
        refused(data[:length])


def damaged(draw: Callable[[st.SearchStrategy[int]], int], data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 8))):
        changed[draw(st.integers(0, len(changed) - 1))] = draw(st.integers(0, 255))
    return bytes(changed)


@given(st.data(), st.booleans())
def test_a_damaged_archive_is_malformed_and_nothing_worse(data: st.DataObject, compress: bool) -> None:
    broken = damaged(data.draw, archive(PROGRAMS))
    with suppress(BadClaims):
        assert read(gzip.compress(broken, 1) if compress else broken).items() <= PROGRAMS.items()


@given(st.binary(max_size=2000), st.sampled_from([b"", b"\x1f\x8b", zlib.compress(b"")]))
def test_garbage_is_malformed_and_nothing_worse(data: bytes, start: bytes) -> None:
    with pytest.raises(BadClaims):
        read(start + data)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("amd64-linux", "x86_64-linux"),
        ("arm64-darwin", "aarch64-macos"),
        ("linux", "ARCH-OS"),
        ("x86_64-unknown-linux-gnu", "ARCH-OS"),
        ("X86_64-Linux", "ARCH-OS"),
    ],
)
def test_a_target_of_another_spelling_is_corrected(text: str, meant: str) -> None:
    with pytest.raises(BadClaims, match=meant):
        check_target(text)
    assert check_target("x86_64-linux") == "x86_64-linux"


def test_signing_again_changes_hashes_only() -> None:
    old = token(
        {"x86_64-linux": b"1"}, revision=0, expires=4_000_000_000, config_schema={"type": "object"}, issued_at=9
    )
    hashes = {"x86_64-linux": "A" * 64, "aarch64-linux": "B" * 64}
    new = resign_provider(old, account=ACCOUNT, target_hashes=hashes)
    before, after = read_provider_token(old), read_provider_token(new)
    assert dict(after.target_hashes) == hashes
    assert (after.subject, after.issuer, after.name, after.vendor) == (
        before.subject,
        before.issuer,
        before.name,
        before.vendor,
    )
    assert (after.revision, after.version, after.expires) == (9, "0.3.0", 4_000_000_000)
    assert archives.jwt.decode("x", new).body["wascap"]["config_schema"] == {"type": "object"}
    with pytest.raises(BadClaims, match="is signed by"):
        resign_provider(old, account=KeyPair.generate(Role.ACCOUNT), target_hashes=hashes)
