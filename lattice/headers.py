"""The header block of a NATS message: ``NATS/1.0`` and a line per name, as it stands on the wire."""

from __future__ import annotations

import re
from functools import lru_cache

from lattice.errors import MalformedMessage
from lattice.transport import Headers

STATUS = "Status"
"""Where :func:`parse` puts the status of a server's own message, such as 503 for *no responders*."""
DESCRIPTION = "Description"

_VERSION = "NATS/1.0"
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")


def encode(headers: Headers) -> bytes:
    """The block, or nothing when there are no headers. Raises MalformedMessage for what cannot stand in it.

    Blanks around a value are lost on the way.
    """
    return _encode(tuple(headers.items())) if headers else b""


# A call's headers repeat: the same deadline, no trace context unless tracing is on.
@lru_cache(maxsize=512)
def _encode(items: tuple[tuple[str, str], ...]) -> bytes:
    lines = [_VERSION]
    for name, value in items:
        if not _NAME.fullmatch(name):
            raise MalformedMessage(f"header name {name!r}: only letters, digits and !#$%&'*+-.^_`|~")
        if "\r" in value or "\n" in value:
            raise MalformedMessage(f"header {name}: the value must not hold line breaks")
        lines.append(f"{name}: {value}")
    try:
        return "\r\n".join([*lines, "", ""]).encode()
    except UnicodeEncodeError as error:
        raise MalformedMessage("a header value holds half of a surrogate pair") from error


@lru_cache(maxsize=512)
def parse(block: bytes) -> Headers:
    """Names and values; a name that occurs twice keeps its last value. Never raises; do not change the result.

    The status of a server's own message (``NATS/1.0 503 No Responders``) is found under :data:`STATUS`, its text under
    :data:`DESCRIPTION`, as nats-py has it.
    """
    first, *lines = block.decode("utf-8", "replace").split("\r\n")
    headers: dict[str, str] = {}
    status = first[len(_VERSION) :].strip()
    if status:
        headers[STATUS], _, description = status.partition(" ")
        if description:
            headers[DESCRIPTION] = description
    for line in lines:
        name, colon, value = line.partition(":")
        if colon and name:
            headers[name.strip()] = value.strip()
    return headers or None
