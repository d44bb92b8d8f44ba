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
from collections.abc import Iterable
from email.utils import formatdate
from enum import Enum
from functools import lru_cache
from typing import Final

from lattice.contracts.httpserver import HttpRequest, HttpResponse
from lattice.errors import Code, LatticeError, Overloaded, TooLarge
from providers.httpserver.routes import split_target

INVOCATION_HEADER: Final = "Wasmhost-Invocation"
"""Response header with the invocation id, on errors."""
MAX_BODY: Final = 921_600
"""Largest request body in bytes: what fits into one message of the lattice."""

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


def request_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """The ``header`` member of a request, from names and values as received."""
    headers: dict[str, list[str]] = {}
    for raw_name, raw_value in raw:
        if not raw_value.isascii():
            continue
        value = raw_value.decode("ascii")
        if not (value.isprintable() or value.replace("\t", " ").isprintable()):
            continue
        name = raw_name.decode("latin-1").lower()
        if name in headers:
            headers[name].append(value)
        else:
            headers[name] = [value]
    return headers


def request(method: str, target: str, raw_headers: Iterable[tuple[bytes, bytes]], body: bytes) -> HttpRequest:
    path, query = split_target(target)
    return HttpRequest(method=method, path=path, query_string=query, header=request_headers(raw_headers), body=body)


def answer(response: HttpResponse, *, method: str, connection: str = "") -> bytes:
    """What goes back to the client. ``connection`` is the value of a Connection header, if one is needed.

    A status outside 200-999 is the actor's mistake and becomes a 500; header names and values that would break the
    message are left out.
    """
    status = response.status_code
    if not 200 <= status <= 999:
        return failure_answer(500, f"the actor answered with status {status}", "", method=method, connection=connection)
    lines = [_status_line(status)]
    length: str | None = None
    for name, values in response.header.items():
        match _header_kind(name):
            case _Kind.PASSED:
                lines.extend(f"{name}: {value}\r\n" for value in values if not _UNSAFE_VALUE.search(value))
            case _Kind.LENGTH if values:
                length = values[0]
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


def failure_answer(
    status: int, error: str, invocation: str, *, method: str, connection: str = "", retry_after: int | None = None
) -> bytes:
    """A failure of the platform, as JSON with reason and invocation id; the id stands in a header, too."""
    document = {"error": error, "invocation": invocation} if invocation else {"error": error}
    body = json.dumps(document, ensure_ascii=False).encode("utf-8", "replace") + b"\n"
    lines = [_status_line(status), "Content-Type: application/json\r\n", f"Content-Length: {len(body)}\r\n"]
    if invocation:
        lines.append(f"{INVOCATION_HEADER}: {invocation}\r\n")
    if retry_after is not None:
        lines.append(f"Retry-After: {retry_after}\r\n")
    head = _head(lines, connection)
    return head if method == "HEAD" else head + body


def failure_status(error: LatticeError) -> tuple[int, int | None]:
    """HTTP status and seconds for ``Retry-After`` of a call that failed."""
    if isinstance(error, TooLarge):
        return 413, None  # the request; an answer that is too large arrives as the peer's error, which is a 500
    match error.code:
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
