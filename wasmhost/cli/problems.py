"""How a failure is shown: one sentence, a next step, an exit code."""

from __future__ import annotations

import errno

from lattice.errors import Code, LatticeError
from wasmhost.cli import exit_codes
from wasmhost.cli.exit_codes import ExitCode


class Problem(Exception):
    """A failure that the user is told about. ``str(problem)`` is the sentence, ``hint`` what to do next."""

    def __init__(
        self, message: str, *, exit_code: ExitCode = ExitCode.FAILED, hint: str = "", reason: str = ""
    ) -> None:
        super().__init__(message)
        self.exit_code = exit_code
        self.hint = hint
        self.reason = reason
        """The cause alone, for whoever tells of it in other words."""


def not_found(message: str, hint: str = "") -> Problem:
    return Problem(message, exit_code=ExitCode.NOT_FOUND, hint=hint)


def invalid(message: str, hint: str = "") -> Problem:
    return Problem(message, exit_code=ExitCode.USAGE, hint=hint)


def timed_out(message: str, hint: str = "") -> Problem:
    return Problem(message, exit_code=ExitCode.TIMED_OUT, hint=hint)


def from_error(error: Exception) -> Problem | None:
    """What a known exception means to a user; None for one that is our own bug."""
    match error:
        case Problem():
            return error
        case LatticeError():
            return _from_lattice(error)
        case OSError():
            return _from_os(error)
    return None


_HINTS = {
    Code.NO_RESPONDERS: "start a host with `wasmhost up` or `wasmhost host`, or name another lattice with --lattice",
    Code.DISCONNECTED: "see whether the NATS server runs, or name another one with --nats-url",
    Code.TIMED_OUT: "look at `wasmhost get hosts` and `wasmhost events`, or allow more time with --timeout",
    Code.OVERLOADED: "retry later, or start more instances with `wasmhost scale actor`",
    Code.NOT_RUNNING: "look at `wasmhost get actors` and start it with `wasmhost start actor`",
    Code.NOT_LINKED: "look at `wasmhost get links` and link it with `wasmhost link put`",
}

_ARTIFACT_HINTS = {
    "malformed": "name a WebAssembly file, such as one made by `wat2wasm` or a compiler for wasm32",
    "bad_signature": "get the file again from whoever signed it, or sign it yourself with `wasmhost claims sign`",
    "wrong_hash": "get the file again from whoever signed it, or sign it yourself with `wasmhost claims sign`",
    "nested_token": "sign the module without claims inside it",
}

_SUGGESTS_SOMETHING = ("; ", " --", "`", "try ", "run ")


def hint_for(code: Code | str, message: str = "") -> str:
    """The usual next step for a code, unless the message already names one."""
    if _suggests(message):
        return ""
    try:
        return _HINTS.get(Code(code), "")
    except ValueError:
        return ""


def _suggests(message: str) -> bool:
    return any(mark in message for mark in _SUGGESTS_SOMETHING)


def _from_lattice(error: LatticeError) -> Problem:
    message = str(error)
    problem = getattr(error, "problem", "")
    if problem:
        hint = "" if _suggests(message) else _ARTIFACT_HINTS.get(problem, "")
        return Problem(message, exit_code=exit_codes.for_artifact(problem), hint=hint)
    return Problem(message, exit_code=exit_codes.for_code(error.code), hint=hint_for(error.code, message))


def _from_os(error: OSError) -> Problem:
    where = f"{error.filename}: " if error.filename else ""
    reason = (error.strerror or str(error)).lower()
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return invalid(f"{where}{reason}", "check the path")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return Problem(f"{where}{reason}", hint="give this user access, or use another folder")
    if error.errno == errno.ENOSPC:
        return Problem(f"{where}{reason}", hint="free some space, or use another folder")
    return Problem(f"{where}{reason}")
