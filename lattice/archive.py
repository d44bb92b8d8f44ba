"""Provider archives (``.par``, ``.par.gz``): the signed claims of a provider, then one native program per target.

A tar file of the GNU flavour, compressed as a whole or not: ``claims.jwt``, then ``ARCH-OS.bin`` for each target. The
classic reader verifies neither the signature of the claims nor which names it unpacks; this one reads a stream block by
block, holds no more than a block of it, and hands out nothing that the claims have not vouched for.

Source: wasmCloud/wasmCloud ``provider-archive`` 0.8, published archives.
"""

from __future__ import annotations

import re
import tarfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from typing import BinaryIO, Final

from lattice import jwt
from lattice.claims import BadClaims, Problem, ProviderClaims, read_provider_token

CLAIMS_NAME: Final = "claims.jwt"
MAX_ENTRIES: Final = 32
"""Entries of one archive, the claims included."""
MAX_PROGRAM: Final = 256 * 1024 * 1024
"""Bytes of one program."""
MAX_ARCHIVE: Final = 1024 * 1024 * 1024
"""Bytes of a whole archive, compressed or not."""

_BLOCK: Final = 512
_CHUNK: Final = 256 * 1024
_GZIP: Final = b"\x1f\x8b"
_TARGET: Final = re.compile(r"[a-z0-9_]{1,32}-[a-z0-9_]{1,32}")
_GO_NAMES: Final = {
    "amd64": "x86_64",
    "x64": "x86_64",
    "arm64": "aarch64",
    "386": "x86",
    "i686": "x86",
    "darwin": "macos",
    "win32": "windows",
}


def check_target(text: str) -> str:
    """``text`` if it names a target as archives do, such as ``x86_64-linux``. Raises BadClaims."""
    if _TARGET.fullmatch(text) is None:
        raise _malformed(f"{text[:80]!r} is no target; write ARCH-OS, such as x86_64-linux or aarch64-macos")
    known = "-".join(_GO_NAMES.get(part, part) for part in text.split("-"))
    if known != text:
        raise _malformed(f"{text} is not how archives spell this target; write {known}")
    return text


class Archive:
    """An archive that is being read. Make one with :meth:`open`; read its programs once, in their order."""

    def __init__(self, blocks: _Blocks, claims: ProviderClaims) -> None:
        self._blocks = blocks
        self.claims = claims
        """Whose signature is valid. Who signed, and when it is valid, is for the reader to judge before going on."""

    @property
    def compressed(self) -> bool:
        return self._blocks.compressed

    @classmethod
    def open(cls, stream: BinaryIO) -> Archive:
        """Read the claims, which come first, and check their signature; nothing behind them has been looked at.

        Raises BadClaims for what is no archive or has no sound claims.
        """
        blocks = _Blocks(stream)
        entry = blocks.next_entry()
        if entry is None or entry.name != CLAIMS_NAME:
            raise _malformed(
                f"not a provider archive: {CLAIMS_NAME} is not its first entry; make one: wasmhost par create"
            )
        if entry.size > jwt.MAX_TOKEN:
            raise _malformed(f"{CLAIMS_NAME} has {entry.size} bytes, above the limit of {jwt.MAX_TOKEN}")
        token = b"".join(blocks.content(entry.size))
        claims = read_provider_token(token.decode("latin-1"))
        for target, _ in claims.target_hashes:
            if _TARGET.fullmatch(target) is None:
                raise _malformed(f"the claims name a target {target[:80]!r}, which is not ARCH-OS")
        return cls(blocks, claims)

    def programs(self) -> Iterator[Program]:
        """Every program, in the archive's order; one whose content is not asked for is passed over unhashed.

        Raises BadClaims for anything that does not belong into an archive, also behind the program that is wanted: two
        entries of one name would let another reader see another program.
        """
        hashes = dict(self.claims.target_hashes)
        seen: set[str] = set()
        while (entry := self._blocks.next_entry()) is not None:
            target = entry.name.removesuffix(".bin")
            if target == entry.name or _TARGET.fullmatch(target) is None:
                raise _malformed(f"entry {entry.name[:80]!r} does not belong into a provider archive")
            if target in seen:
                raise _malformed(f"two entries are called {entry.name}")
            if target not in hashes:
                raise _malformed(f"the claims of {self.claims.subject} do not list {entry.name}; have it signed again")
            if len(seen) + 1 >= MAX_ENTRIES:
                raise _malformed(f"more than {MAX_ENTRIES} entries")
            if entry.size > MAX_PROGRAM:
                raise _malformed(f"{entry.name} has {entry.size} bytes, above the limit of {MAX_PROGRAM}")
            seen.add(target)
            program = Program(target, entry.size, hashes[target], self._blocks.content(entry.size), self.claims)
            yield program
            program.skip()
        if not seen:
            raise _malformed("the archive holds claims and no program")


class Program:
    """One program of an archive; its content can be read once, before the next one."""

    def __init__(self, target: str, size: int, digest: str, content: Iterator[bytes], claims: ProviderClaims) -> None:
        self.target = target
        """``ARCH-OS``."""
        self.size = size
        self.digest = digest
        """Upper-case hex SHA-256, as the claims have it."""
        self._content = content
        self._claims = claims

    def chunks(self) -> Iterator[bytes]:
        """The content. Raises BadClaims behind the last chunk if it is not what was signed: use nothing before that."""
        computed = sha256()
        for chunk in self._content:
            computed.update(chunk)
            yield chunk
        if computed.hexdigest().upper() != self.digest:
            raise BadClaims(
                Problem.WRONG_HASH,
                f"the program for {self.target} is not what {self._claims.issuer} signed: its SHA-256 differs from the "
                f"claims of {self._claims.subject}",
            )

    def skip(self) -> None:
        """Pass over what has not been read."""
        for _ in self._content:
            pass


def write_archive(
    stream: BinaryIO, token: str, programs: Iterable[tuple[str, int, BinaryIO]], *, compress: bool = False
) -> None:
    """Write an archive: the claims, then ``(target, size, content)`` by target, so that equal content is equal bytes.

    Raises BadClaims when a program is not what the token says.
    """
    hashes = dict(read_provider_token(token).target_hashes)
    sink = _Gzip(stream) if compress else stream
    encoded = token.encode()
    for name, size, content in [
        (CLAIMS_NAME, len(encoded), BytesIO(encoded)),
        *((f"{target}.bin", size, content) for target, size, content in sorted(programs, key=lambda each: each[0])),
    ]:
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644 if name == CLAIMS_NAME else 0o755
        sink.write(info.tobuf(tarfile.GNU_FORMAT, "ascii", "strict"))
        computed = sha256()
        left = size
        while left and (chunk := content.read(min(left, _CHUNK))):
            computed.update(chunk)
            sink.write(chunk)
            left -= len(chunk)
        target = name.removesuffix(".bin")
        if left or (name != CLAIMS_NAME and computed.hexdigest().upper() != hashes.get(target)):
            raise BadClaims(Problem.WRONG_HASH, f"the program for {target} is not the one that was signed; try again")
        sink.write(bytes(-size % _BLOCK))
    sink.write(bytes(2 * _BLOCK))
    if isinstance(sink, _Gzip):
        sink.finish()


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size: int


class _Blocks:
    """The tar stream: regular files with short names, which is all that archives hold."""

    def __init__(self, stream: BinaryIO) -> None:
        start = stream.read(2)
        self.compressed = start == _GZIP
        self._source: _Plain | _Gunzip = _Gunzip(stream, start) if self.compressed else _Plain(stream, start)
        self._left = 0
        """Bytes of the current entry, padding included, that have not been read."""

    def next_entry(self) -> _Entry | None:
        """The next header; None at the end, behind which only zeros may follow."""
        if self._left:
            raise AssertionError("the content of the last entry was not read")
        block = self._source.read(_BLOCK)
        if len(block) < _BLOCK:
            raise _malformed("not a provider archive" if not block else "the archive ends too early; get it again")
        if not any(block):
            self._check_rest()
            return None
        if block[257:262] != b"ustar":
            raise _malformed("not a provider archive: no tar header where one should be")
        try:
            info = tarfile.TarInfo.frombuf(block, "ascii", "strict")
        except (tarfile.HeaderError, ValueError) as error:
            raise _malformed(f"not a sound archive: {error}") from error
        if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise _malformed(f"entry {info.name[:80]!r} is not a regular file")
        if info.size < 0:
            raise _malformed(f"entry {info.name[:80]!r} has a negative size")
        self._left = info.size + -info.size % _BLOCK
        return _Entry(info.name, info.size)

    def content(self, size: int) -> Iterator[bytes]:
        """The current entry's bytes, its padding passed over."""
        while size:
            chunk = self._source.read(min(size, _CHUNK))
            if not chunk:
                raise _malformed("the archive ends too early; get it again")
            size -= len(chunk)
            self._left -= len(chunk)
            yield chunk
        padding, self._left = self._left, 0
        if len(self._source.read(padding)) < padding:
            raise _malformed("the archive ends too early; get it again")

    def _check_rest(self) -> None:
        while rest := self._source.read(_CHUNK):
            if any(rest):
                raise _malformed("there is something behind the end of the archive")


class _Plain:
    """Bytes of a stream as they are, ``start`` first; a read returns less than asked only at the end."""

    def __init__(self, stream: BinaryIO, start: bytes) -> None:
        self._stream = stream
        self._start = start
        self._total = len(start)

    def read(self, count: int) -> bytes:
        parts, self._start = [self._start[:count]], self._start[count:]
        missing = count - len(parts[0])
        while missing and (part := self._stream.read(missing)):
            parts.append(part)
            missing -= len(part)
            self._total += len(part)
            if self._total > MAX_ARCHIVE:
                raise _malformed(f"the archive is larger than {MAX_ARCHIVE} bytes")
        return b"".join(parts)


class _Gunzip:
    """The same for a gzip stream, unpacked as far as asked for."""

    def __init__(self, stream: BinaryIO, start: bytes) -> None:
        self._packed = _Plain(stream, start)
        self._engine = zlib.decompressobj(wbits=31)
        self._pending = b""
        self._total = 0

    def read(self, count: int) -> bytes:
        parts: list[bytes] = []
        missing = count
        while missing and not self._engine.eof:
            if not self._pending:
                self._pending = self._packed.read(_CHUNK)
                if not self._pending:
                    raise _malformed("the gzip stream ends too early; get the archive again")
            try:
                part = self._engine.decompress(self._pending, missing)
            except zlib.error as error:
                raise _malformed(f"the gzip stream is damaged: {error}") from error
            self._pending = self._engine.unconsumed_tail
            parts.append(part)
            missing -= len(part)
            self._total += len(part)
            if self._total > MAX_ARCHIVE:
                raise _malformed(f"the archive is larger than {MAX_ARCHIVE} bytes when unpacked")
        if self._engine.eof and (self._engine.unused_data or self._packed.read(1)):
            raise _malformed("there is something behind the end of the gzip stream")
        return b"".join(parts)


class _Gzip:
    """Packs what is written: without name and time, so that equal content gives equal bytes."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._engine = zlib.compressobj(9, wbits=31)

    def write(self, data: bytes) -> None:
        self._stream.write(self._engine.compress(data))

    def finish(self) -> None:
        self._stream.write(self._engine.flush())


def _malformed(message: str) -> BadClaims:
    return BadClaims(Problem.MALFORMED, message)
