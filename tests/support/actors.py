"""Small actors for tests: WebAssembly text, assembled and signed with keys of the test's own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import wasmtime

from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor

ACCOUNT = KeyPair.from_raw(Role.ACCOUNT, bytes([5]) * 32)
"""The account that the tests' hosts trust."""

_IMPORTS = """
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
  (import "wasmbus" "__guest_error" (func $error (param i32 i32)))
  (import "wasmbus" "__host_call" (func $host_call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasmbus" "__host_response" (func $host_response (param i32)))
  (import "wasmbus" "__host_response_len" (func $host_response_len (result i32)))
  (import "wasmbus" "__host_error" (func $host_error (param i32)))
  (import "wasmbus" "__host_error_len" (func $host_error_len (result i32)))
"""


def module(body: str, *, pages: int = 64) -> str:
    """A module with the usual imports, so much memory and this body, which exports ``__guest_call``."""
    return f'(module {_IMPORTS} (memory (export "memory") {pages}) {body})'


ECHO = module("""
  (func (export "__guest_call") (param $op i32) (param $len i32) (result i32)
    (call $request (i32.const 1024) (i32.const 65536))
    (call $response (i32.const 65536) (local.get $len))
    (i32.const 1))""")
"""Answers with its request."""

LARGE_ECHO = module(
    """
  (func (export "__guest_call") (param $op i32) (param $len i32) (result i32)
    (call $request (i32.const 1024) (i32.const 65536))
    (call $response (i32.const 65536) (local.get $len))
    (i32.const 1))""",
    pages=400,
)
"""The same with room for 24 MB."""

HTTP_ECHO = module(
    r"""(data (i32.const 0) "\86\aastatusCode\cc\c8")
  (func (export "__guest_call") (param $op i32) (param $len i32) (result i32)
    (call $request (i32.const 1024) (i32.const 65536))
    ;; The request has five members, all known to a response or ignored there; one is put in front of them.
    (i64.store (i32.const 65523) (i64.load (i32.const 0)))
    (i64.store (i32.const 65529) (i64.load (i32.const 6)))
    (call $response (i32.const 65523) (i32.add (local.get $len) (i32.const 13)))
    (i32.const 1))""",
    pages=400,
)
"""Answers an HTTP request with 200 and the request's headers and body."""

COUNTING = module("""
  (global $calls (mut i32) (i32.const 0))
  (func (export "__guest_call") (param i32 i32) (result i32)
    (global.set $calls (i32.add (global.get $calls) (i32.const 1)))
    (i32.store (i32.const 0) (global.get $calls))
    (call $response (i32.const 0) (i32.const 4))
    (i32.const 1))""")
"""Answers with the number of calls it has seen, as four bytes."""

REFUSING = module("""(data (i32.const 0) "not today")
  (func (export "__guest_call") (param i32 i32) (result i32)
    (call $error (i32.const 0) (i32.const 9))
    (i32.const 0))""")
"""Answers every call with the error ``not today``."""

TRAPPING = module("""(func (export "__guest_call") (param i32 i32) (result i32) unreachable)""")

SPINNING = module("""
  (func (export "__guest_call") (param i32 i32) (result i32) (loop $for_ever (br $for_ever)) unreachable)""")


def caller(*, namespace: str, operation: str, binding: str = "", large: bool = False) -> str:
    """An actor that makes one host call with its request and answers with what it got, be it reply or error.

    It has room for 2 MB either way, or for 12 with ``large``.
    """
    room = 12_582_912 if large else 2_097_152
    texts = "".join((binding, namespace, operation))
    first, second = len(binding), len(binding) + len(namespace)
    return module(
        f"""(data (i32.const 0) "{texts}")
      (func (export "__guest_call") (param $op i32) (param $len i32) (result i32)
        (call $request (i32.const 1024) (i32.const 65536))
        (if (result i32)
          (i32.eq (i32.const 1) (call $host_call
            (i32.const 0) (i32.const {len(binding)}) (i32.const {first}) (i32.const {len(namespace)})
            (i32.const {second}) (i32.const {len(operation)}) (i32.const 65536) (local.get $len)))
          (then
            (call $host_response (i32.const {room}))
            (call $response (i32.const {room}) (call $host_response_len))
            (i32.const 1))
          (else
            (call $host_error (i32.const {room}))
            (call $error (i32.const {room}) (call $host_error_len))
            (i32.const 0))))""",
        pages=400 if large else 64,
    )


def signed(
    wat: str,
    *,
    module: KeyPair | None = None,
    account: KeyPair = ACCOUNT,
    name: str = "test actor",
    capabilities: Iterable[str] = (),
    call_alias: str | None = None,
    revision: int = 0,
    expires: int | None = None,
    not_before: int | None = None,
) -> bytes:
    """The assembled module with claims; a new identity unless ``module`` is given."""
    return sign_actor(
        bytes(wasmtime.wat2wasm(wat)),
        account=account,
        module=module or KeyPair.generate(Role.MODULE),
        name=name,
        capabilities=tuple(capabilities),
        call_alias=call_alias,
        revision=revision,
        expires=expires,
        not_before=not_before,
    )


def write(folder: Path, wasm: bytes, name: str = "actor_s.wasm") -> str:
    """Put an actor into ``folder``; its ``file://`` reference."""
    path = folder / name
    path.write_bytes(wasm)
    return path.as_uri()
