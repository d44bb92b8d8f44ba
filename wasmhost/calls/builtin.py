"""The two contracts that a host answers itself: logging and random numbers. No link is needed, the claim is."""

from __future__ import annotations

import secrets
import uuid
from typing import Final

import structlog

from lattice import wire
from lattice.contracts import logging as logging_contract
from lattice.contracts import numbergen
from lattice.errors import Code, LatticeError
from wasmhost.budget import LOG_LINE, Budget, log_budget
from wasmhost.guest.calls import HostCall
from wasmhost.logs import escape

log = structlog.get_logger()

CONTRACTS: Final = frozenset({logging_contract.CONTRACT, numbergen.CONTRACT})

LONGEST_TEXT: Final = 8 * 1024
"""Characters of one log line of a guest that are kept."""

_LEVELS: Final = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "critical": "critical",
}


class Builtin:
    """The built-in contracts as one actor sees them."""

    def __init__(self, actor: str, *, budget: Budget | None = None) -> None:
        """``budget``: characters that the actor may log, and LOG_LINE for each line; beyond it lines are dropped."""
        self._actor = actor
        self._budget = budget or log_budget()

    def answer(self, call: HostCall) -> bytes:
        """The reply in the contract's encoding; raises MalformedMessage or LatticeError (unknown operation)."""
        match call.namespace, call.operation:
            case logging_contract.CONTRACT, logging_contract.WRITE_LOG:
                self._write_log(call.payload)
                return b""
            case numbergen.CONTRACT, numbergen.GENERATE_GUID:
                return wire.pack(str(uuid.uuid4()))
            case numbergen.CONTRACT, numbergen.RANDOM_32:
                return wire.pack(secrets.randbits(32))
            case numbergen.CONTRACT, numbergen.RANDOM_IN_RANGE:
                return wire.pack(self._in_range(call.payload))
        raise LatticeError(f"{call.namespace} has no operation {call.operation[:200]!r}", code=Code.UNSUPPORTED)

    def _write_log(self, payload: bytes) -> None:
        entry = logging_contract.LogEntry.decode(payload)
        text = entry.text[:LONGEST_TEXT]
        if not self._budget.take(len(text) + LOG_LINE):
            return
        dropped = self._budget.refused()
        if dropped:
            log.warning("guest.log_dropped", actor=self._actor, lines=dropped)
        # unknown levels count as debug, as on the classic Elixir hosts
        level = _LEVELS.get(entry.level.lower(), "debug")
        getattr(log, level)("guest.log", actor=self._actor, text=escape(text))

    @staticmethod
    def _in_range(payload: bytes) -> int:
        """Both ends included; swapped ends are put in order. Source: interface definition and both classic hosts."""
        limits = numbergen.RangeLimit.decode(payload)
        low, high = sorted((limits.min, limits.max))
        return low + secrets.randbelow(high - low + 1)
