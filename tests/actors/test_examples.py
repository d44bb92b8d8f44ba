"""What the signed example actors answer."""

from __future__ import annotations

import base64
import json
import re

import msgpack
import pytest

from actors.sign import EXAMPLES
from lattice.contracts.httpserver import HANDLE_REQUEST, HttpRequest, HttpResponse
from lattice.errors import GuestError
from tests.actors.conftest import Actor, Start

ECHO, KVCOUNTER = (example.signed for example in EXAMPLES)


@pytest.fixture
async def echo(start: Start) -> Actor:
    return await start(ECHO.read_bytes())


@pytest.fixture
async def kvcounter(start: Start) -> Actor:
    return await start(KVCOUNTER.read_bytes())


async def ask(actor: Actor, request: HttpRequest, *replies: bytes | str) -> HttpResponse:
    return HttpResponse.decode(await actor.call(HANDLE_REQUEST, request.encode(), *replies))


@pytest.mark.parametrize(
    "body", [b"", b"hello world", "h\u00e9llo \u4e2d \U0001f600".encode(), bytes(range(128)), b'"\\/\n']
)
async def test_echo_answers_the_request_as_json(echo: Actor, body: bytes) -> None:
    request = HttpRequest(
        method="POST", path="/some/\u00e9 path", query_string="a=1&b=%20", header={"host": ["x"]}, body=body
    )
    response = await ask(echo, request)
    assert response.status_code == 200
    assert response.header == {"content-type": ("application/json",)} or dict(response.header) == {
        "content-type": ["application/json"]
    }
    assert json.loads(response.body) == {
        "method": "POST",
        "path": "/some/\u00e9 path",
        "queryString": "a=1&b=%20",
        "body": body.decode(),
    }


@pytest.mark.parametrize("body", [b"\xff", b"\xff\x00", b"a\x80c", bytes(range(256)), b"\xc3", b"\xed\xa0\x80"])
async def test_echo_answers_base64_when_the_body_is_not_text(echo: Actor, body: bytes) -> None:
    answer = json.loads((await ask(echo, HttpRequest(method="PUT", body=body))).body)
    assert base64.b64decode(answer["body"], validate=True) == body
    assert answer["bodyEncoding"] == "base64"


async def test_echo_answers_a_large_body(echo: Actor) -> None:
    body = b"0123456789abcdef" * 50_000
    assert json.loads((await ask(echo, HttpRequest(body=body))).body)["body"].encode() == body


@pytest.mark.parametrize(
    "request_bytes",
    [
        bytes.fromhex("95a3474554a22f78a3713d3180c403616263"),
        msgpack.packb({"method": b"GET", "path": "/x", "queryString": "q=1", "header": {}, "body": "abc"}),
        msgpack.packb({"method": "GET", "path": "/x", "queryString": "q=1", "header": None, "body": [97, 98, 99]}),
        msgpack.packb(
            {"method": "GET", "path": "/x", "queryString": "q=1", "body": b"abc", "more": [{"x": 1.5}, None]}
        ),
    ],
    ids=["as an array", "text and bytes exchanged", "numbers for bytes", "no header and an unknown member"],
)
async def test_the_forms_in_which_peers_send_requests_are_understood(echo: Actor, request_bytes: bytes) -> None:
    response = HttpResponse.decode(await echo.call(HANDLE_REQUEST, request_bytes))
    assert json.loads(response.body) == {"method": "GET", "path": "/x", "queryString": "q=1", "body": "abc"}


@pytest.mark.parametrize(
    ("path", "query", "key", "amount"),
    [
        ("/", "", "counter::", 1),
        ("/counter1/x", "", "counter::counter1:x", 1),
        ("/c", "amount=300", "counter::c", 300),
        ("/c", "amount=-40", "counter::c", -40),
        ("/c", "amount=0", "counter::c", 0),
        ("/c", "x=2&amount=5", "counter::c", 5),
        ("/c", "amount=2147483647", "counter::c", 2147483647),
        ("/c", "amount=2147483648", "counter::c", 1),
        ("/c", "amount=many", "counter::c", 1),
        ("/c", "amount=1.5", "counter::c", 1),
        ("/c", "amount=", "counter::c", 1),
        ("/c", "amount", "counter::c", 1),
        ("/c", "amounts=7", "counter::c", 1),
    ],
)
async def test_kvcounter_counts_under_the_path_by_the_amount(
    kvcounter: Actor, path: str, query: str, key: str, amount: int
) -> None:
    response = await ask(kvcounter, HttpRequest(path=path, query_string=query), msgpack.packb(7))
    assert (response.status_code, response.body) == (200, b'{"counter":7}')
    (call,) = kvcounter.asked
    assert (call.binding, call.namespace, call.operation) == ("default", "wasmcloud:keyvalue", "KeyValue.Increment")
    assert call.payload == msgpack.packb({"key": key, "value": amount})


@pytest.mark.parametrize("counter", [0, -1, 127, 128, -129, 70_000, 2**31 - 1, -(2**31)])
async def test_kvcounter_writes_any_counter(kvcounter: Actor, counter: int) -> None:
    response = await ask(kvcounter, HttpRequest(), msgpack.packb(counter))
    assert response.body == b'{"counter":%d}' % counter


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        ('no "provider" answers\n', 'no "provider" answers\n'),
        ("", ""),
        (b"", "the message is empty"),
        (msgpack.packb(2**31), "does not fit"),
        (msgpack.packb("7"), "invalid type: text, expected an integer"),
    ],
)
async def test_kvcounter_answers_500_naming_contract_link_and_reason(
    kvcounter: Actor, reply: bytes | str, says: str
) -> None:
    response = await ask(kvcounter, HttpRequest(), reply)
    assert response.status_code == 500
    answer = json.loads(response.body)
    assert list(answer) == ["error"]
    assert answer["error"].startswith("KeyValue.Increment (wasmcloud:keyvalue, link default): ")
    assert answer["error"].endswith(says)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
async def test_every_example_answers_its_health_and_refuses_the_unknown(start: Start, example: object) -> None:
    actor = await start(example.signed.read_bytes())  # type: ignore[attr-defined]
    assert actor.pool is not None
    assert actor.pool.api_version == 1
    for argument in (b"\x80", b"", b"\xc0", b"\x90"):
        assert await actor.call("Actor.HealthRequest", argument) == b"\x81\xa7healthy\xc3"
    for operation, cause in {
        "Foo.Bar": "method not handled Foo.Bar - unknown method",
        "HealthRequest": "method not handled _.HealthRequest - unknown method",
        "": "method not handled _. - unknown method",
        "HttpServer.Nope": "method not handled HttpServer::Nope",
        "a.HttpServer.HandleRequest": "method not handled a.HttpServer.HandleRequest - unknown method",
    }.items():
        with pytest.raises(GuestError, match=f"^{re.escape(f'Guest call failed for method {operation}: {cause}')}$"):
            await actor.call(operation, b"\x80")


@pytest.mark.parametrize(
    ("request_bytes", "says"),
    [
        (b"", "the message is empty"),
        (b"\xc0", "invalid type: nil, expected a map"),
        (b"\xff\xff", "invalid type: an integer, expected a map"),
        (b"\xc1\x80", "wrong msgpack marker Reserved"),
        (b"\xdf\xff\xff\xff\xff", "ends too early"),
        (msgpack.packb({"method": 7}), "method: invalid type: an integer, expected text"),
        (msgpack.packb({"body": [256]}), "body: invalid value"),
        (msgpack.packb({"path": b"\xff"}), "path: text is not UTF-8"),
    ],
)
async def test_a_request_that_is_none_is_refused_and_harms_nothing(
    echo: Actor, request_bytes: bytes, says: str
) -> None:
    with pytest.raises(GuestError, match=re.escape(says)) as caught:
        await echo.call(HANDLE_REQUEST, request_bytes)
    assert str(caught.value).startswith("Guest call failed for method HttpServer.HandleRequest: deserialization: ")
    assert (await ask(echo, HttpRequest())).status_code == 200
