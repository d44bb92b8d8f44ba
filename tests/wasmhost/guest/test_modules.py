"""Which files are actors, and what is said about those that are not."""

from __future__ import annotations

import pytest

from lattice.errors import Code
from tests.wasmhost.guest.conftest import assemble
from wasmhost.guest.engine import Engine
from wasmhost.guest.module import UnusableModule

CALL = '(func (export "__guest_call") (param i32 i32) (result i32) (i32.const 1))'
MEMORY = '(memory (export "memory") 1)'

UNUSABLE = {
    "text file": (b"hello, world", Code.INVALID, "not a WebAssembly module"),
    "empty file": (b"", Code.INVALID, "not a WebAssembly module"),
    "component": (b"\0asm\x0d\0\x01\0", Code.UNSUPPORTED, "component"),
    "cut off": (assemble(f"(module {MEMORY} {CALL})")[:-3], Code.INVALID, "cannot be compiled"),
    "no memory": (f"(module {CALL})", Code.INVALID, "no 32-bit memory named 'memory'"),
    "wide memory": (f'(module (memory (export "memory") i64 1) {CALL})', Code.INVALID, "no 32-bit memory"),
    "no entry point": (f"(module {MEMORY})", Code.INVALID, "no function '__guest_call'"),
    "other entry point": (
        f'(module {MEMORY} (func (export "__guest_call") (result i32) (i32.const 1)))',
        Code.INVALID,
        "takes two i32",
    ),
    "WASI of components": (
        f'(module (import "wasi:cli/environment@0.2.0" "get-environment" (func (param i32))) {MEMORY} {CALL})',
        Code.UNSUPPORTED,
        "only WASI preview 1 is supported",
    ),
    "unknown function of WASI": (
        f'(module (import "wasi_snapshot_preview1" "fd_fly" (func (result i32))) {MEMORY} {CALL})',
        Code.INVALID,
        "imports wasi_snapshot_preview1.fd_fly, which is not part of WASI preview 1",
    ),
    "function of WASI with another type": (
        f'(module (import "wasi_unstable" "fd_close" (func (param i64) (result i32))) {MEMORY} {CALL})',
        Code.INVALID,
        "imports wasi_unstable.fd_close with another type",
    ),
    "unknown import": (f'(module (import "env" "abort" (func)) {MEMORY} {CALL})', Code.INVALID, "imports env.abort"),
    "unknown function": (
        f'(module (import "wasmbus" "__more" (func)) {MEMORY} {CALL})',
        Code.INVALID,
        "imports wasmbus.__more",
    ),
    "host call of 2019": (
        f'(module (import "wapc" "__host_call" (func (param i32 i32 i32 i32) (result i32))) {MEMORY} {CALL})',
        Code.INVALID,
        "imports wapc.__host_call with another type",
    ),
}


@pytest.mark.parametrize("case", UNUSABLE)
async def test_a_file_that_is_no_actor_is_refused_with_the_reason(case: str, engine: Engine) -> None:
    source, code, reason = UNUSABLE[case]
    with pytest.raises(UnusableModule) as refusal:
        await engine.load(source if isinstance(source, bytes) else assemble(source))
    assert reason in str(refusal.value)
    assert refusal.value.code is code
