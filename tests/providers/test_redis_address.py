"""Addresses of Redis servers: what is accepted, and what is never repeated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.keyvalue.redis.address import DEFAULT_URL, Address

SECRET = "hunter2"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (DEFAULT_URL, Address()),
        ("redis://127.0.0.1", Address()),
        (" redis://db.example:7000/3 ", Address("db.example", 7000, database=3)),
        ("redis://:p%40ss%2F@[::1]:7000", Address("::1", 7000, password="p@ss/")),
        ("redis://user:hunter2@db/0", Address("db", username="user", password="hunter2")),
        ("redis://db?db=2", Address("db", database=2)),
        ("rediss://db:6380", Address("db", 6380, tls=True)),
        ("rediss://db:6380/#insecure", Address("db", 6380, tls=True, verified=False)),
        ("unix:///run/redis.sock", Address(path="/run/redis.sock")),
        ("redis+unix:///run/redis.sock?db=4", Address(path="/run/redis.sock", database=4)),
    ],
)
def test_the_forms_of_the_classic_client_are_read(url: str, expected: Address) -> None:
    assert Address.parse(url) == expected


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "begins with none of"),
        ("127.0.0.1:6379", "begins with none of"),
        ("http://db/", "begins with none of"),
        ("redis://", "names no host"),
        ("redis:///3", "names no host"),
        ("redis://db/one", "not the number of a database"),
        ("redis://db:port/", "malformed"),
        ("redis://:hunter2/@db/", "malformed"),
        ("redis://:a#hunter2@db/", "malformed|'#'"),
        ("redis://db/#hunter2", "'#'"),
        ("redis://db/#insecure", "rediss"),
        ("redis://db/?hunter2=hunter2", "unknown option"),
        ("unix://", "names no socket"),
    ],
)
def test_others_are_refused_without_being_repeated(url: str, told: str) -> None:
    with pytest.raises(ValueError, match=told) as caught:
        Address.parse(url)
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text(), st.sampled_from(["", "redis://", "rediss://:", "redis://:", "unix:///"]))
def test_any_text_is_an_address_or_a_refusal(text: str, scheme: str) -> None:
    try:
        address = Address.parse(scheme + text)
    except ValueError:
        return
    assert address.host or address.path


def test_no_text_form_holds_the_password_or_the_user() -> None:
    address = Address.parse(f"redis://{SECRET}:{SECRET}@db:7000/1")
    assert str(address) == "db:7000"
    assert SECRET not in repr(address)
    assert SECRET not in repr(address.connection())
