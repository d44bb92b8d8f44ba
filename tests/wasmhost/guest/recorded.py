"""Turns a recorded call into a guest that makes the recorded import calls and checks what the host gives it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import wasmtime

from wasmhost.guest import bridge

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "guest.json").read_text("utf-8"))
MODULES: dict[str, dict[str, Any]] = VECTORS["modules"]
CALLS: list[dict[str, Any]] = VECTORS["calls"]

_TYPES = {
    "__guest_request": "(param i32 i32)",
    "__guest_response": "(param i32 i32)",
    "__guest_error": "(param i32 i32)",
    "__host_call": "(param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)",
    "__host_response_len": "(result i32)",
    "__host_response": "(param i32)",
    "__host_error_len": "(result i32)",
    "__host_error": "(param i32)",
    "__console_log": "(param i32 i32)",
}
_FRONT = wasmtime.Module(wasmtime.Engine(), wasmtime.wat2wasm(bridge.WASI_FRONT))
WASI_FUNCTIONS = {item.name: item.type for item in _FRONT.exports if isinstance(item.type, wasmtime.FuncType)}
"""WASI preview 1, and what is different under its older name, with their types."""
_SCRATCH = 0x40000
_UNTOUCHED = 0xA5


@dataclass
class _Writer:
    """Collects constants and checks of one generated guest."""

    family: str
    data: bytearray = field(default_factory=bytearray)
    lines: list[str] = field(default_factory=list)
    step: int = 0

    def constant(self, value: bytes) -> tuple[int, int]:
        """Address and length of a constant; a guest's pointer to nothing is 1, as real ones pass it."""
        if not value:
            return 1, 0
        at = 64 + len(self.data)
        self.data += value
        return at, len(value)

    def check(self, condition: str, what: str) -> None:
        """Give up with an error that no recording contains unless ``condition`` holds."""
        at, length = self.constant(f"step {self.step}: {what}".encode())
        self.lines.append(
            f"(if (i32.eqz {condition}) (then (call $__guest_error (i32.const {at}) (i32.const {length}))"
            " (return (i32.const 0))))"
        )

    def receive(self, call: str, expected: bytes, what: str, *, at: int = _SCRATCH) -> None:
        """Let the host write ``expected`` at ``at``; compare it, and the byte behind it, which stays untouched."""
        behind = at + len(expected)
        self.lines.append(f"(i32.store8 (i32.const {behind}) (i32.const {_UNTOUCHED}))")
        self.lines.append(call)
        want, length = self.constant(expected)
        self.check(f"(call $same (i32.const {at}) (i32.const {want}) (i32.const {length}))", what)
        self.check(
            f"(i32.eq (i32.load8_u (i32.const {behind})) (i32.const {_UNTOUCHED}))", f"{what}: wrote beyond its end"
        )


def guest_text(call: dict[str, Any]) -> str:
    """The generated guest as WebAssembly text."""
    module = MODULES[call["module"]]
    family = next(name.split(".")[0] for name in module["imports"])
    writer = _Writer(family)
    host_calls = iter(call["host_calls"])
    logged = iter(call.get("console_log", ()))
    current: dict[str, Any] = {}
    for index, name in enumerate(("init", *call["import_sequence"])):
        writer.step = index
        if name == "init":
            for number, _ in enumerate(module["init_exports"]):
                writer.check(f"(global.get $init{number})", "an init export was not called")
        elif name == "guest_request":
            _request(writer, call["operation"].encode(), bytes.fromhex(call["request"]))
        elif name == "host_call":
            current = next(host_calls)
            _host_call(writer, current)
        elif name in ("host_response_len", "host_error_len"):
            length = len(current["reply"]["data"]) // 2
            writer.check(f"(i32.eq (call $__{name}) (i32.const {length}))", f"{name} is not {length}")
        elif name in ("host_response", "host_error"):
            data = bytes.fromhex(current["reply"]["data"])
            at = _SCRATCH if data else 1
            writer.receive(f"(call $__{name} (i32.const {at}))", data, f"{name} gave other bytes", at=at)
        else:
            _hand_over(writer, call, name, logged)
    writer.lines.append("(unreachable)" if call["trap"] else f"(i32.const {call['status']})")
    return _module(writer, module)


def _request(writer: _Writer, operation: bytes, payload: bytes) -> None:
    writer.check(f"(i32.eq (local.get $operation) (i32.const {len(operation)}))", "length of the operation")
    writer.check(f"(i32.eq (local.get $payload) (i32.const {len(payload)}))", "length of the payload")
    op_at, at = (_SCRATCH if operation else 1), (_SCRATCH + 0x1000 if payload else 1)
    writer.lines.append(f"(i32.store8 (i32.const {op_at + len(operation)}) (i32.const {_UNTOUCHED}))")
    writer.receive(f"(call $__guest_request (i32.const {op_at}) (i32.const {at}))", payload, "payload differs", at=at)
    want, length = writer.constant(operation)
    writer.check(f"(call $same (i32.const {op_at}) (i32.const {want}) (i32.const {length}))", "operation differs")
    if operation:
        writer.check(
            f"(i32.eq (i32.load8_u (i32.const {op_at + length})) (i32.const {_UNTOUCHED}))", "operation too long"
        )


def _host_call(writer: _Writer, wanted: dict[str, Any]) -> None:
    texts = [wanted[name].encode() for name in ("binding", "namespace", "operation")]
    places = [writer.constant(text) for text in (*texts, bytes.fromhex(wanted["payload"]))]
    arguments = " ".join(f"(i32.const {number})" for place in places for number in place)
    status = wanted["reply"]["status"]
    writer.check(f"(i32.eq (call $__host_call {arguments}) (i32.const {status}))", f"status is not {status}")


def _hand_over(writer: _Writer, call: dict[str, Any], name: str, logged: Any) -> None:
    if name == "guest_response":
        value = bytes.fromhex(call["response"])
    elif name == "guest_error":
        value = (call["error"] or "aborted").encode()
    else:
        value = next(logged).encode()
    at, length = writer.constant(value)
    writer.lines.append(f"(call $__{name} (i32.const {at}) (i32.const {length}))")
    if length:  # the host must have copied it: the guest may reuse the memory at once
        writer.lines.append(f"(memory.fill (i32.const {at}) (i32.const 0xee) (i32.const {length}))")


def _text(kind: wasmtime.FuncType) -> str:
    results = "".join(f" (result {result})" for result in kind.results)
    return "".join(f" (param {parameter})" for parameter in kind.params) + results


def _use(wasi: list[tuple[str, wasmtime.FuncType]]) -> str:
    """Calls each function of WASI that the real module imports, so that it is more than a name; but ends nothing."""
    lines = []
    for name, kind in wasi:
        if name != "proc_exit":
            arguments = " ".join(f"({parameter}.const 16)" for parameter in kind.params)
            lines.append(f"(drop (call ${name} {arguments}))")
    return " ".join(lines)


def _module(writer: _Writer, module: dict[str, Any]) -> str:
    imports = dict.fromkeys([*(name.split(".")[1] for name in module["imports"]), "__guest_error"])
    inits = module["init_exports"]
    wasi = [(name, WASI_FUNCTIONS[name]) for name in module["wasi"]]
    versions = module["version_export"] or {}
    lines = "\n    ".join(writer.lines)
    parts = [
        *(f'(import "{writer.family}" "{name}" (func ${name} {_TYPES[name]}))' for name in imports),
        *(f'(import "wasi_snapshot_preview1" "{name}" (func ${name} {_text(kind)}))' for name, kind in wasi),
        '(memory (export "memory") 17)',
        *(f"(global $init{number} (mut i32) (i32.const 0))" for number, _ in enumerate(inits)),
        *(
            f'(func (export "{name}") {_use(wasi)} (global.set $init{number} (i32.const 1)))'
            for number, name in enumerate(inits)
        ),
        *(f'(func (export "{name}") (result i32) (i32.const {value}))' for name, value in versions.items()),
        # an unrelated export that a host must leave alone; one real guest has it
        '(func (export "main") (param i32 i32) (result i32) (unreachable))',
        f'(data (i32.const 64) "{"".join(f"{chr(92)}{byte:02x}" for byte in writer.data)}")',
        """(func $same (param $one i32) (param $other i32) (param $length i32) (result i32)
    (loop $next
      (if (i32.eqz (local.get $length)) (then (return (i32.const 1))))
      (local.set $length (i32.sub (local.get $length) (i32.const 1)))
      (br_if $next
        (i32.eq
          (i32.load8_u (i32.add (local.get $one) (local.get $length)))
          (i32.load8_u (i32.add (local.get $other) (local.get $length))))))
    (i32.const 0))""",
        f"""(func (export "__guest_call") (param $operation i32) (param $payload i32) (result i32)
    {lines})""",
    ]
    return "(module\n  " + "\n  ".join(parts) + ")\n"
