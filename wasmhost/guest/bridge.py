"""The mailbox: where host and bridge module exchange bytes, and the texts of the auxiliary modules.

``bridge.wat`` describes the layout; the numbers here repeat it. Positions are indices of 32-bit words.
"""

from __future__ import annotations

from importlib import resources

TRAMPOLINES = resources.files(__package__).joinpath("trampolines.wat").read_text("utf-8")
"""First of the three modules: exports what an actor imports."""

BRIDGE = resources.files(__package__).joinpath("bridge.wat").read_text("utf-8")
"""Last of the three modules: owns the mailbox, exports ``invoke``."""

WASI_FRONT = resources.files(__package__).joinpath("wasi_front.wat").read_text("utf-8")
"""For actors that use WASI preview 1: exports its functions."""

WASI = resources.files(__package__).joinpath("wasi.wat").read_text("utf-8")
"""Those of them that need the actor's memory or the host."""

WASI_MODULES = ("wasi_snapshot_preview1", "wasi_unstable")
"""Names under which actors ask for them: preview 1, and the preview before."""

UNSTABLE = "unstable "
"""Begins the names of the functions that are different under the older name."""

IMPORT_MODULES = ("wasmbus", "wapc")
"""Names under which actors ask for the functions below: newer and older generations."""

IMPORTS = {
    "__guest_request": (2, 0),
    "__guest_response": (2, 0),
    "__guest_error": (2, 0),
    "__host_call": (8, 1),
    "__host_response_len": (0, 1),
    "__host_response": (1, 0),
    "__host_error_len": (0, 1),
    "__host_error": (1, 0),
    "__console_log": (2, 0),
}
"""Imported functions with their numbers of ``i32`` parameters and results."""

INIT_EXPORTS = ("_initialize", "start", "wapc_init", "_start")
"""Called once per instance, in this order, where they exist."""

VERSION_EXPORTS = ("__wasmbus_rpc_version", "__actor_api_version")

PAGE = 65536

PLAIN, STATUS, LOG_USED, LOG_DROPPED = 0, 1, 2, 3
RESPONSE, ERROR = 4, 9
GIVEN, WHERE, LENGTH, ROOM, REFUSED = 0, 1, 2, 3, 4
"""Words of the slot for a response or an error."""
OUTCOME_WORDS = 16
"""The words up to here tell how an operation ended."""
NEXT_FREE, BOX_FULL = 14, 15
HOST_STATUS, HOST_WHERE, HOST_ROOM, HOST_RESPONSE, HOST_ERROR, HOST_NEED, HOST_REFUSED = 16, 17, 18, 19, 20, 21, 22
HOST_LENGTHS = 23
"""First of four words: lengths of binding, namespace, operation and payload."""
RESET_WORDS = 32
"""The words below this are zeroed when an operation begins."""
LOG_CAPACITY, REQUEST, REPLY_LIMIT, HOST_CALL_LIMIT = 32, 33, 34, 35
BOX_PAGES, PAGES, RETAINED_PAGES = 36, 37, 38
EXITED, EXIT_CODE = 27, 28
LOG_OPEN = 29
"""Where the record is that the actor may still add to."""
ASKED, CLOCK = 39, 40
ASKED_TIME, ASKED_RANDOM, ASKED_PAUSE = 1, 2, 3
GIVEN_UP = 41
NANOSECONDS = 42
"""First of two words."""
HEADER_WORDS = 64
RANDOM, RANDOM_SIZE = 192, 64
"""First byte and number of random bytes for the actor."""
LOG = 256
"""First byte of the log records."""
LOG_RECORD = 256
"""Log records start at multiples of this."""
RECORD_LENGTH, RECORD_STREAM, RECORD_OPEN = 0x0FFF_FFFF, 28, 1 << 31
"""In the first word of a record: mask of the length, first bit of the stream, flag of a line that is not complete."""
STREAMS = ("", "stdout", "stderr", "")
