"""Compiled code is made once, kept privately, and never trusted blindly."""

from __future__ import annotations

import asyncio
import hashlib
import os
import stat
import time
from pathlib import Path

import pytest
import structlog
import wasmtime

from tests.wasmhost.guest.conftest import assemble, context, guest, no_host_calls
from wasmhost.guest import bindings
from wasmhost.guest.cache import CacheUnusable, CompileCache
from wasmhost.guest.calls import Limits
from wasmhost.guest.engine import Engine
from wasmhost.guest.pool import ActorPool

WASM = guest("echo")
DIGEST = hashlib.sha256(WASM).hexdigest()


@pytest.fixture
def engine_() -> wasmtime.Engine:
    return bindings.new_engine()


def entry(cache: CompileCache) -> Path:
    cache.load_or_compile(WASM, DIGEST)
    path = cache.path(DIGEST)
    assert path.is_file()
    return path


def test_directory_and_entries_are_private(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    folder = tmp_path / "a" / "compiled"
    path = entry(CompileCache(folder, engine_, bindings.ENGINE_SETTINGS))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert [file.name for file in folder.iterdir()] == [path.name]


def test_an_open_directory_of_ours_is_closed_to_others(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    folder = tmp_path / "compiled"
    folder.mkdir(mode=0o755)
    CompileCache(folder, engine_, bindings.ENGINE_SETTINGS)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_a_link_or_file_in_place_of_the_directory_is_refused(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file").write_bytes(b"")
    for name in ("link", "file"):
        with pytest.raises(CacheUnusable, match="cache directory"):
            CompileCache(tmp_path / name, engine_, bindings.ENGINE_SETTINGS)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_a_directory_of_another_user_is_refused(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    folder = tmp_path / "compiled"
    folder.mkdir(mode=0o700)
    os.chown(folder, 12345, 12345)
    with pytest.raises(CacheUnusable, match="of this user alone"):
        CompileCache(folder, engine_, bindings.ENGINE_SETTINGS)


def test_an_entry_is_used_the_second_time(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    path = entry(cache)
    before = path.stat()
    cache.load_or_compile(b"no module at all", DIGEST)  # the name is the digest; nothing is compiled
    assert path.stat().st_ino == before.st_ino


@pytest.mark.parametrize("damage", ["flipped bit", "cut off", "empty", "other magic"])
def test_a_corrupt_entry_is_compiled_again(damage: str, tmp_path: Path, engine_: wasmtime.Engine) -> None:
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    path = entry(cache)
    good = path.read_bytes()
    middle = len(good) // 2
    path.write_bytes(
        {
            "flipped bit": good[:middle] + bytes([good[middle] ^ 4]) + good[middle + 1 :],
            "cut off": good[:middle],
            "empty": b"",
            "other magic": b"X" + good[1:],
        }[damage]
    )
    with structlog.testing.capture_logs() as logs:
        cache.load_or_compile(WASM, DIGEST)
    assert [log["event"] for log in logs] == ["compiled.corrupt"]
    assert path.read_bytes()[: len(good) // 4] == good[: len(good) // 4]


def test_an_entry_of_another_engine_is_compiled_again(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    """Right hash, wrong content: the engine itself refuses it."""
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    path = entry(cache)
    other = bytes(wasmtime.Module(wasmtime.Engine(), WASM).serialize())
    head = path.read_bytes()[: path.read_bytes().index(b"\n") + 1]
    path.write_bytes(head + hashlib.sha256(other).digest() + other)
    with structlog.testing.capture_logs() as logs:
        cache.load_or_compile(WASM, DIGEST)
    assert [log["event"] for log in logs] == ["compiled.refused"]


def test_an_entry_that_others_may_write_is_not_used(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    path = entry(cache)
    path.chmod(0o666)
    with structlog.testing.capture_logs() as logs:
        cache.load_or_compile(WASM, DIGEST)
    assert "compiled.foreign" in [log["event"] for log in logs]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_file_in_the_place_of_an_entry_is_not_used(
    kind: str, tmp_path: Path, engine_: wasmtime.Engine
) -> None:
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    if kind == "folder":
        cache.path(DIGEST).mkdir()
    else:
        os.mkfifo(cache.path(DIGEST))
    with structlog.testing.capture_logs() as logs:
        cache.load_or_compile(WASM, DIGEST)
    assert logs and all(log["event"].startswith("compiled.") for log in logs)


def test_a_directory_that_was_cleared_away_is_made_again(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    (tmp_path / "c").rmdir()
    with structlog.testing.capture_logs() as logs:
        cache.load_or_compile(WASM, DIGEST)
    assert logs == []
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700
    assert cache.path(DIGEST).is_file()


def test_what_nobody_uses_any_more_is_removed_at_the_next_start(tmp_path: Path, engine_: wasmtime.Engine) -> None:
    cache = CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    path, day = entry(cache), 86_400
    unused, unfinished, being_written = (tmp_path / "c" / name for name in ("ab-cd.compiled", ".new-1", ".new-2"))
    for other in (unused, unfinished, being_written):
        other.write_bytes(b"")
    for old, age in ((path, 100 * day), (unused, 100 * day), (unfinished, day)):
        os.utime(old, (time.time() - age,) * 2)
    cache.load_or_compile(b"no module at all", DIGEST)
    CompileCache(tmp_path / "c", engine_, bindings.ENGINE_SETTINGS)
    assert sorted((tmp_path / "c").iterdir()) == sorted([path, being_written])


async def test_two_engines_share_the_directory_and_a_module_compiles_once(tmp_path: Path) -> None:
    for _ in range(2):
        engine = Engine.open(tmp_path / "c")
        try:
            first, second = await asyncio.gather(engine.load(WASM), engine.load(WASM))
            assert first is second
            pool = ActorPool(engine, first, actor="M", limits=Limits(), host_calls=no_host_calls, instances=1)
            assert await pool.call("Echo", b"x", context()) == b"x"
            await pool.close()
        finally:
            engine.close()
    assert len(list((tmp_path / "c").glob(f"{DIGEST}-*"))) == 1


async def test_compiling_does_not_stop_the_loop(engine: Engine) -> None:
    body = "(local.set 0 (i32.add (i32.mul (local.get 0) (i32.const 3)) (local.get 1)))" * 2000
    functions = "".join(f"(func (param i32 i32) (result i32) {body} (local.get 0))" for _ in range(40))
    wasm = assemble(
        f'(module (memory (export "memory") 1) {functions}'
        ' (func (export "__guest_call") (param i32 i32) (result i32) (i32.const 1)))'
    )
    loading = asyncio.create_task(engine.load(wasm))
    lag = 0.0
    while not loading.done():
        before = time.monotonic()
        await asyncio.sleep(0.001)
        lag = max(lag, time.monotonic() - before)
    await loading
    assert lag < 0.25
