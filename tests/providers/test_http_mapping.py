"""HTTP requests as arguments of an actor, and its answers as HTTP."""

from __future__ import annotations

import http.client
import io
import json

import pytest

from lattice.contracts.httpserver import HttpResponse
from lattice.errors import Code, GuestError, LatticeError, Overloaded, RemoteError, TooLarge, Unreachable
from providers.httpserver import mapping
from providers.httpserver.replies import Reply


class _Socket:
    def __init__(self, data: bytes) -> None:
        self._data = data

    def makefile(self, *_: object) -> io.BytesIO:
        return io.BytesIO(self._data)


def parsed(data: bytes, method: str = "GET") -> tuple[http.client.HTTPResponse, bytes]:
    """``data`` as Python's own HTTP client reads it."""
    response = http.client.HTTPResponse(_Socket(data), method=method)  # type: ignore[arg-type]
    response.begin()
    return response, response.read()


def test_headers_are_lower_case_lists_of_visible_ascii() -> None:
    raw = [(b"Accept", b"a"), (b"X-One", b"1"), (b"ACCEPT", b"b"), (b"X-Bad", b"caf\xc3\xa9"), (b"X-Tab", b"a\tb")]
    assert mapping.request_headers(raw) == {"accept": ["a", "b"], "x-one": ["1"], "x-tab": ["a\tb"]}
    assert mapping.request_headers([(b"X", b"ok"), (b"x", b"\x01")]) == {"x": ["ok"]}


def test_path_and_query_are_passed_on_as_received() -> None:
    request = mapping.request("GET", "/a%20b/../c?x=%31&y", {}, b"")
    assert (request.path, request.query_string) == ("/a%20b/../c", "x=%31&y")


def test_an_answer_has_its_headers_and_the_length_of_its_body() -> None:
    answer = HttpResponse(
        status_code=201,
        header={"Content-Type": ("text/plain",), "Set-Cookie": ("a=1", "b=2"), "content-length": ("999",)},
        body=b"made",
    )
    response, body = parsed(mapping.answer(answer, method="POST"))
    assert (response.status, response.reason, body) == (201, "Created", b"made")
    assert response.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    assert response.headers.get_all("Content-Length") == ["4"]
    assert response.headers["Date"].endswith("GMT")


def test_headers_that_would_break_the_message_are_left_out() -> None:
    answer = HttpResponse(
        header={
            "X-Split": ("a\r\nX-Evil: 1", "fine"),
            "Bad Name": ("x",),
            "X-Nul\x00": ("x",),
            "Transfer-Encoding": ("chunked",),
            "Connection": ("upgrade",),
        }
    )
    response, _ = parsed(mapping.answer(answer, method="GET"))
    assert response.headers["X-Split"] == "fine"
    assert not {"X-Evil", "Bad Name", "Transfer-Encoding", "Connection"} & set(response.headers)


def test_an_answer_to_head_has_the_length_and_no_body() -> None:
    data = mapping.answer(HttpResponse(body=b"12345"), method="HEAD")
    assert data.endswith(b"\r\n\r\n")
    assert b"Content-Length: 5\r\n" in data
    named = mapping.answer(HttpResponse(header={"Content-Length": ("7",)}), method="HEAD")
    assert b"Content-Length: 7\r\n" in named


@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body_have_neither_body_nor_length(status: int) -> None:
    data = mapping.answer(HttpResponse(status_code=status, body=b"x"), method="GET")
    assert b"Content-Length" not in data
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize("status", [0, 100, 101, 199, 1000, 65535])
def test_a_status_outside_the_legal_range_is_a_500(status: int) -> None:
    response, body = parsed(mapping.answer(HttpResponse(status_code=status), method="GET"))
    assert response.status == 500
    assert str(status) in json.loads(body)["error"]


def test_a_failure_names_reason_and_invocation() -> None:
    data = mapping.reply(Reply(503, "weg: “nö”", invocation="abc", retry_after=2), method="GET")
    response, body = parsed(data)
    assert json.loads(body) == {"error": "weg: “nö”", "invocation": "abc"}
    assert response.headers["Wasmhost-Invocation"] == "abc"
    assert response.headers["Retry-After"] == "2"
    assert response.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (Overloaded("busy", retry_after=1.2), (503, 2)),
        (Overloaded("busy", retry_after=0.01), (503, 1)),
        (RemoteError("busy", code=Code.OVERLOADED), (503, 1)),
        (Unreachable("nobody", code=Code.NO_RESPONDERS), (503, None)),
        (Unreachable("no wire", code=Code.DISCONNECTED), (503, None)),
        (Unreachable("late", code=Code.TIMED_OUT), (504, None)),
        (RemoteError("ran past its deadline", code=Code.TIMED_OUT), (504, None)),
        (TooLarge("request"), (413, None)),
        (RemoteError("above the limit of the actor", code=Code.TOO_LARGE), (413, None)),
        (RemoteError("the answer is too large", code=Code.REPLY_TOO_LARGE), (500, None)),
        (GuestError("oops"), (500, None)),
        (RemoteError("oops"), (500, None)),
    ],
)
def test_failures_have_their_status(error: LatticeError, expected: tuple[int, int | None]) -> None:
    assert mapping.failure_status(error) == expected
