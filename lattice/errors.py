"""The exceptions of the lattice, sorted by who can act on them.

Every error carries a ``code``: one of the words of :class:`Code`. It travels beside the classic error text as the
extra member ``code`` of an invocation response or of a control acknowledgement (classic peers ignore it), so that a
caller can tell *overloaded* from *not authorised* without reading prose.
"""

from __future__ import annotations

from enum import StrEnum


class Code(StrEnum):
    """Machine-readable reason of a failure, as sent in the extra member ``code``."""

    MALFORMED = "malformed"
    NOT_AUTHORIZED = "not_authorized"
    NOT_LINKED = "not_linked"
    NOT_RUNNING = "not_running"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    NO_RESPONDERS = "no_responders"
    TIMED_OUT = "timed_out"
    DISCONNECTED = "disconnected"
    OVERLOADED = "overloaded"
    TOO_LARGE = "too_large"
    """The argument of the call is above a limit."""
    REPLY_TOO_LARGE = "reply_too_large"
    """Its result is: the caller sent nothing wrong."""
    GUEST_ERROR = "guest_error"
    """The actor itself answered with an error."""
    GUEST_FAILED = "guest_failed"
    """The actor trapped, ran out of time or of memory, or broke its ABI."""
    PROVIDER_ERROR = "provider_error"
    UNSUPPORTED = "unsupported"
    INVALID = "invalid"
    INTERNAL = "internal"


_ABOUT_DATA = frozenset({Code.GUEST_ERROR, Code.PROVIDER_ERROR, Code.INVALID, Code.CONFLICT})


class LatticeError(Exception):
    """Base of everything that this project raises on purpose. ``str(error)`` is one sentence for a user."""

    code: Code = Code.INTERNAL
    invocation_id: str = ""
    """The call that failed, where one was sent; log lines of both ends name it."""
    confidential: bool = False
    """The text may quote what the caller sent or stored: it is for that caller, and not for a log."""

    def __init__(self, message: str, *, code: Code | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code

    @property
    def for_log(self) -> str:
        """The text where a log may have it, else that only the caller was told."""
        return "told to the caller only" if self.confidential else str(self)


class MalformedMessage(LatticeError):
    """Bytes from a peer or a file are not what they should be. The author of the peer can act."""

    code = Code.MALFORMED


class NotAuthorized(LatticeError):
    """Keys, claims or signatures do not permit this. The message never holds a secret."""

    code = Code.NOT_AUTHORIZED


class NotLinked(LatticeError):
    """A host call names a contract and link name for which no link definition exists. The operator can act."""

    code = Code.NOT_LINKED


class Unreachable(LatticeError):
    """Nobody answered; ``code`` tells *no responders*, *timed out* and *disconnected* apart."""

    code = Code.TIMED_OUT


class Overloaded(LatticeError):
    """Refused at once because the expected wait exceeds what the caller has left; retry later."""

    code = Code.OVERLOADED

    def __init__(self, message: str, *, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds after which a retry makes sense."""


class TooLarge(LatticeError):
    """A payload is above the limit of this call."""

    code = Code.TOO_LARGE


class GuestError(LatticeError):
    """The actor answered a call with an error text of its own, which is this message verbatim."""

    code = Code.GUEST_ERROR
    confidential = True


class GuestFailed(LatticeError):
    """The actor trapped, ran out of time or memory, or broke its ABI. The author of the actor can act."""

    code = Code.GUEST_FAILED


class RemoteError(LatticeError):
    """A peer answered with an error: the message is its text verbatim, ``code`` its code (else ``provider_error``)."""

    code = Code.PROVIDER_ERROR

    def __init__(self, message: str, *, code: Code | None = None) -> None:
        super().__init__(message, code=code)
        # With these codes, or without any, the words may be those of an actor, or about data.
        self.confidential = self.code in _ABOUT_DATA
