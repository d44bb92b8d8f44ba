"""The exit codes, named once. They are a promise: scripts depend on them."""

from __future__ import annotations

from enum import IntEnum

from lattice.errors import Code


class ExitCode(IntEnum):
    """What the exit status of every command means."""

    DONE = 0
    """Done, and seen to be done."""
    FAILED = 1
    """Refused or failed."""
    USAGE = 2
    """The command line, a file or another input is not valid."""
    NOT_FOUND = 3
    ANSWERED_ERROR = 4
    """The actor or the provider answered with an error."""
    CONFLICT = 5
    """Something else has it already: a port, a lock, a name."""
    UNREACHABLE = 6
    """The lattice cannot be reached: no NATS server, or no host behind it."""
    TIMED_OUT = 7
    """Not done in time; the last known state was printed."""
    NOT_AUTHORISED = 8
    INTERRUPTED = 130
    """Ended by Ctrl-C, as shells count it."""


_BY_CODE = {
    Code.MALFORMED: ExitCode.FAILED,
    Code.NOT_AUTHORIZED: ExitCode.NOT_AUTHORISED,
    Code.NOT_LINKED: ExitCode.FAILED,
    Code.NOT_RUNNING: ExitCode.NOT_FOUND,
    Code.NOT_FOUND: ExitCode.NOT_FOUND,
    Code.CONFLICT: ExitCode.CONFLICT,
    Code.NO_RESPONDERS: ExitCode.UNREACHABLE,
    Code.TIMED_OUT: ExitCode.TIMED_OUT,
    Code.DISCONNECTED: ExitCode.UNREACHABLE,
    Code.OVERLOADED: ExitCode.FAILED,
    Code.TOO_LARGE: ExitCode.USAGE,
    Code.REPLY_TOO_LARGE: ExitCode.ANSWERED_ERROR,
    Code.GUEST_ERROR: ExitCode.ANSWERED_ERROR,
    Code.GUEST_FAILED: ExitCode.ANSWERED_ERROR,
    Code.PROVIDER_ERROR: ExitCode.ANSWERED_ERROR,
    Code.UNSUPPORTED: ExitCode.FAILED,
    Code.INVALID: ExitCode.USAGE,
    Code.INTERNAL: ExitCode.FAILED,
}

_BY_ARTIFACT_PROBLEM = {
    "untrusted": ExitCode.NOT_AUTHORISED,
    "expired": ExitCode.NOT_AUTHORISED,
    "not_yet_valid": ExitCode.NOT_AUTHORISED,
    "revoked": ExitCode.NOT_AUTHORISED,
}


def for_code(code: Code | str) -> ExitCode:
    """The exit code for a reason on the wire; an unknown one counts as refused."""
    try:
        return _BY_CODE[Code(code)]
    except ValueError:
        return ExitCode.FAILED


def for_artifact(problem: str) -> ExitCode:
    """The exit code for what is wrong with a signed file.

    A file that is broken, unsigned or altered is invalid input; a sound one that may not run here (untrusted account,
    expired, not yet valid, revoked) is a matter of authority.
    """
    return _BY_ARTIFACT_PROBLEM.get(problem, ExitCode.USAGE)
