"""Which actor answers a request: a table of (host, path prefix) pairs for one listening address."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from lattice.errors import Code, LatticeError
from providers.httpserver.policy import Policy


class RouteClash(LatticeError):
    """Two links of one address ask for the same host and path prefix."""

    code = Code.CONFLICT


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """What one link contributes to its address."""

    actor: str
    host: str = ""
    """Lower case and without port; empty answers every host."""
    path_prefix: str = ""
    """Without a slash at its end; empty answers every path."""
    policy: Policy = field(default_factory=Policy)

    def __str__(self) -> str:
        host = f"host {self.host!r} with " if self.host else ""
        return f"{host}path prefix {self.path_prefix or '/'!r}"


def normal_prefix(text: str) -> str:
    """``/api/`` and ``/api`` mean the same; ``/`` and nothing mean every path. ValueError if it lacks its slash."""
    prefix = text.strip().rstrip("/")
    if prefix and not prefix.startswith("/"):
        raise ValueError(f"{text!r} does not start with '/'")
    if any(c in prefix for c in "?# "):
        raise ValueError(f"{text!r} holds more than a path")
    return prefix


def normal_host(text: str) -> str:
    """The host of a ``Host`` header or link value: lower case, without port and without a final dot."""
    host = text.strip().lower()
    host = host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
    return host.removesuffix(".")


def authority(target: str) -> str:
    """The host, with its port, that a request target in absolute form names; empty for other forms."""
    if target.startswith("/") or "://" not in target:
        return ""
    return re.split("[/?#]", target.partition("://")[2], maxsplit=1)[0].rpartition("@")[2]


def split_target(target: str) -> tuple[str, str]:
    """Path and query of a request target; an absolute form (as sent to proxies) loses scheme and authority."""
    if not target.startswith("/") and "://" in target:
        rest = target.partition("://")[2]
        at = min((found for found in (rest.find("/"), rest.find("?")) if found >= 0), default=len(rest))
        target = rest[at:]
    path, _, query = target.partition("?")
    return path or "/", query


class RouteTable:
    """An immutable snapshot; ``with_route`` and ``without`` give new ones.

    A route that names the request's host comes before one for every host; among those, the longest prefix wins. A
    prefix matches whole segments: ``/api`` answers ``/api`` and ``/api/x``, not ``/apis``.
    """

    __slots__ = ("_any", "_by_host", "_only", "_routes")

    def __init__(self, routes: tuple[Route, ...] = ()) -> None:
        self._routes = routes
        longest_first = sorted(routes, key=lambda route: len(route.path_prefix), reverse=True)
        self._any = tuple(route for route in longest_first if not route.host)
        self._by_host = {
            host: tuple(route for route in longest_first if route.host == host)
            for host in {route.host for route in routes if route.host}
        }
        # The usual table, one actor for everything, is answered without looking at the request.
        self._only = routes[0] if len(routes) == 1 and not routes[0].host and not routes[0].path_prefix else None

    def __iter__(self) -> Iterator[Route]:
        return iter(self._routes)

    def __len__(self) -> int:
        return len(self._routes)

    def with_route(self, route: Route) -> RouteTable:
        """Add ``route`` in place of the same actor's old one. Raises RouteClash."""
        others = tuple(other for other in self._routes if other.actor != route.actor)
        for other in others:
            if (other.host, other.path_prefix) == (route.host, route.path_prefix):
                raise RouteClash(
                    f"{route} already leads to {other.actor}; "
                    "give one of the two links another 'path_prefix', 'host' or 'address'"
                )
        return RouteTable((*others, route))

    def without(self, actor: str) -> RouteTable:
        return RouteTable(tuple(route for route in self._routes if route.actor != actor))

    def match(self, host: str, target: str) -> Route | None:
        """The route for a ``Host`` header and a request target, both as received."""
        if self._only is not None:
            return self._only
        path, _ = split_target(target)
        if self._by_host:
            found = _first(self._by_host.get(normal_host(host), ()), path)
            if found is not None:
                return found
        return _first(self._any, path)


def _first(longest_first: tuple[Route, ...], path: str) -> Route | None:
    for route in longest_first:
        prefix = route.path_prefix
        if path.startswith(prefix) and (len(path) == len(prefix) or not prefix or path[len(prefix)] == "/"):
            return route
    return None
