"""The settings of an HTTP link: documents and single keys, their order, and what is said about bad ones."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from providers.httpserver.cors import Cors
from providers.httpserver.policy import Policy
from providers.httpserver.settings import HttpLink, InvalidLinkValues, read_link
from providers.httpserver.tls import TlsFiles


def b64(document: object, *, padded: bool = True) -> str:
    text = base64.b64encode(json.dumps(document).encode()).decode()
    return text if padded else text.rstrip("=")


def problem(**values: str) -> str:
    with pytest.raises(InvalidLinkValues) as caught:
        read_link(values)
    return str(caught.value)


def test_no_values_give_the_classic_defaults() -> None:
    assert read_link({}) == HttpLink(
        address=("127.0.0.1", 8000),
        policy=Policy(
            timeout=None,
            max_content=100 * 1024 * 1024,
            read_only=False,
            cache_control="",
            cors=Cors(
                origins=frozenset(),
                methods=("GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"),
                headers=("accept", "accept-language", "content-type", "content-language"),
                exposed=(),
                max_age=300,
            ),
        ),
    )


def test_every_setting_is_read_from_a_document_and_as_a_link_value(tmp_path: Path) -> None:
    certificate, key = tmp_path / "a.pem", tmp_path / "a.key"
    certificate.touch()
    key.touch()
    document = {
        "address": "[::1]:8443",
        "host": "Shop.Example",
        "path_prefix": "/api/",
        "tls": {"cert_file": str(certificate), "priv_key_file": str(key)},
        "cors": {
            "allowed_origins": ["HTTPS://Shop.example:443/", "http://localhost:3000"],
            "allowed_methods": ["get", "PATCH"],
            "allowed_headers": ["X-One"],
            "exposed_headers": ["X-Two", "X-Three"],
            "max_age_secs": 60,
        },
        "log": {"log_level": "debug"},
        "timeout_ms": 1500,
        "max_content_len": "2k",
        "cache_control": "max-age=60, public",
        "readonly_mode": True,
    }
    expected = HttpLink(
        address=("::1", 8443),
        tls=TlsFiles(certificate=str(certificate), key=str(key)),
        host="shop.example",
        path_prefix="/api",
        policy=Policy(
            timeout=1.5,
            max_content=2048,
            read_only=True,
            cache_control="max-age=60, public",
            cors=Cors(
                origins=frozenset({"https://shop.example", "http://localhost:3000"}),
                methods=("GET", "PATCH"),
                headers=("x-one",),
                exposed=("X-Two", "X-Three"),
                max_age=60,
            ),
        ),
    )
    assert read_link({"config_json": json.dumps(document)}) == expected
    flat: dict[str, str] = {}
    for name, value in document.items():
        for member, inner in value.items() if isinstance(value, dict) else [(name, value)]:
            if member != "log_level":
                flat[member.upper()] = (
                    ",".join(inner) if isinstance(inner, list) else str(inner).replace("True", "true")
                )
    assert read_link(flat) == expected


def test_documents_and_keys_are_applied_in_order_and_later_ones_win(tmp_path: Path) -> None:
    file = tmp_path / "http.json"
    values = {"PORT": "5", "Address": "127.0.0.1:4", "config_json": '{"address": "127.0.0.1:3", "timeout_ms": 3}'}
    values["config_b64"] = b64({"address": "127.0.0.1:2", "timeout_ms": 2, "cache_control": "b"})
    values["config_file"] = str(file)
    file.write_text(
        json.dumps({"address": "127.0.0.1:1", "timeout_ms": 1, "cache_control": "a", "max_content_len": "1"})
    )
    ports = []
    for gone in ("PORT", "Address", "config_json", "config_b64", "config_file"):
        ports.append(read_link(values).address[1])
        del values[gone]
    assert ports == [5, 4, 3, 2, 1]
    assert read_link(values).address[1] == 8000


def test_members_of_several_documents_are_merged(tmp_path: Path) -> None:
    link = read_link(
        {
            "config_b64": b64({"cors": {"allowed_origins": ["http://a"], "max_age_secs": 1}, "timeout_ms": 7}),
            "config_json": '{"cors": {"max_age_secs": 2}, "timeout_ms": null}',
            "max_age_secs": "3",
        }
    )
    assert link.policy.cors.origins == {"http://a"}
    assert link.policy.cors.max_age == 3
    assert link.policy.timeout == 0.007


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("padding", ["", " ", "  "])
def test_base64_is_taken_with_and_without_padding(padded: bool, padding: str) -> None:
    text = base64.b64encode(b'{"address": "127.0.0.1:81"}' + padding.encode()).decode()
    assert read_link({"config_b64": text if padded else text.rstrip("=")}).address == ("127.0.0.1", 81)


def test_a_settings_file_may_be_toml(tmp_path: Path) -> None:
    file = tmp_path / "http.TOML"
    file.write_text('address = "127.0.0.1:82"\n[cors]\nallowed_origins = ["https://a.example"]\n')
    link = read_link({"config_file": str(file)})
    assert (link.address[1], link.policy.cors.origins) == (82, {"https://a.example"})


@pytest.mark.parametrize(("text", "size"), [("1", 1), ("10k", 10240), (" 5 M ", 5 << 20), ("1G", 1 << 30), (7, 7)])
def test_sizes_have_units(text: Any, size: int) -> None:
    assert read_link({"config_json": json.dumps({"max_content_len": text})}).policy.max_content == size


def test_unknown_settings_are_ignored_and_named() -> None:
    link = read_link({"colour": "blue", "config_json": '{"http2": true, "tls": {"ca": "x"}, "log": {"log_level": 1}}'})
    assert link.unknown == ("config_json: http2", "config_json: tls.ca", "colour")


def test_keys_that_differ_only_in_case_are_refused() -> None:
    assert problem(port="1", Port="2") == "invalid parameter: 'port' and 'Port' differ only in case; keep one of them"
    assert "config_json: tls.'a' and 'A' differ" in problem(config_json='{"tls": {"a": 1, "A": 2}}')


BAD = {
    "port": ("0", "http", "70000"),
    "host": ("http://shop.example", "a b", "*.example"),
    "path_prefix": ("api", "/a?b"),
    "timeout_ms": ("soon", "0", "-1", "1.5", "99999999999"),
    "max_content_len": ("big", "0", "2G", "1T", "-1"),
    "readonly_mode": ("yes", "1"),
    "cache_control": ("a\r\nb", "é"),
    "allowed_origins": ("*", "shop.example", "ftp://a", "http://a/path", "http://u@a", "http://a:x"),
    "allowed_methods": ("GE T", "GET,(,"),
    "allowed_headers": ("a:b",),
    "exposed_headers": ("a b",),
    "max_age_secs": ("soon", "-5"),
    "config_json": ("{", "[1]", "7"),
    "config_b64": ("§", "A", b64([1])),
    "config_file": ("/nowhere/settings.json", "settings.yaml", "relative.json", "\0.json"),
}


@pytest.mark.parametrize(("key", "value"), [(key, value) for key, values in BAD.items() for value in values])
def test_a_bad_value_is_answered_with_its_key_itself_and_an_example(key: str, value: str) -> None:
    text = problem(**{key: value})
    assert text.startswith(f"invalid parameter: {key}: ")
    assert "(example: " in text
    if key not in ("config_json", "config_b64", "max_age_secs", "timeout_ms", "port"):
        assert repr(value.split(",")[-2] if "," in value else value)[1:-1] in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"tls": "on"}, "config_json: tls: 'on' is not a table of settings (example: "),
        ({"timeout_ms": True}, "config_json: timeout_ms: true is not a number of milliseconds (example: 2000)"),
        ({"cors": {"allowed_methods": "G T"}}, "config_json: cors.allowed_methods: 'G T' is not the name of a method"),
        ({"cors": {"allowed_origins": [1]}}, "config_json: cors.allowed_origins: [1] is not a list of texts"),
        ({"address": "x"}, "config_json: invalid address: 'x' is not IP:PORT (example: 127.0.0.1:8080)"),
        ({"readonly_mode": 1}, "config_json: readonly_mode: 1 is neither true nor false (example: true)"),
    ],
)
def test_problems_in_documents_name_their_place(document: object, text: str) -> None:
    assert text in problem(config_json=json.dumps(document))


def test_every_problem_is_told_at_once() -> None:
    text = problem(address="here", timeout_ms="soon", config_json='{"max_content_len": "x"}', cert_file="/no/cert")
    for part in ("invalid address: 'here'", "timeout_ms: 'soon'", "config_json: max_content_len: 'x'", "'/no/cert'"):
        assert part in text


def test_an_overridden_value_must_make_sense_too() -> None:
    assert "config_json: invalid address" in problem(config_json='{"address": "x"}', address="127.0.0.1:80")


def test_certificate_and_key_come_together_and_exist(tmp_path: Path) -> None:
    here = tmp_path / "here.pem"
    here.touch()
    assert problem(cert_file=str(here)) == (
        f"invalid parameter: priv_key_file: not given, and cert_file is '{here}': TLS needs both cert_file and "
        "priv_key_file (example: /etc/ssl/server.key)"
    )
    assert "cert_file: not given, and config_json: tls.priv_key_file is" in problem(
        config_json=json.dumps({"tls": {"priv_key_file": str(here)}})
    )
    text = problem(cert_file=str(here), priv_key_file=str(tmp_path / "gone.key"))
    assert f"priv_key_file: '{tmp_path}/gone.key': no such file or directory (example: /etc/ssl/server.key)" in text
    assert "not a file" in problem(cert_file=str(tmp_path), priv_key_file=str(here))
    assert f"give the absolute path, it is looked up from {os.getcwd()}" in problem(
        cert_file="server.pem", priv_key_file=str(here)
    )


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo, lambda path: path.write_bytes(b" " * 2**21)])
def test_a_settings_file_is_a_file_of_sensible_size(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path = tmp_path / "x.json"
    make(path)
    assert problem(config_file=str(path)).startswith(f"invalid parameter: config_file: '{path}'")


@given(st.dictionaries(st.sampled_from([*BAD, "address", "cert_file", "other"]), st.text(max_size=12), max_size=6))
def test_no_link_values_give_more_than_a_reason(values: dict[str, str]) -> None:
    try:
        read_link(values)
    except InvalidLinkValues as error:
        assert str(error).startswith("invalid parameter: ")


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["address", "tls", "cors", "cert_file", "max_age_secs", "Port"]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(_JSON)
def test_no_document_gives_more_than_a_reason(document: object) -> None:
    try:
        read_link({"config_json": json.dumps(document)})
    except InvalidLinkValues as error:
        assert str(error).startswith("invalid parameter: ")
