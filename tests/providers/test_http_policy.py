"""What a link's settings do to its requests: cross-origin requests, read-only mode, cache control, header rules."""

from __future__ import annotations

from lattice.contracts.httpserver import HttpResponse
from providers.httpserver.cors import Cors
from providers.httpserver.policy import Policy
from tests.support.listeners import Client, StandIn, served

SHOP = "https://shop.example"


def request(method: str, *headers: str, host: str = "api.example") -> bytes:
    return "\r\n".join([f"{method} / HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def preflight(method: str, headers: str = "", origin: str = SHOP) -> bytes:
    more = [f"Access-Control-Request-Headers: {headers}"] if headers else []
    return request("OPTIONS", f"Origin: {origin}", f"Access-Control-Request-Method: {method}", *more)


async def heads(client: Client, *sent: bytes) -> list[tuple[int, dict[str, list[str]]]]:
    """Status and headers of the answers to ``sent``."""
    found = []
    for data in sent:
        client.send(data)
        lines = (await client.answer(body=not data.startswith(b"HEAD")))[0].decode().split("\r\n")
        headers: dict[str, list[str]] = {}
        for line in lines[1:-2]:
            name, _, value = line.partition(": ")
            headers.setdefault(name.lower(), []).append(value)
        found.append((int(lines[0].split(" ")[1]), headers))
    return found


async def test_any_origin_is_allowed_by_default_and_preflights_do_not_reach_the_actor() -> None:
    async with served() as listening:
        client = await listening.connect()
        [(status, headers), (plain, own), (asked, asking)] = await heads(
            client, preflight("PUT", "Content-Type, accept"), request("GET"), request("GET", f"Origin: {SHOP}")
        )
        assert status == 204
        assert headers["access-control-allow-origin"] == ["*"]
        assert headers["access-control-allow-methods"] == ["GET, POST, PUT, DELETE, HEAD, OPTIONS"]
        assert headers["access-control-allow-headers"] == ["accept, accept-language, content-type, content-language"]
        assert headers["access-control-max-age"] == ["300"]
        assert "content-length" not in headers
        assert (plain, asked) == (200, 200)
        assert not [name for name in own if name.startswith("access-control") or name == "vary"]
        assert asking["access-control-allow-origin"] == ["*"]
        assert [asked.method for asked in listening.actor.requests] == ["GET", "GET"]
        client.close()


async def test_only_listed_origins_are_answered_and_told_so() -> None:
    cors = Cors(origins=frozenset({SHOP}), exposed=("X-Total", "X-Page"), max_age=5)
    async with served(policy=Policy(cors=cors)) as listening:
        client = await listening.connect()
        [allowed, foreign, none, same, checked, strange] = await heads(
            client,
            request("GET", "Origin: HTTPS://Shop.Example"),
            request("POST", "Origin: https://evil.example", "Content-Length: 0"),
            request("GET"),
            request("GET", "Origin: http://api.example:8080", host="api.example:8080"),
            preflight("GET"),
            preflight("GET", origin="null"),
        )
        assert allowed[0] == 200
        assert allowed[1]["access-control-allow-origin"] == ["HTTPS://Shop.Example"]
        assert allowed[1]["access-control-expose-headers"] == ["X-Total, X-Page"]
        assert allowed[1]["vary"] == ["Origin"]
        assert foreign[0] == 403
        assert "access-control-allow-origin" not in foreign[1]
        assert (none[0], none[1]["vary"]) == (200, ["Origin"])
        assert same[0] == 200, "a page's requests to its own origin are not cross-origin"
        assert checked[0] == 204
        assert checked[1]["access-control-allow-origin"] == [SHOP]
        assert checked[1]["access-control-max-age"] == ["5"]
        assert strange[0] == 403
        assert len(listening.actor.requests) == 3
        client.close()


async def test_preflights_for_other_methods_and_headers_are_refused() -> None:
    cors = Cors(methods=("GET",), headers=("x-one",))
    async with served(policy=Policy(cors=cors)) as listening:
        client = await listening.connect()
        answers = await heads(
            client, preflight("PUT"), preflight("GET", "x-two"), preflight("GET", "X-One"), preflight("get")
        )
        assert [status for status, _ in answers] == [403, 403, 204, 403]
        assert not listening.actor.requests
        client.close()


async def test_options_that_are_no_preflight_reach_the_actor() -> None:
    async with served() as listening:
        client = await listening.connect()
        answers = await heads(client, request("OPTIONS"), request("OPTIONS", f"Origin: {SHOP}"))
        assert [status for status, _ in answers] == [200, 200]
        assert len(listening.actor.requests) == 2
        client.close()


async def test_errors_can_be_read_across_origins_too() -> None:
    async with served(StandIn(lambda _: HttpResponse(status_code=1)), policy=Policy(read_only=True)) as listening:
        client = await listening.connect()
        for status, headers in await heads(
            client, request("GET", f"Origin: {SHOP}"), request("DELETE", f"Origin: {SHOP}")
        ):
            assert status in (500, 405)
            assert headers["access-control-allow-origin"] == ["*"]
        client.close()


async def test_the_settings_win_over_cors_headers_of_the_actor() -> None:
    def own(_: object) -> HttpResponse:
        return HttpResponse(header={"access-control-allow-origin": ["https://all"], "Vary": ["Accept"]})

    async with served(StandIn(own), policy=Policy(cors=Cors(origins=frozenset({SHOP})))) as listening:
        client = await listening.connect()
        [(_, headers)] = await heads(client, request("GET", f"Origin: {SHOP}"))
        assert headers["access-control-allow-origin"] == [SHOP]
        assert sorted(headers["vary"]) == ["Accept", "Origin"]
        client.close()


async def test_a_read_only_address_answers_get_and_head_only() -> None:
    async with served(policy=Policy(read_only=True)) as listening:
        client = await listening.connect()
        answers = await heads(
            client,
            request("GET"),
            request("HEAD"),
            request("POST", "Content-Length: 2") + b"ab",
            request("DELETE"),
            request("OPTIONS"),
            preflight("GET"),
        )
        assert [status for status, _ in answers] == [200, 200, 405, 405, 405, 204]
        assert answers[2][1]["allow"] == ["GET, HEAD"]
        assert [asked.method for asked in listening.actor.requests] == ["GET", "HEAD"]
        client.close()


async def test_cache_control_is_added_where_the_actor_states_none() -> None:
    answers = iter(
        [
            HttpResponse(),
            HttpResponse(header={"CACHE-Control": ["no-store"]}),
            HttpResponse(status_code=304),
            HttpResponse(status_code=0),
        ]
    )
    async with served(StandIn(lambda _: next(answers)), policy=Policy(cache_control="max-age=60")) as listening:
        client = await listening.connect()
        found = await heads(client, *[request("GET")] * 4, request("GET", host="").replace(b"Host: \r\n", b""))
        assert [headers.get("cache-control") for _, headers in found] == [
            ["max-age=60"],
            ["no-store"],
            ["max-age=60"],
            None,
            None,
        ], "errors of the platform are not to be kept"
        client.close()


async def test_headers_of_answers_follow_the_contract() -> None:
    def answer(_: object) -> HttpResponse:
        header = {
            "Set-Cookie": ["a=1", "b=2"],
            "x-twice": ["first"],
            "X-Twice": ["second", "third"],
            "bad name": ["x"],
            "": ["x"],
            "X-Bad": ["a\r\nb", "fine", "\x00"],
            "Content-Length": ["99"],
        }
        return HttpResponse(status_code=201, header=header, body=b"body")

    async with served(StandIn(answer)) as listening:
        client = await listening.connect()
        [(status, headers)] = await heads(client, request("GET"))
        assert status == 201
        assert headers["set-cookie"] == ["a=1", "b=2"]
        assert headers["x-twice"] == ["second", "third"], "each name replaces a header of that name"
        assert headers["x-bad"] == ["fine"]
        assert headers["content-length"] == ["4"]
        assert not {"bad name", ""} & set(headers)
        client.close()


async def test_headers_of_requests_follow_the_contract() -> None:
    async with served() as listening:
        client = await listening.connect()
        client.send(
            b"GET /p HTTP/1.1\r\nHost: x\r\nX-Many: 1\r\nx-many: 2, 3\r\nX-MANY:\t4 \r\nX-Mixed: ok\r\n"
            b"X-Mixed: caf\xc3\xa9\r\nX-None: \xff\r\nX-Empty:\r\n\r\n"
        )
        document = await client.document()
        assert document["header"] == {
            "host": ["x"],
            "x-many": ["1", "2, 3", "4"],
            "x-mixed": ["ok"],
            "x-empty": [""],
        }
        client.close()
