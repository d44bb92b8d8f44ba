"""A parser that starts in the middle of a request, at its body.

llhttp takes a request with ``Upgrade`` for the last one and skips its body. Clients send such bodies (curl offers h2c
with a POST), and what is skipped would be read as the next request.
"""

from __future__ import annotations

from typing import Protocol

import httptools


class Callbacks(Protocol):
    """What the parser tells of a request."""

    def on_message_begin(self) -> None: ...
    def on_url(self, url: bytes) -> None: ...
    def on_header(self, name: bytes, value: bytes) -> None: ...
    def on_headers_complete(self) -> None: ...
    def on_body(self, body: bytes) -> None: ...
    def on_message_complete(self) -> None: ...


def parser_after_head(callbacks: Callbacks, length: int | None) -> httptools.HttpRequestParser:
    """What is fed to it next is a body of ``length`` bytes (None: a chunked one), then further requests."""
    inner = _AfterHead(callbacks)
    parser = httptools.HttpRequestParser(inner)
    framing = f"Content-Length: {length}" if length else "Transfer-Encoding: chunked"
    parser.feed_data(f"POST / HTTP/1.1\r\n{framing}\r\n\r\n".encode())
    inner.begun = True
    return parser


class _AfterHead:
    """Passes on nothing of the head that no client sent."""

    def __init__(self, callbacks: Callbacks) -> None:
        self._callbacks = callbacks
        self.begun = False

    def on_message_begin(self) -> None:
        if self.begun:
            self._callbacks.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if self.begun:
            self._callbacks.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.begun:
            self._callbacks.on_header(name, value)

    def on_headers_complete(self) -> None:
        if self.begun:
            self._callbacks.on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._callbacks.on_body(body)

    def on_message_complete(self) -> None:
        self._callbacks.on_message_complete()
