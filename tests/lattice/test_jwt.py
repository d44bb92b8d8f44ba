"""Tokens: one header, one spelling, one body."""

from __future__ import annotations

import base64
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import jwt, keys
from lattice.errors import MalformedMessage
from tests.support.strategies import ACCOUNT, CLUSTER, bent

TOKEN = jwt.encode(b'{"iss":"x","n":1}', ACCOUNT)


def segment(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_a_token_comes_back_with_what_was_signed() -> None:
    token = jwt.decode("token", TOKEN)
    assert token.body == {"iss": "x", "n": 1}
    assert token.signing_input == TOKEN.rpartition(".")[0].encode()
    assert keys.verify(ACCOUNT.public, token.signing_input, token.signature)
    assert not keys.verify(CLUSTER.public, token.signing_input, token.signature)


def test_the_header_is_29_fixed_bytes() -> None:
    assert base64.urlsafe_b64decode(jwt.HEADER + "=") == b'{"typ":"jwt","alg":"Ed25519"}'


def test_a_header_with_other_spacing_is_accepted_and_one_with_other_members_is_not() -> None:
    _, body, signature = TOKEN.split(".")
    spaced = segment(b'{ "alg": "Ed25519", "typ": "jwt" }')
    assert jwt.decode("token", f"{spaced}.{body}.{signature}").body["n"] == 1
    for header in (
        b'{"typ":"JWT","alg":"ed25519-nkey"}',
        b'{"typ":"jwt","alg":"EdDSA"}',
        b'{"typ":"jwt","alg":"none"}',
        b'{"typ":"jwt"}',
        b'{"typ":"jwt","alg":"Ed25519","kid":"1"}',
        b'{"typ":"jwt","alg":"none","alg":"Ed25519"}',
        b"[]",
        b"",
    ):
        with pytest.raises(MalformedMessage, match="header"):
            jwt.decode("token", f"{segment(header)}.{body}.{signature}")


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":2}',
        b'{"a":{"b":1,"b":2}}',
        b"[]",
        b'"text"',
        b"{",
        b"",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xff",
        b'{"a":"\xed\xa0\x80"}',
        b'{"a":' + b"[" * 20_000,
        b'{"a":' + b"9" * 5000 + b"}",
    ],
)
def test_a_body_that_two_readers_could_read_differently_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedMessage, match="body"):
        jwt.decode("token", jwt.encode(body, ACCOUNT))


def test_base64_has_one_spelling() -> None:
    head, body, signature = TOKEN.split(".")
    last = signature[-1]
    twin = chr(ord(last) + 1)  # the same bytes for a lenient decoder: only unused bits differ
    assert base64.urlsafe_b64decode(signature[:-1] + twin + "==") == base64.urlsafe_b64decode(signature + "==")
    for bad in (
        f"{head}.{body}.{signature[:-1]}{twin}",
        f"{head}.{body}.{signature}==",
        f"{head}.{body}.{signature}\n",
        f"{head}.{body}.{signature[:4]} {signature[4:]}",
        f"{head}.{body}.{signature[:-1]}+",
        f"{head}.{body}.{signature[:-1]}/",
        f"{head}.{body}.{signature[:-1]}",
        f"{head}.{body}.A",
        f"{head}.{body}.",
        f"{head}.{body}",
        f"{head}.{body}.{signature}.x",
        f"{head}.{body}.ü",
        "",
    ):
        with pytest.raises(MalformedMessage):
            jwt.decode("token", bad)


def test_a_token_above_the_limit_is_refused_unread() -> None:
    with pytest.raises(MalformedMessage, match="larger than 65536"):
        jwt.decode("token", "x" * (jwt.MAX_TOKEN + 1))


@given(st.binary(max_size=100))
def test_segments_come_back(data: bytes) -> None:
    text = jwt.encode_segment(data)
    assert text == segment(data)
    assert jwt.decode_segment("x", text.encode()) == data


@given(st.binary(max_size=12))
def test_a_segment_that_is_accepted_is_the_only_spelling_of_its_content(text: bytes) -> None:
    with suppress(MalformedMessage):
        assert jwt.encode_segment(jwt.decode_segment("x", text)).encode() == text


@given(st.text(max_size=100) | bent(st.just(TOKEN.encode())).map(lambda data: data.decode("latin-1")))
def test_garbage_is_malformed_and_nothing_worse(text: str) -> None:
    with suppress(MalformedMessage):
        token = jwt.decode("token", text)
        assert text == TOKEN or not keys.verify(ACCOUNT.public, token.signing_input, token.signature)
