"""Routes and link values of the HTTP server."""

from __future__ import annotations

import pytest

from providers.httpserver.routes import Route, RouteClash, RouteTable, normal_host, normal_prefix, split_target
from providers.httpserver.settings import InvalidLinkValues, format_address, parse_address, read_link


def table(*routes: tuple[str, str, str]) -> RouteTable:
    built = RouteTable()
    for actor, host, prefix in routes:
        built = built.with_route(Route(actor=actor, host=host, path_prefix=normal_prefix(prefix)))
    return built


def actor_for(routes: RouteTable, host: str, target: str) -> str | None:
    found = routes.match(host, target)
    return found.actor if found else None


def test_the_longest_prefix_wins() -> None:
    routes = table(("root", "", "/"), ("api", "", "/api"), ("v2", "", "/api/v2/"))
    assert actor_for(routes, "x", "/") == "root"
    assert actor_for(routes, "x", "/api") == "api"
    assert actor_for(routes, "x", "/api?a=/api/v2") == "api"
    assert actor_for(routes, "x", "/api/v2/things?x=1") == "v2"
    assert actor_for(routes, "x", "/apis") == "root"


def test_a_named_host_comes_before_every_host() -> None:
    routes = table(("any", "", "/api/long"), ("shop", "shop.example", "/"), ("api", "shop.example", "/api"))
    assert actor_for(routes, "Shop.Example:8080", "/api/long") == "api"
    assert actor_for(routes, "shop.example.", "/") == "shop"
    assert actor_for(routes, "other", "/api/long") == "any"
    assert actor_for(routes, "other", "/") is None


def test_a_named_host_without_the_path_falls_back_to_every_host() -> None:
    routes = table(("any", "", "/"), ("api", "shop.example", "/api"))
    assert actor_for(routes, "shop.example", "/else") == "any"


def test_an_identical_pair_is_a_clash_that_names_the_other_actor() -> None:
    routes = table(("M1", "", "/api"))
    with pytest.raises(RouteClash, match="path prefix '/api' already leads to M1"):
        routes.with_route(Route(actor="M2", path_prefix="/api"))
    assert len(routes) == 1


def test_an_actor_replaces_its_own_route() -> None:
    routes = table(("M1", "", "/api"), ("M1", "", "/new"))
    assert [route.path_prefix for route in routes] == ["/new"]
    assert len(routes.without("M1")) == 0


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/a/b?x=1", ("/a/b", "x=1")),
        ("/a%2Fb?x=1?y", ("/a%2Fb", "x=1?y")),
        ("/", ("/", "")),
        ("http://host:80/a?b", ("/a", "b")),
        ("http://host", ("/", "")),
        ("http://host?q=/x", ("/", "q=/x")),
        ("/go?to=http://else/", ("/go", "to=http://else/")),
        ("*", ("*", "")),
    ],
)
def test_targets_are_split_and_not_decoded(target: str, expected: tuple[str, str]) -> None:
    assert split_target(target) == expected


def test_hosts_are_compared_without_case_port_and_final_dot() -> None:
    assert normal_host("Example.ORG:8080") == "example.org"
    assert normal_host("[::1]:8080") == "[::1]"
    assert normal_host("example.org.") == "example.org"


def test_link_values_have_the_classic_defaults_and_precedence() -> None:
    assert read_link({}).address == ("127.0.0.1", 8000)
    assert read_link({"Port": "8081"}).address == ("127.0.0.1", 8081)
    assert read_link({"port": "1", "ADDRESS": "0.0.0.0:80"}).address == ("127.0.0.1", 1)
    assert read_link({"address": "localhost:80"}).address == ("127.0.0.1", 80)
    link = read_link({"host": "Shop.Example", "path_prefix": "/api/", "timeout_ms": "1500", "cors": "x"})
    assert (link.host, link.path_prefix, link.policy.timeout, link.unknown) == ("shop.example", "/api", 1.5, ("cors",))


def test_every_problem_of_a_link_is_told_at_once() -> None:
    with pytest.raises(InvalidLinkValues) as caught:
        read_link({"address": "here", "path_prefix": "api", "timeout_ms": "soon"})
    for part in ("invalid parameter: invalid address: 'here'", "path_prefix: 'api'", "timeout_ms: 'soon'"):
        assert part in str(caught.value)
    with pytest.raises(InvalidLinkValues, match="differ only in case"):
        read_link({"port": "1", "PORT": "2"})


@pytest.mark.parametrize("text", ["::1:80", "1.2.3.4", "1.2.3.4:0", "1.2.3.4:70000", ":80", "1.2.3:80", "a b:80"])
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


def test_v6_addresses_keep_their_brackets() -> None:
    assert parse_address("[::1]:8080") == ("::1", 8080)
    assert format_address(("::1", 8080)) == "[::1]:8080"
    assert format_address(("127.0.0.1", 8080)) == "127.0.0.1:8080"
