"""What a link asks of each request that it answers, beyond which those are."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from providers.httpserver.cors import Cors

DEFAULT_CONTENT: Final = 100 * 1024 * 1024
"""Largest request body in bytes where a link says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """The settings of one link that concern single requests."""

    timeout: float | None = None
    """Seconds an actor has for its answer; None takes the host's RPC timeout."""
    max_content: int = DEFAULT_CONTENT
    """Largest request body in bytes."""
    read_only: bool = False
    """Only GET and HEAD are passed on."""
    cache_control: str = ""
    """``Cache-Control`` of answers in which the actor states none itself."""
    cors: Cors = field(default_factory=Cors)
