"""What events say about something that failed: the reason, and the exit code of that reason."""

from __future__ import annotations

from typing import Any

from lattice.cloudevents import Event
from wasmhost.cli import exit_codes
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.problems import Problem, hint_for


def start_failure(event: Event, reference: str, host_id: str) -> Problem | None:
    """What an event says about a failed start of ``reference`` on ``host_id``; None when it says nothing."""
    data = event.data
    if event.source != host_id:
        return None
    by_name = {
        "actor_start_failed": "actor_ref",
        "actors_start_failed": "image_ref",
        "provider_start_failed": "provider_ref",
    }
    member = by_name.get(event.name)
    if member is None or data.get(member) != reference:
        return None
    return failure(data)


def failure(data: Any) -> Problem:
    """The problem that the data of a failure event describe, with the exit code of its reason."""
    message = str(data.get("error") or "it failed without a reason")
    code = str(data.get("code") or "")
    problem = str(data.get("problem") or "")
    if problem:
        exit_code = exit_codes.for_artifact(problem)
    elif code == "malformed":
        exit_code = ExitCode.USAGE  # here it is the file that is malformed, not a message
    else:
        exit_code = exit_codes.for_code(code)
    return Problem(message, exit_code=exit_code, hint=hint_for(code, message))
