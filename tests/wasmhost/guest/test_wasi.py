"""Actors that use WASI preview 1: a sandbox without anything in it, whose output is the host's log."""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Any

import pytest
import structlog
import wasmtime

from lattice.errors import Code, GuestFailed
from tests.support.c import compiled
from tests.wasmhost.guest.conftest import PoolMaker, assemble, context
from tests.wasmhost.guest.recorded import WASI_FUNCTIONS
from tests.wasmhost.guest.test_misbehaving_guests import loop_goes_on, refused
from wasmhost.guest import bridge
from wasmhost.guest.pool import ActorPool

BADF, INVAL, NOTDIR, NOTSOCK, SPIPE = 8, 28, 54, 57, 70
PREVIEW_1 = {name: kind for name, kind in WASI_FUNCTIONS.items() if not name.startswith(bridge.UNSTABLE)}


async def sandbox(make_pool: PoolMaker, **limits: Any) -> ActorPool:
    return await make_pool(compiled("sandbox", "-mexec-model=reactor"), **limits)


async def ask(pool: ActorPool, operation: str, payload: str = "") -> str:
    return (await pool.call(operation, payload.encode(), context())).decode()


def logged(logs: Any) -> list[tuple[str, str]]:
    return [(entry.get("stream", "console"), entry["text"]) for entry in logs if entry["event"] == "guest.log"]


# --- what there is ----------------------------------------------------------------------------------------------


def text_of(kind: wasmtime.FuncType) -> str:
    parameters, results = " ".join(map(str, kind.params)), " ".join(map(str, kind.results))
    return f"(param {parameters}) (result {results})"


def test_every_function_of_preview_1_is_there_with_its_type() -> None:
    """The engine's own WASI is the reference: a module that imports all of ours can be linked with it."""
    assert len(PREVIEW_1) == 46
    imports = [
        f'(import "wasi_snapshot_preview1" "{name}" (func {text_of(kind)}))'
        for name, kind in PREVIEW_1.items()
        if name != "proc_raise"  # dropped from the engine since
    ]
    engine = wasmtime.Engine()
    linker, store = wasmtime.Linker(engine), wasmtime.Store(engine)
    linker.define_wasi()
    store.set_wasi(wasmtime.WasiConfig())
    linker.instantiate(store, wasmtime.Module(engine, assemble(f"(module {' '.join(imports)})")))


def calling(
    name: str, arguments: str, *, family: str = "wasi_snapshot_preview1", body: str = "", answer: int = 4
) -> bytes:
    """An actor that calls one function of WASI and answers with its result at 0, and what lies behind."""
    kind = WASI_FUNCTIONS[bridge.UNSTABLE + name if family == "wasi_unstable" and name == "poll_oneoff" else name]
    return assemble(f"""(module
      (import "{family}" "{name}" (func $wasi {text_of(kind)}))
      (import "wasmbus" "__guest_response" (func $response (param i32 i32)))
      (memory (export "memory") 1)
      {body}
      (func (export "__guest_call") (param i32 i32) (result i32)
        (i32.store (i32.const 0) (call $wasi {arguments}))
        (call $response (i32.const 0) (i32.const {answer}))
        (i32.const 1)))""")


def constants(kind: wasmtime.FuncType, first: int) -> str:
    return " ".join(f"({item}.const {first})" for item in map(str, kind.params))


STREAM_ERRORS = {
    "fd_advise": SPIPE, "fd_allocate": INVAL, "fd_close": 0, "fd_datasync": 0, "fd_fdstat_set_flags": 0,
    "fd_fdstat_set_rights": 0, "fd_filestat_set_size": INVAL, "fd_filestat_set_times": INVAL, "fd_pread": SPIPE,
    "fd_prestat_get": BADF, "fd_prestat_dir_name": BADF, "fd_pwrite": SPIPE, "fd_readdir": NOTDIR,
    "fd_renumber": INVAL, "fd_seek": SPIPE, "fd_sync": 0, "fd_tell": SPIPE, "path_create_directory": NOTDIR,
    "path_filestat_get": NOTDIR, "path_filestat_set_times": NOTDIR, "path_link": NOTDIR, "path_open": NOTDIR,
    "path_readlink": NOTDIR, "path_remove_directory": NOTDIR, "path_rename": NOTDIR, "path_symlink": NOTDIR,
    "path_unlink_file": NOTDIR, "sock_accept": NOTSOCK, "sock_recv": NOTSOCK, "sock_send": NOTSOCK,
    "sock_shutdown": NOTSOCK, "fd_fdstat_get": 0, "fd_filestat_get": 0, "fd_write": 0,
}  # fmt: skip
"""What each function answers for the descriptors 1 and 3."""


@pytest.mark.parametrize("name", STREAM_ERRORS)
async def test_there_are_three_streams_and_nothing_else(name: str, make_pool: PoolMaker) -> None:
    for descriptor, expected in ((1, STREAM_ERRORS[name]), (3, BADF)):
        pool = await make_pool(calling(name, constants(PREVIEW_1[name], descriptor)))
        assert struct.unpack("<I", await pool.call("Try", b"", context())) == (expected,)


async def test_the_rest_answers_as_an_empty_sandbox_does(make_pool: PoolMaker) -> None:
    for name, arguments, answer in (
        ("args_sizes_get", "(i32.const 4) (i32.const 8)", (0, 1, 10)),
        ("environ_sizes_get", "(i32.const 4) (i32.const 8)", (0, 0, 0)),
        ("environ_get", "(i32.const 4) (i32.const 8)", (0, 0, 0)),
        ("sched_yield", "", (0, 0, 0)),
        ("clock_res_get", "(i32.const 0) (i32.const 4)", (0, 1, 0)),
        ("clock_res_get", "(i32.const 2) (i32.const 4)", (INVAL, 0, 0)),
        ("clock_time_get", "(i32.const 7) (i64.const 0) (i32.const 4)", (INVAL, 0, 0)),
        ("fd_read", "(i32.const 0) (i32.const 16) (i32.const 0) (i32.const 4)", (0, 0, 0)),
        ("fd_read", "(i32.const 1) (i32.const 16) (i32.const 0) (i32.const 4)", (BADF, 0, 0)),
        ("fd_write", "(i32.const 0) (i32.const 16) (i32.const 0) (i32.const 4)", (BADF, 0, 0)),
        ("poll_oneoff", "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const 4)", (INVAL, 0, 0)),
        ("random_get", "(i32.const 4) (i32.const 0)", (0, 0, 0)),
    ):
        pool = await make_pool(calling(name, arguments, answer=12))
        assert struct.unpack("<3I", await pool.call("Try", b"", context())) == answer, name


async def test_a_c_program_gets_its_name_and_no_environment(make_pool: PoolMaker) -> None:
    pool = await make_pool(compiled("program", "-DEXIT_CODE=0"))
    with structlog.testing.capture_logs() as logs:
        await pool.start_one()
    assert logged(logs) == [("stdout", "main.wasm starts")]
    assert await ask(pool, "Which") == "1 main.wasm"
    assert await ask(await sandbox(make_pool), "Environment") == "none, no PATH"


async def test_no_file_can_be_reached(make_pool: PoolMaker) -> None:
    answers = dict(line.split(": ") for line in (await ask(await sandbox(make_pool), "Files")).splitlines())
    assert set(answers) == {"open", "create", "fopen", "list", "make", "remove", "link", "look"}
    assert set(answers.values()) <= {"Capabilities insufficient", "No such file or directory", "Bad file descriptor"}


async def test_standard_input_is_empty_and_output_looks_like_a_terminal(make_pool: PoolMaker) -> None:
    # a terminal, because the C library then writes each line as it ends
    assert await ask(await sandbox(make_pool), "Input") == "0 1 1"


async def test_clocks_and_random_bytes(make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool)
    assert abs(int(await ask(pool, "Time")) - time.time_ns()) < 5e9
    seen = set()
    for length in (1, 63, 64, 65, 128, 4000):
        random = await pool.call("Random", str(length).encode(), context())
        assert len(random) == length
        seen.add(random[-16:])
    assert len(seen) == 6
    assert len(set(random)) > 200, "no part of it was left as it was"


# --- output -----------------------------------------------------------------------------------------------------


async def test_output_is_logged_line_by_line_with_its_stream(make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool)
    await pool.start_one()
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            await ask(pool, "Print", "hello \x1b[31m")
        assert logged(logs) == [
            ("stderr", "warning: hello \\x1b[31m"),
            ("stdout", "hello \\x1b[31m"),
            ("console", "console"),
            ("stdout", "second line ends here"),
            ("stdout", "never ended"),
        ]
        assert {entry["actor"] for entry in logs} == {"MTEST"}


async def test_output_shares_the_bounds_of_the_console_log(make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool)
    with structlog.testing.capture_logs() as logs:
        async with loop_goes_on():
            await ask(pool, "Flood")
    lines = logged(logs)
    assert 200 < len(lines) <= 256
    assert lines[:2] == [("stdout", "line 0"), ("stdout", "line 1")]
    assert [entry["event"] for entry in logs].count("guest.log_dropped") == 1


WRITES = """(module
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasmbus" "__guest_request" (func $request (param i32 i32)))
  (import "wasmbus" "__host_call" (func $call (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 4)
  (func (export "__guest_call") (param $op i32) (param $length i32) (result i32)
    (local $at i32)
    (call $request (i32.const 1024) (i32.const 4096))
    ;; each byte of the request in a write of its own; '!' is a host call, '?' goes to standard error
    (loop $next
      (if (i32.lt_u (local.get $at) (local.get $length))
        (then
          (i32.store (i32.const 0) (i32.add (i32.const 4096) (local.get $at)))
          (i32.store (i32.const 4) (i32.const 1))
          (if (i32.eq (i32.load8_u (i32.load (i32.const 0))) (i32.const 33))
            (then (drop (call $call (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0)
                                    (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))))
            (else
              (drop (call $write
                (i32.add (i32.const 1) (i32.eq (i32.load8_u (i32.load (i32.const 0))) (i32.const 63)))
                (i32.const 0) (i32.const 1) (i32.const 8)))))
          (local.set $at (i32.add (local.get $at) (i32.const 1)))
          (br $next))))
    (i32.const 1)))"""


@pytest.mark.parametrize(
    ("written", "lines"),
    [
        ("one\ntwo\n", [("stdout", "one"), ("stdout", "two")]),
        ("no end", [("stdout", "no end")]),
        ("\n\n\na\n\n", [("stdout", "a")]),
        ("one !line\n", [("stdout", "one line")]),
        ("one! !line", [("stdout", "one line")]),
        ("one!\ntwo!\n", [("stdout", "one"), ("stdout", "two")]),
        ("a?b\n", [("stdout", "ab"), ("stderr", "?")]),
        ("a?!b?\n", [("stdout", "ab"), ("stderr", "??")]),
        ("", []),
        ("!", []),
        ("x" * 300 + "\n" + "y" * 300, [("stdout", "x" * 300), ("stdout", "y" * 300)]),
        ("x" * 3000, [("stdout", "x" * 2048 + "… (3000 bytes)")]),
    ],
)
async def test_pieces_of_a_line_are_joined(written: str, lines: list[tuple[str, str]], make_pool: PoolMaker) -> None:
    async def answer(_call: Any, _context: Any) -> bytes:
        return b""

    pool = await make_pool(assemble(WRITES), host_calls=answer)
    for _ in range(2):
        with structlog.testing.capture_logs() as logs:
            await pool.call("Write", written.encode(), context())
        assert logged(logs) == lines


async def test_single_bytes_fill_the_log_no_faster_than_lines(make_pool: PoolMaker) -> None:
    pool = await make_pool(assemble(WRITES), log_bytes_per_call=4096)
    with structlog.testing.capture_logs() as logs:
        await pool.call("Write", b"z" * 5000, context())
    assert [text[:1] for _, text in logged(logs)] == ["z"]
    assert "(4092 bytes)" in logged(logs)[0][1]
    assert [entry["bytes"] for entry in logs if entry["event"] == "guest.log_dropped"] == [5000 - 4092]


async def test_what_was_written_before_a_trap_is_logged(make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool)
    with structlog.testing.capture_logs() as logs, pytest.raises(GuestFailed, match=r"Abort: wasm trap: wasm `unreach"):
        await ask(pool, "Abort")
    assert ("stderr", "about to give up") in logged(logs)


# --- waiting ----------------------------------------------------------------------------------------------------


async def test_guests_that_sleep_leave_the_loop_to_others(make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool, instances=20)
    await asyncio.gather(*(ask(pool, "Time") for _ in range(20)))
    started = time.monotonic()
    async with loop_goes_on():
        slept = await asyncio.gather(*(ask(pool, "Sleep", "400") for _ in range(20)))
    assert time.monotonic() - started < 3, "they slept beside each other"
    assert all(int(nanoseconds) >= 390_000_000 for nanoseconds in slept)


async def test_a_sleep_beyond_the_deadline_ends_with_it(make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool)
    async with loop_goes_on():
        error = await refused(pool.call("Sleep", b"86400000", context(0.2)))
    assert str(error) == "Sleep: the actor ran past its deadline of 0.2 s, asleep"
    assert error.code is Code.TIMED_OUT
    assert await ask(pool, "Environment") == "none, no PATH"


async def test_polling_the_streams_returns_at_once(make_pool: PoolMaker) -> None:
    started = time.monotonic()
    assert await ask(await sandbox(make_pool), "Poll") == "3 1 1 1"
    assert time.monotonic() - started < 0.9


CLOCK, READ, WRITE = 0, 1, 2


def subscription(number: int, kind: int, *, nanoseconds: int = 0, absolute: bool = False, which: int = 1) -> bytes:
    if kind == CLOCK:
        return struct.pack("<QB7xI4xQQH6x", number, kind, which, nanoseconds, 0, absolute)
    return struct.pack("<QB7xI28x", number, kind, which)


def unstable(number: int, *, nanoseconds: int) -> bytes:
    return struct.pack("<QB7xQI4xQQH6x", number, CLOCK, 99, 1, nanoseconds, 0, False)


def polling(subscriptions: list[bytes], family: str = "wasi_snapshot_preview1") -> bytes:
    data = "".join(f"\\{byte:02x}" for byte in b"".join(subscriptions))
    return calling(
        "poll_oneoff",
        f"(i32.const 1024) (i32.const 8) (i32.const {len(subscriptions)}) (i32.const 4)",
        family=family,
        body=f'(data (i32.const 1024) "{data}")',
        answer=8 + 32 * len(subscriptions),
    )


async def events(make_pool: PoolMaker, wasm: bytes) -> list[tuple[int, int, int]]:
    """(user data, error, kind) of each event."""
    answer = await (await make_pool(wasm)).call("Poll", b"", context())
    error, count = struct.unpack_from("<II", answer)
    assert error == 0
    return [struct.unpack_from("<QHB", answer, 8 + 32 * number) for number in range(count)]


async def test_poll_tells_what_happened_first(make_pool: PoolMaker) -> None:
    soon, late = 1_000_000, 60_000_000_000
    clocks = [subscription(1, CLOCK, nanoseconds=late), subscription(2, CLOCK, nanoseconds=soon)]
    assert await events(make_pool, polling(clocks)) == [(2, 0, CLOCK)]
    assert await events(make_pool, polling([*clocks, subscription(3, WRITE, which=2)])) == [(3, 0, WRITE)]
    assert await events(make_pool, polling([subscription(4, READ, which=0), subscription(5, READ, which=5)])) == [
        (4, 0, READ),
        (5, BADF, READ),
    ]
    assert await events(make_pool, polling([subscription(6, CLOCK, which=9), subscription(7, 9)])) == [
        (6, INVAL, CLOCK),
        (7, INVAL, 9),
    ]
    for clock, now in ((0, time.time_ns()), (1, time.monotonic_ns())):
        until = now + 300_000_000
        both = [
            subscription(8, CLOCK, nanoseconds=until, absolute=True, which=clock),
            subscription(9, CLOCK, nanoseconds=until + late, absolute=True, which=clock),
        ]
        assert await events(make_pool, polling(both)) == [(8, 0, CLOCK)]
        assert (time.time_ns(), time.monotonic_ns())[clock] >= until
        past = subscription(10, CLOCK, nanoseconds=1, absolute=True, which=clock)
        assert await events(make_pool, polling([past])) == [(10, 0, CLOCK)]


async def test_the_older_preview_has_its_own_layouts(make_pool: PoolMaker) -> None:
    pauses = [unstable(1, nanoseconds=60_000_000_000), unstable(2, nanoseconds=1_000_000)]
    assert await events(make_pool, polling(pauses, "wasi_unstable")) == [(2, 0, CLOCK)]
    for family, size in (("wasi_snapshot_preview1", 64), ("wasi_unstable", 56)):
        body = f'(data (i32.const 8) "{"x" * 80}")'
        wasm = calling("fd_filestat_get", "(i32.const 1) (i32.const 8)", family=family, body=body, answer=88)
        answer = await (await make_pool(wasm)).call("Look", b"", context())
        assert answer[8:88].rstrip(b"x") == bytes(16) + b"\2" + bytes(size - 17)


# --- the end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("export", ["_start", "_initialize"])
@pytest.mark.parametrize("code", [0, 3, 255])
async def test_a_start_may_end_with_exit_0(code: int, export: str, make_pool: PoolMaker) -> None:
    pool = await make_pool(
        assemble(f"""(module
          (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
          (memory (export "memory") 1)
          (func (export "{export}") (call $exit (i32.const {code})))
          (func (export "__guest_call") (param i32 i32) (result i32) (i32.const 1)))""")
    )
    if code:
        with pytest.raises(GuestFailed, match=f"its export {export} failed: it ended itself with exit code {code}$"):
            await pool.start_one()
    else:
        await pool.start_one()
        for _ in range(3):
            assert await pool.call("Work", b"", context()) == b""
        assert pool.started == 1


async def test_a_c_program_that_fails_fails_the_start(make_pool: PoolMaker) -> None:
    pool = await make_pool(compiled("program", "-DEXIT_CODE=4"))
    with pytest.raises(GuestFailed, match="_start failed: it ended itself with exit code 4"):
        await pool.start_one()


@pytest.mark.parametrize("code", [0, 7])
async def test_an_exit_in_the_middle_of_a_call_fails_the_call(code: int, make_pool: PoolMaker) -> None:
    pool = await sandbox(make_pool)
    error = await refused(ask(pool, "Exit", str(code)))
    assert str(error) == f"Exit: the actor ended itself with exit code {code} instead of answering"
    assert pool.started == 0
    assert await ask(pool, "Environment") == "none, no PATH"


BAD_POINTERS = [
    ("args_get", "(i32.const -4) (i32.const 0)"),
    ("args_get", "(i32.const 0) (i32.const 65530)"),
    ("args_sizes_get", "(i32.const 65534) (i32.const 0)"),
    ("environ_sizes_get", "(i32.const 0) (i32.const -1)"),
    ("clock_res_get", "(i32.const 0) (i32.const 65529)"),
    ("clock_time_get", "(i32.const 0) (i64.const 0) (i32.const -8)"),
    ("fd_fdstat_get", "(i32.const 0) (i32.const 65513)"),
    ("fd_filestat_get", "(i32.const 0) (i32.const -64)"),
    ("fd_read", "(i32.const 0) (i32.const 0) (i32.const 0) (i32.const -1)"),
    ("fd_write", "(i32.const 1) (i32.const -8) (i32.const 1) (i32.const 0)"),
    ("fd_write", "(i32.const 1) (i32.const 0) (i32.const -1) (i32.const 0)"),
    ("fd_write", "(i32.const 1) (i32.const 0) (i32.const 0) (i32.const -1)"),
    ("random_get", "(i32.const -1) (i32.const 16)"),
    ("random_get", "(i32.const 0) (i32.const -1)"),
    ("poll_oneoff", "(i32.const 65520) (i32.const 0) (i32.const 1) (i32.const 0)"),
    ("poll_oneoff", "(i32.const 0) (i32.const 65530) (i32.const 1) (i32.const 0)"),
    ("poll_oneoff", "(i32.const 0) (i32.const 0) (i32.const 80000000) (i32.const 0)"),
]


@pytest.mark.parametrize(("name", "arguments"), BAD_POINTERS)
async def test_bad_pointers_trap_the_guest_and_nobody_else(name: str, arguments: str, make_pool: PoolMaker) -> None:
    pool = await make_pool(calling(name, arguments))
    error = await refused(pool.call("Try", b"", context()))
    assert "wasm trap: out of bounds memory access" in str(error)


async def test_text_at_a_bad_place_traps_even_when_the_log_is_full(make_pool: PoolMaker) -> None:
    vector = '(data (i32.const 16) "\\f0\\ff\\00\\00\\ff\\ff\\ff\\7f")'
    wasm = calling("fd_write", "(i32.const 1) (i32.const 16) (i32.const 1) (i32.const 0)", body=vector)
    for room in (0, 64 * 1024):
        pool = await make_pool(wasm, log_bytes_per_call=room)
        assert "out of bounds" in str(await refused(pool.call("Try", b"", context())))
