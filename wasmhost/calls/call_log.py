"""One line per call, at debug level: what became of it, which way it came, how long it waited and ran.

Whoever calls these functions looks first whether that level is on: a line costs more than a call. What callers sent
or got is never told, only how much it was.
"""

from __future__ import annotations

import structlog

from lattice.errors import LatticeError
from lattice.invocation import Entity
from wasmhost.guest.calls import GuestCall

log = structlog.get_logger()

_LONGEST = 200
"""Characters of a name that somebody else chose."""


def outcome(error: Exception | None) -> str:
    """``ok``, the code of the failure, or ``broke`` for a bug of ours."""
    if error is None:
        return "ok"
    return error.code.value if isinstance(error, LatticeError) else "broke"


def served(
    *,
    route: str,
    actor: str,
    origin: str,
    operation: str,
    invocation: str,
    call: GuestCall | None,
    request: int,
    reply: int | None,
    error: Exception | None,
) -> None:
    """A call of an actor of this host ended. ``call`` is None when it was refused before it began.

    ``request`` and ``reply`` are sizes in bytes.
    """
    log.debug(
        "call.finished",
        outcome=outcome(error),
        route=route,
        actor=actor,
        origin=origin[:_LONGEST],
        operation=operation[:_LONGEST],
        invocation=invocation[:_LONGEST],
        wait_s=round(call.waited, 6) if call is not None else 0.0,
        run_s=round(call.ran, 6) if call is not None else 0.0,
        request_bytes=request,
        reply_bytes=reply,
    )


def asked(
    *,
    route: str,
    actor: str,
    target: Entity,
    operation: str,
    invocation: str,
    seconds: float,
    request: int,
    reply: int | None,
    error: Exception | None,
) -> None:
    """A host call ended that this host passed on or answered itself. ``invocation`` is the call in which it was made.

    ``route`` is empty where the guest named nothing that exists.
    """
    log.debug(
        "host_call.finished",
        outcome=outcome(error),
        route=route,
        actor=actor,
        target=target.public_key[:_LONGEST],
        contract=target.contract_id[:_LONGEST],
        link_name=target.link_name[:_LONGEST],
        operation=operation[:_LONGEST],
        invocation=invocation[:_LONGEST],
        run_s=round(seconds, 6),
        request_bytes=request,
        reply_bytes=reply,
    )
