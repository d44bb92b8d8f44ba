"""Answers that the provider gives itself, without the actor or in its place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reply:
    """Status, and why. Written by :func:`providers.httpserver.mapping.reply`."""

    status: int
    error: str = ""
    """One sentence for the client; empty for an answer without a body."""
    invocation: str = ""
    """Id of the call that failed, where there was one."""
    retry_after: int | None = None
    """Seconds."""
    headers: str = ""
    """Further header lines, each with its line end."""
    ends: bool = False
    """The connection cannot be used any more: what the client sends next is not the start of a request."""
