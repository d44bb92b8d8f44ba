"""``wasmcloud:httpserver``: a provider hands an HTTP request to an actor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from lattice import wire

CONTRACT: Final = "wasmcloud:httpserver"
HANDLE_REQUEST: Final = "HttpServer.HandleRequest"

Header = Mapping[str, Sequence[str]]
"""Header name (lower case in requests) to its values in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpRequest:
    method: str = "GET"
    """Upper case."""
    path: str = "/"
    """As received: not decoded, without the query."""
    query_string: str = ""
    """Without the question mark."""
    header: Header = field(default_factory=dict, hash=False)
    body: bytes = b""

    def encode(self) -> bytes:
        """Every member is sent: Rust actors fail on an absent map, even an empty one."""
        return wire.pack(
            {
                "method": self.method,
                "path": self.path,
                "queryString": self.query_string,
                "header": {name: list(values) for name, values in self.header.items()},
                "body": self.body,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> HttpRequest:
        """Raise MalformedMessage, and nothing else."""
        fields = wire.Fields.argument("HttpRequest", data)
        return cls(
            method=fields.text("method"),
            path=fields.text("path"),
            query_string=fields.text("queryString"),
            header=fields.text_lists("header"),
            body=fields.octets("body"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpResponse:
    status_code: int = 200
    """0 when the actor left it out."""
    header: Header = field(default_factory=dict, hash=False)
    body: bytes = b""

    def encode(self) -> bytes:
        return wire.pack(
            {
                "statusCode": self.status_code,
                "header": {name: list(values) for name, values in self.header.items()},
                "body": self.body,
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> HttpResponse:
        """Raise MalformedMessage, and nothing else."""
        fields = wire.Fields.argument("HttpResponse", data)
        return cls(
            status_code=fields.integer("statusCode", 0, 65_535),
            header=fields.text_lists("header"),
            body=fields.octets("body"),
        )
