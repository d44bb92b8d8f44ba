"""HTTP requests as ``HttpServer.HandleRequest`` arguments, and answers as HTTP/1.1 bytes.

Field meanings: contract ``wasmcloud:httpserver``. Path and query are passed on as received, neither decoded nor
normalised; header names are lower case, with all values of a name in one list; a value with anything but visible
ASCII is dropped.
"""

from __future__ import annotations

import http
import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from typing import Final

from lattice.contracts.httpserver import HttpRequest, HttpResponse
from lattice.errors import Code, LatticeError, Overloaded
from providers.httpserver.replies import Reply
from providers.httpserver.routes import split_target

INVOCATION_HEADER: Final = "Wasmhost-Invocation"
"""Response header with the invocation id, on errors."""

_TOKEN: Final = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+\Z")
_UNSAFE_VALUE: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_FRAMING: Final = frozenset({"content-length", "transfer-encoding", "connection", "keep-alive", "date", "upgrade"})
"""Headers that belong to this hop: the provider states them itself."""


class _Kind(Enum):
    PASSED = 1
    LENGTH = 2
    DROPPED = 3


@lru_cache(maxsize=1024)
def _header_kind(name: str) -> _Kind:
    """What happens to a response header of this name."""
    lower = name.lower()
    if lower == "content-length":
        return _Kind.LENGTH
    return _Kind.PASSED if lower not in _FRAMING and _TOKEN.match(name) and len(name) <= 256 else _Kind.DROPPED


_BODILESS: Final = frozenset({204, 304})

_STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in http.HTTPStatus if status >= 200
}


@lru_cache(maxsize=1024)
def _lower_name(raw: bytes) -> str:
    return raw.decode("latin-1").lower()


def request_headers(raw: Iterable[tuple[bytes, bytes]], dropped: list[str] | None = None) -> dict[str, list[str]]:
    """The ``header`` member of a request, from names and values as received.

    The lower-case names of values that were left out are added to ``dropped``.
    """
    headers: dict[str, list[str]] = {}
    for raw_name, raw_value in raw:
        value = raw_value.decode("latin-1").rstrip(" \t")  # the parser takes off what stands before it only
        if not raw_value.isascii() or not (value.isprintable() or value.replace("\t", " ").isprintable()):
            if dropped is not None:
                dropped.append(raw_name.decode("latin-1").lower())
            continue
        name = _lower_name(raw_name) if len(raw_name) <= 64 else raw_name.decode("latin-1").lower()
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def request(method: str, target: str, header: Mapping[str, Sequence[str]], body: bytes) -> HttpRequest:
    path, query = split_target(target)
    return HttpRequest(method=method, path=path, query_string=query, header=header, body=body)


def answer(
    response: HttpResponse, *, method: str, connection: str = "", added: str = "", cache_control: str = ""
) -> bytes:
    """What goes back to the client. ``connection`` is the value of a Connection header, if one is needed.

    A status outside 200-999 is the actor's mistake and becomes a 500; header names and values that would break the
    message are left out, and of names that differ only in case the last one counts. ``added`` are header lines of the
    provider, in place of the actor's of these names; ``cache_control`` counts where the actor states none.
    """
    status = response.status_code
    if not 200 <= status <= 999:
        wrong = Reply(500, f"the actor answered with status {status}")
        return reply(wrong, method=method, connection=connection, added=added)
    lines = [_status_line(status)]
    length: str | None = None
    header = response.header
    if len(header) > 1 or added or cache_control:
        header = _merged(header, added, cache_control)
    for name, values in header.items():
        match _header_kind(name):
            case _Kind.PASSED:
                lines.extend(f"{name}: {value}\r\n" for value in values if not _UNSAFE_VALUE.search(value))
            case _Kind.LENGTH if values:
                length = values[0]
    if added:
        lines.append(added)
    body = response.body
    if status in _BODILESS:
        body = b""
    elif method == "HEAD":
        # The length is that of the answer to GET: the actor's word if it left the body out, else its body's.
        known = length if not body and length is not None and length.isascii() and length.isdigit() else str(len(body))
        lines.append(f"Content-Length: {known}\r\n")
        body = b""
    else:
        lines.append(f"Content-Length: {len(body)}\r\n")
    return _head(lines, connection) + body


def _merged(header: Mapping[str, Sequence[str]], added: str, cache_control: str) -> Mapping[str, Sequence[str]]:
    """``header`` with every name once, without those in ``added``, with ``cache_control`` where it is missing."""
    names = {*map(str.lower, header)}
    if len(names) == len(header) and not added and (not cache_control or "cache-control" in names):
        return header  # the usual case
    replaced = {line.partition(":")[0].lower() for line in added.split("\r\n")} - {"", "vary"}
    merged = {name.lower(): (name, values) for name, values in header.items()}
    if cache_control:
        merged.setdefault("cache-control", ("Cache-Control", (cache_control,)))
    return dict(named for lower, named in merged.items() if lower not in replaced)


def reply(reply: Reply, *, method: str, connection: str = "", added: str = "") -> bytes:
    """An answer of the provider: JSON with reason and invocation id; the id stands in a header, too."""
    lines = [_status_line(reply.status), reply.headers, added]
    if not reply.error:
        if reply.status not in _BODILESS:
            lines.append("Content-Length: 0\r\n")
        return _head(lines, connection)
    document = {"error": reply.error}
    if reply.invocation:
        document["invocation"] = reply.invocation
        lines.append(f"{INVOCATION_HEADER}: {reply.invocation}\r\n")
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    lines.append(f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n")
    if reply.retry_after is not None:
        lines.append(f"Retry-After: {reply.retry_after}\r\n")
    head = _head(lines, connection)
    return head if method == "HEAD" else head + body


def failure_status(error: LatticeError) -> tuple[int, int | None]:
    """HTTP status and seconds for ``Retry-After`` of a call that failed."""
    match error.code:
        case Code.TOO_LARGE:
            return 413, None  # the request: for the provider, the actor, or a lattice without an object store
        case Code.OVERLOADED:
            wait = error.retry_after if isinstance(error, Overloaded) else 1.0
            return 503, max(1, round(wait + 0.49))
        case Code.NO_RESPONDERS | Code.NOT_RUNNING | Code.DISCONNECTED:
            return 503, None
        case Code.TIMED_OUT:
            return 504, None
        case _:
            return 500, None


def _status_line(status: int) -> str:
    return _STATUS_LINES.get(status) or f"HTTP/1.1 {status} \r\n"


_date_second = -1
_date_line = ""


def _date() -> str:
    """The Date header; formatted once a second."""
    global _date_second, _date_line
    now = int(time.time())
    if now != _date_second:
        _date_second = now
        _date_line = f"Date: {formatdate(now, usegmt=True)}\r\n"
    return _date_line


def _head(lines: list[str], connection: str) -> bytes:
    lines.append(_date())
    if connection:
        lines.append(f"Connection: {connection}\r\n")
    lines.append("\r\n")
    return "".join(lines).encode("utf-8", "replace")
