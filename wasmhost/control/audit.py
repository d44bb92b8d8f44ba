"""Who asked for a change: one log line for each control message that changes something, done or refused.

A NATS server tells a receiver nothing about the sender, but for messages that come from another account: to those it
adds the header :data:`CLIENT_INFO`, in place of any that the sender wrote. Within one account that header is a mere
claim. Source: nats-server ``server/client.go``, ``processServiceImport``; seen on 2.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any, Final

import structlog

from lattice.document import Document
from lattice.errors import LatticeError, MalformedMessage
from lattice.transport import Headers

log = structlog.get_logger(__name__)

CLIENT_INFO: Final = "Nats-Request-Info"
_LONGEST: Final = 120
_RANDOM: Final = 16
"""Characters from which on a part of an inbox is taken to be random; those of NATS clients have 22 or more."""
_CHANGING: Final = ("cmd", "linkdefs", "registries", "labels", "config")
_TOLD: Final = {"acc": "account", "user": "user", "host": "address", "name": "program"}
"""Members of the header; all but the account are there only where the import says ``share: true``."""
_WHAT: Final = (
    *("actor_ref", "new_actor_ref", "provider_ref", "actor_id", "provider_id", "contract_id", "link_name"),
    *("kind", "id", "action", "key", "count", "generation"),
)
"""Members of bodies that say what is asked for; configuration and links' values may be secret."""


def changes(tokens: tuple[str, ...]) -> bool:
    """Whether a request on this subject is for a change."""
    return tokens[0] in _CHANGING


def record(tokens: tuple[str, ...], body: Any, *, reply: str, headers: Headers, refusal: LatticeError | None) -> None:
    """Log a request for a change, with all that is known of who sent it."""
    what = body if isinstance(body, Mapping) else {}
    log.info(
        "control.audit",
        subject=".".join(tokens)[:200],
        outcome="accepted" if refusal is None else refusal.code.value,
        **{name: _short(what[name]) for name in _WHAT if isinstance(what.get(name), str | int)},
        **client_of(reply, headers),
    )


def client_of(reply: str, headers: Headers) -> dict[str, str]:
    """What is known of a sender: ``client_account``, ``client_user``, ``client_address`` and ``client_program`` as the
    server has them, ``client_inbox`` as the prefix of where it wants the answer."""
    found = {}
    if headers is not None and CLIENT_INFO in headers:
        try:
            told = Document.parse("client", headers[CLIENT_INFO])
            found = {f"client_{ours}": text for name, ours in _TOLD.items() if (text := told.text(name))}
        except MalformedMessage:
            found = {"client_account": "(unreadable)"}
    if reply.startswith("_INBOX_"):
        # up to the random part, which stays between the sender and the server: _INBOX_people.alice.{random}.…
        first, *more = reply.split(".")
        found["client_inbox"] = ".".join([first, *takewhile(lambda token: len(token) < _RANDOM, more)])
    return {name: text[:_LONGEST] for name, text in found.items()}


def _short(value: str | int) -> str | int:
    return value[:200] if isinstance(value, str) else value
