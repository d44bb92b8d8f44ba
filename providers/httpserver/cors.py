"""Cross-origin requests: which origins may ask, and what their browsers are told.

Any origin may by default, as with the classic provider; browsers then send no credentials. Preflights are answered
without the actor. Source: the Fetch standard, section "CORS protocol".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from providers.httpserver.replies import Reply

DEFAULT_METHODS: Final = ("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS")
DEFAULT_HEADERS: Final = ("accept", "accept-language", "content-type", "content-language")
DEFAULT_MAX_AGE: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Cors:
    """The ``cors`` settings of one link. Origins are lower case, methods upper case, header names lower case."""

    origins: frozenset[str] = frozenset()
    """Empty: any."""
    methods: tuple[str, ...] = DEFAULT_METHODS
    headers: tuple[str, ...] = DEFAULT_HEADERS
    exposed: tuple[str, ...] = ()
    max_age: int = DEFAULT_MAX_AGE
    """Seconds for which a browser remembers a preflight."""
    _exposed_line: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        line = f"Access-Control-Expose-Headers: {', '.join(self.exposed)}\r\n" if self.exposed else ""
        object.__setattr__(self, "_exposed_line", line)

    def permits(self, origin: str, host: str, *, secure: bool) -> bool:
        """Whether a request with this ``Origin`` header is answered.

        Browsers name the origin also in requests to their own; those are never cross-origin.
        """
        if not self.origins:
            return True
        lower = origin.lower()
        return lower in self.origins or lower == f"{'https' if secure else 'http'}://{host.lower()}"

    def lines(self, origin: str) -> str:
        """Header lines of the answer to a permitted request; ``origin`` is empty where the request names none."""
        if not self.origins:
            return f"Access-Control-Allow-Origin: *\r\n{self._exposed_line}" if origin else ""
        # The answer depends on the origin, which shared caches must know even where this request had none.
        if not origin:
            return "Vary: Origin\r\n"
        return f"Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n{self._exposed_line}"

    def preflight(self, header: Mapping[str, Sequence[str]]) -> Reply | None:
        """The answer to a permitted preflight, which tells what it may ask; None when ``header`` is not that of one."""
        wanted = header.get("access-control-request-method")
        if not wanted:
            return None
        method = wanted[0].strip()
        if method not in self.methods:
            return Reply(403, f"CORS: the method {method!r} is not allowed; 'allowed_methods' lists those that are")
        asked = ",".join(header.get("access-control-request-headers", ()))
        for name in asked.split(","):
            if name.strip() and name.strip().lower() not in self.headers:
                return Reply(
                    403, f"CORS: the header {name.strip()!r} is not allowed; 'allowed_headers' lists those that are"
                )
        lines = (
            f"Access-Control-Allow-Methods: {', '.join(self.methods)}\r\n"
            f"Access-Control-Allow-Headers: {', '.join(self.headers)}\r\n"
            f"Access-Control-Max-Age: {self.max_age}\r\n"
            "Vary: Access-Control-Request-Method, Access-Control-Request-Headers\r\n"
        )
        return Reply(204, headers=lines)
