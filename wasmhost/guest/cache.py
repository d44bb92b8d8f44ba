"""Compiled code on disk: one private directory, one file per module, engine version and settings."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import math
import os
import platform
import stat
import tempfile
import time
from pathlib import Path

import structlog
import wasmtime

from lattice.errors import Code, LatticeError

log = structlog.get_logger(__name__)

_MAGIC = b"wasmhost-compiled-1\n"
_HASH_SIZE = hashlib.sha256().digest_size
_UNUSED = 90 * 86_400
"""Seconds after which an entry that nobody used is removed."""
_UNFINISHED = 3600
"""The same for one that was being written when its process was killed."""
_NEW, _SUFFIX = ".new-", ".compiled"


class CacheUnusable(LatticeError):
    """The cache directory does not belong to this user alone."""

    code = Code.INVALID


class CompileCache:
    """Maps wasm bytes to compiled modules. All methods block; call them from a worker thread.

    Where nothing can be kept, as on a full or read-only disk, everything is compiled each time; a warning says so.

    Compiled code is executed as it is, so the directory has to be ours alone (mode 0700), and every entry carries the
    SHA-256 of its content, because the engine itself notices a foreign version but not a flipped bit.
    """

    def __init__(self, directory: Path, engine: wasmtime.Engine, settings: str) -> None:
        """``settings`` names what is special about ``engine``: code of another one is not looked at."""
        self._directory: Path | None = directory
        """None when it could not be made."""
        self._engine = engine
        version = importlib.metadata.version("wasmtime")
        whole = f"{version},{platform.machine()},{settings}"
        self._variant = hashlib.sha256(whole.encode()).hexdigest()[:16]
        try:
            _make_private(directory)
            _tidy(directory)
        except OSError as error:
            log.warning("compiled.nothing_kept", folder=str(directory), error=error.strerror)
            self._directory = None

    def path(self, digest: str) -> Path:
        """Where the entry of a module with this SHA-256 is or would be."""
        assert self._directory is not None
        return self._directory / f"{digest}-{self._variant}{_SUFFIX}"

    def load_or_compile(self, wasm: bytes, digest: str) -> wasmtime.Module:
        """The compiled module; raises wasmtime.WasmtimeError if ``wasm`` is no valid module."""
        if self._directory is None:
            return wasmtime.Module(self._engine, wasm)
        found = self._load(digest)
        if found is not None:
            return found
        compiled = wasmtime.Module(self._engine, wasm)
        self._store(digest, bytes(compiled.serialize()))
        return compiled

    def _load(self, digest: str) -> wasmtime.Module | None:
        path = self.path(digest)
        try:
            # a pipe in its place would keep us waiting for a writer
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                found = os.fstat(descriptor)
                if not stat.S_ISREG(found.st_mode) or not _is_ours(found):
                    log.warning("compiled.foreign", path=str(path), next_step="remove the file")
                    return None
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read()
            finally:
                os.close(descriptor)
        except FileNotFoundError:
            return None
        except OSError as error:
            log.warning("compiled.unreadable", path=str(path), error=str(error))
            return None
        with contextlib.suppress(OSError):  # where nothing can be written nothing is removed either
            os.utime(path)
        expected, code = data[len(_MAGIC) : len(_MAGIC) + _HASH_SIZE], data[len(_MAGIC) + _HASH_SIZE :]
        if not data.startswith(_MAGIC) or hashlib.sha256(code).digest() != expected:
            log.warning("compiled.corrupt", path=str(path))
            return None
        try:
            return wasmtime.Module.deserialize(self._engine, code)
        except wasmtime.WasmtimeError as error:
            log.warning("compiled.refused", path=str(path), error=str(error))
            return None

    def _store(self, digest: str, code: bytes) -> None:
        # A full disk costs time at the next start, nothing else.
        assert self._directory is not None
        try:
            _make_private(self._directory)  # somebody may have cleared all caches meanwhile
            descriptor, name = tempfile.mkstemp(prefix=_NEW, dir=self._directory)
            try:
                with open(descriptor, "wb") as file:
                    file.write(_MAGIC + hashlib.sha256(code).digest() + code)
                os.replace(name, self.path(digest))
            except BaseException:
                os.unlink(name)
                raise
        except (OSError, CacheUnusable) as error:
            log.warning("compiled.not_kept", path=str(self.path(digest)), error=str(error))


def _make_private(directory: Path) -> None:
    """Raises OSError when it cannot be made, CacheUnusable when somebody else could write into it."""
    with contextlib.suppress(FileExistsError):  # looked at below
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = directory.lstat()
    if stat.S_ISDIR(found.st_mode) and found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != 0o700:
        directory.chmod(0o700)
        found = directory.lstat()
    if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
        raise CacheUnusable(
            f"the cache directory {directory} is not a directory of this user alone; remove it or choose another"
        )


def _is_ours(found: os.stat_result) -> bool:
    return found.st_uid == os.geteuid() and not stat.S_IMODE(found.st_mode) & 0o022


def _tidy(directory: Path) -> None:
    """Remove what nobody will use any more. Another host may do the same just now."""
    now = time.time()
    for name in os.listdir(directory):
        longest = _UNFINISHED if name.startswith(_NEW) else _UNUSED if name.endswith(_SUFFIX) else math.inf
        path = directory / name
        with contextlib.suppress(OSError):
            if now - path.lstat().st_mtime > longest:
                path.unlink()
