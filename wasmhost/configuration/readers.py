"""How the value of a setting is read: from a flag, a variable or a file, always checked, never guessed."""

from __future__ import annotations

import difflib
import ipaddress
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from lattice.errors import MalformedMessage
from lattice.keys import KeyPair, Role, is_key
from lattice.revocation import Revocation
from wasmhost.configuration.limits import Limit

Value = str | float | bool | tuple[str, ...] | Mapping[str, str]
Parser = Callable[[object], Value]

_TRUE = frozenset({"1", "true", "yes", "y", "on", "enabled", "enable"})
_FALSE = frozenset({"", "0", "false", "no", "n", "off", "disabled", "disable"})


class Unusable(Exception):
    """What is wrong with one value, to be completed with the name of its source."""


def as_text(value: object) -> str:
    """Text without white space around it; numbers count as text."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise Unusable(f"{_shown(value)} is not a text")
    return str(value).strip()


def as_token(value: object) -> str:
    """One part of a subject: letters, digits, ``_`` and ``-``."""
    text = as_text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]+", text):
        raise Unusable(f"{text!r} may only hold letters, digits, '_' and '-'")
    return text


def as_prefix(value: object) -> str:
    """The beginning of a subject: tokens separated by dots."""
    text = as_text(value)
    if not re.fullmatch(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*", text):
        raise Unusable(f"{text!r} is not a subject prefix of letters, digits, '_' and '-' separated by '.'")
    return text


def as_subject(value: object) -> str:
    """A subject without wildcards."""
    text = as_text(value)
    if not re.fullmatch(r"[^\s.*>]+(\.[^\s.*>]+)*", text):
        raise Unusable(f"{text!r} is not a NATS subject without wildcards")
    return text


def as_boolean(value: object) -> bool:
    """Yes or no in the words of ``_TRUE`` and ``_FALSE``."""
    if isinstance(value, bool):
        return value
    text = as_text(value).lower()
    if text not in _TRUE | _FALSE:
        raise Unusable(f"{text!r} is neither true nor false")
    return text in _TRUE


def as_amount(what: str, *, least: float = 0, most: float = math.inf) -> Parser:
    """A number of ``what`` from ``least`` to ``most``."""

    def parse(value: object) -> float:
        text = as_text(value)
        try:
            number = float(text)
        except ValueError:
            raise Unusable(f"{text!r} is not a number of {what}") from None
        if not math.isfinite(number) or not least <= number <= most:
            raise Unusable(f"{text} is out of range for a number of {what}")
        return number

    return parse


def as_limit(limit: Limit) -> Parser:
    """A whole number that one of the limits of actors allows."""

    def parse(value: object) -> float:
        text = as_text(value)
        if not (text.isascii() and text.isdigit()):
            raise Unusable(f"{text!r} is not a whole number of {limit.what}")
        if problem := limit.problem(int(text)):
            raise Unusable(problem)
        return float(text)

    return parse


def as_port(value: object) -> float:
    """A TCP port."""
    text = as_text(value)
    if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
        raise Unusable(f"{text!r} is not a port from 1 to 65535")
    return float(text)


def as_listening(value: object) -> str:
    """A port, or an address and a port, as ``ADDRESS:PORT``; without an address all interfaces are meant."""
    address, _, port = as_text(value).rpartition(":")
    if address:
        try:
            ipaddress.ip_address(address.strip("[]"))
        except ValueError:
            raise Unusable(f"{address!r} is not an IP address") from None
    return f"{address}:{as_port(port):.0f}"


def as_url(value: object) -> str:
    """The address of a NATS server."""
    text = as_text(value)
    if not re.fullmatch(r"((nats|tls|ws|wss)://)?[^\s/]+(:\d+)?/?", text):
        raise Unusable(f"{text!r} is not the address of a NATS server")
    return text.rstrip("/")


def as_seed(role: Role, what: str, start: str) -> Parser:
    """A seed of this role; the message about a wrong one never shows it."""

    def parse(value: object) -> str:
        text = as_text(value)
        try:
            KeyPair.from_seed(text, role)
        except MalformedMessage as exc:
            raise Unusable(f"not a {what} seed; those start with {start} ({exc})") from None
        return text

    return parse


def _items(value: object) -> tuple[str, ...]:
    parts: Sequence[object] = value if isinstance(value, list | tuple) else as_text(value).split(",")
    return tuple(item for part in parts for item in (as_text(part),) if item)


def as_keys(role: Role, what: str) -> Parser:
    """Public keys of this role, separated by commas."""

    def parse(value: object) -> tuple[str, ...]:
        keys = tuple(item for part in _items(value) for item in _items(part))
        for key in keys:
            if not is_key(key, role):
                raise Unusable(f"{_hidden_if_seed(key)} is not {what}")
        return keys

    return parse


def as_key(role: Role, what: str) -> Parser:
    """One public key of this role."""

    def parse(value: object) -> str:
        text = as_text(value)
        if not is_key(text, role):
            raise Unusable(f"{_hidden_if_seed(text)} is not {what}")
        return text

    return parse


def as_revocations(value: object) -> tuple[str, ...]:
    """What may no longer run here, in the words of ``claims revoke``."""
    items = tuple(item for part in _items(value) for item in _items(part))
    for item in items:
        try:
            Revocation(id=item).check()
        except MalformedMessage as exc:
            raise Unusable(f"{_hidden_if_seed(item)} cannot be revoked: {exc}") from None
    return items


def as_choice(*choices: str) -> Parser:
    """One of these words."""

    def parse(value: object) -> str:
        text = as_text(value).lower()
        if text not in choices:
            near = difflib.get_close_matches(text, choices, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise Unusable(f"{text!r} is none of {', '.join(choices)}{hint}")
        return text

    return parse


_LOG_LEVELS = {"trace": "debug", "warn": "warning", "critical": "error"}
_read_log_level = as_choice("debug", "info", "warning", "error")


def as_log_level(value: object) -> Value:
    """A level in our words or in those of the classic hosts."""
    text = as_text(value).lower()
    return _read_log_level(_LOG_LEVELS.get(text, text))


def as_label_pairs(value: object) -> Mapping[str, str]:
    """``NAME=VALUE``, separated by commas, or a mapping."""
    if isinstance(value, Mapping):
        return {as_text(key): as_text(item) for key, item in value.items()}
    pairs = {}
    for item in _items(value):
        key, equals, text = item.partition("=")
        if not equals or not key.strip():
            raise Unusable(f"{item!r} is not a label")
        pairs[key.strip()] = text.strip()
    return pairs


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _hidden_if_seed(key: str) -> str:
    return "a seed (value hidden)" if len(key) == 58 and key.startswith("S") else repr(key)


def _path(value: object) -> str:
    text = as_text(value)
    return str(Path(text).expanduser()) if text else ""


def as_path_of(*, providers: bool) -> Parser:
    """A path; that of a provider's file may hold ``{provider}``, which its public key replaces."""

    def parse(value: object) -> str:
        return _without_strange_placeholder(_path(value), providers)

    return parse


def as_inbox_prefix_of(*, providers: bool) -> Parser:
    """Where a connection gets its answers: begins with ``_INBOX``."""

    def parse(value: object) -> str:
        text = _without_strange_placeholder(as_text(value), providers)
        if not re.fullmatch(r"_INBOX(_[A-Za-z0-9_-]+)?(\.[A-Za-z0-9_-]+)*", text.replace(PROVIDER, "X")):
            raise Unusable(f"{text!r} does not begin with _INBOX, which peers insist on, or is no subject prefix")
        return text

    return parse


PROVIDER = "{provider}"
"""In files and inboxes of the provider connection: the public key of the provider, so that each can be its own user."""


def _without_strange_placeholder(text: str, providers: bool) -> str:
    for found in re.findall(r"\{[^}]*\}?", text):
        if not providers or found != PROVIDER:
            raise Unusable(f"{found!r} in {text!r} means nothing here{f'; {PROVIDER} does' if providers else ''}")
    return text
