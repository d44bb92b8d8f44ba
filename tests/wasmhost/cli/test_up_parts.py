"""The parts of `up`: images, addresses, what an earlier run put."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from typing import Any

import pytest

from lattice import claims, wasmfile
from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.signing import sign_actor
from tests.support import archives
from tests.support.actors import ACCOUNT
from tests.support.processes import ROOT
from wasmhost.apps import manifest
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.problems import Problem
from wasmhost.cli.up.addresses import Address
from wasmhost.cli.up.history import History
from wasmhost.cli.up.images import PreparedApplication, prepare
from wasmhost.state import Keyring, StatePaths

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"


def link(**values: str) -> LinkDefinition:
    return LinkDefinition(actor_id="M", provider_id="V", contract_id="wasmcloud:httpserver", values=values)


@pytest.mark.parametrize(
    ("values", "url"),
    [
        ({"address": "127.0.0.1:8080"}, "http://127.0.0.1:8080/"),
        ({"address": "0.0.0.0:8080"}, "http://127.0.0.1:8080/"),
        ({"address": "[::]:8080"}, "http://[::1]:8080/"),
        ({"port": "9000"}, "http://127.0.0.1:9000/"),
        ({"address": "127.0.0.1:80", "path_prefix": "/api"}, "http://127.0.0.1:80/api"),
        ({"address": "127.0.0.1:80", "host": "shop.test"}, "http://shop.test:80/"),
        ({"address": "127.0.0.1:443", "cert_file": "/a", "priv_key_file": "/b"}, "https://127.0.0.1:443/"),
        ({"config_json": '{"address": "127.0.0.1:81"}', "PORT": "82"}, "http://127.0.0.1:82/"),
    ],
)
def test_the_url_of_a_link_is_one_that_can_be_asked_from_here(values: dict[str, str], url: str) -> None:
    address = Address.of(link(**values))
    assert address is not None
    assert address.url == url


@pytest.mark.parametrize("values", [{}, {"address": "nonsense"}, {"address": "a:b"}, {"port": "many"}])
def test_values_that_say_no_address_give_no_url(values: dict[str, str]) -> None:
    assert Address.of(link(**values)) is None


@pytest.mark.parametrize(
    ("answer", "answers"),
    [(b"HTTP/1.1 413 Too Large\r\n\r\n", True), (b"HTTP/1.1 404 Not Found\r\n\r\n", False), (b"SSH-2.0\r\n", False)],
)
async def test_an_address_answers_when_http_with_a_route_is_there(answer: bytes, answers: bool) -> None:
    seen: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert await Address("127.0.0.1", port, virtual_host="shop.test").answers() is answers
    assert b"Host: shop.test" in seen[0]
    assert await Address("127.0.0.1", port).wait_answers(0.1) is False


def test_what_was_put_is_remembered_per_lattice(tmp_path: Path) -> None:
    path = tmp_path / "applied.json"
    one, other = History(path, place="embedded one"), History(path, place="embedded other")
    assert one.links() == frozenset()
    one.note([("M1", "a:b", "default")])
    other.note([("M2", "a:b", "default"), ("M3", "a:b", "second")])
    assert one.links() == {("M1", "a:b", "default")}
    assert len(other.links()) == 2


@pytest.mark.parametrize("content", ["", "[]", "{", '{"here": 1}', '{"here": [["a"], 5, ["a", "b", 3]]}'])
def test_a_damaged_memory_counts_as_empty(tmp_path: Path, content: str) -> None:
    path = tmp_path / "applied.json"
    path.write_text(content)
    history = History(path, place="here")
    assert history.links() == frozenset()
    history.note([("M1", "a:b", "default")])
    assert history.links() == {("M1", "a:b", "default")}


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    return Keyring(StatePaths(host=tmp_path / "host", shared=tmp_path / "shared", cache=tmp_path / "cache"))


def prepared(
    tmp_path: Path,
    keyring: Keyring,
    image: str = "echo.wasm",
    provider: str = "bundled:httpserver",
    contract: str = "wasmcloud:httpserver",
) -> PreparedApplication:
    path = tmp_path / "app.yaml"
    text = (ROOT / "manifests" / "echo.yaml").read_text().replace("../actors/echo/echo_s.wasm", image)
    path.write_text(
        text.replace("bundled:httpserver", provider).replace("contract: wasmcloud:httpserver", f"contract: {contract}")
    )
    return prepare(manifest.load_all([path]), keyring=keyring, folder=tmp_path / "signed")[0]


def test_an_unsigned_file_is_signed_once_and_for_all_with_the_development_key(tmp_path: Path, keyring: Keyring) -> None:
    unsigned = wasmfile.strip(ECHO.read_bytes())
    (tmp_path / "echo.wasm").write_bytes(unsigned)
    first = prepared(tmp_path, keyring).actors[0]
    (tmp_path / "echo.wasm").write_bytes(unsigned + b"\0\x03\x01x\0")
    second = prepared(tmp_path, keyring).actors[0]
    assert first.signed_here
    assert first.claims.issuer == keyring.account().public
    assert first.claims.subject == second.claims.subject, "a rebuilt file is the same actor"
    assert first.claims.hash != second.claims.hash
    assert {"wasmcloud:httpserver", "wasmcloud:builtin:logging"} <= set(first.claims.capabilities)
    copy = Path(first.reference.removeprefix("file://"))
    assert claims.read_actor(copy.read_bytes()) == second.claims
    assert stat.S_IMODE(copy.parent.stat().st_mode) == 0o700
    assert (tmp_path / "echo.wasm").read_bytes().endswith(b"x\0"), "the user's file is left alone"


def test_a_signed_file_is_used_as_it_is(tmp_path: Path, keyring: Keyring) -> None:
    actor = prepared(tmp_path, keyring, str(ECHO)).actors[0]
    assert not actor.signed_here
    assert actor.reference == f"file://{ECHO}"


@pytest.mark.parametrize(
    ("image", "words"),
    [
        ("missing.wasm", "there is no file"),
        ("bundled:keyvalue", "is a provider"),
        ("ghcr.io/x/y:1", "registry"),
        (".", "registry"),
        ("./", "cannot be read"),
    ],
)
def test_an_image_that_cannot_be_had_is_told_with_its_place_in_the_manifest(
    tmp_path: Path, keyring: Keyring, image: str, words: str
) -> None:
    with pytest.raises(Problem, match=words) as caught:
        prepared(tmp_path, keyring, image)
    assert caught.value.exit_code is ExitCode.USAGE
    assert "app.yaml:" in str(caught.value)


def test_a_provider_is_checked_before_anything_starts(tmp_path: Path, keyring: Keyring) -> None:
    with pytest.raises(Problem, match=r"app.yaml:\d+:\d+: .*did you mean bundled:httpserver"):
        prepared(tmp_path, keyring, str(ECHO), provider="bundled:httpsrver")
    with pytest.raises(Problem, match="offers wasmcloud:httpserver, not wasmcloud:keyvalue"):
        prepared(tmp_path, keyring, str(ECHO), contract="wasmcloud:keyvalue")


def test_all_images_that_will_not_do_are_told_at_once_in_the_order_of_the_file(
    tmp_path: Path, keyring: Keyring
) -> None:
    with pytest.raises(Problem) as caught:
        prepared(tmp_path, keyring, "missing.wasm", provider="bundled:httpsrver")
    first, second = str(caught.value).splitlines()
    assert "there is no file" in first and "count from the folder of the manifest" in first
    assert "did you mean bundled:httpserver" in second
    assert caught.value.exit_code is ExitCode.USAGE


def test_an_expired_file_is_not_authorised(tmp_path: Path, keyring: Keyring) -> None:
    expired = sign_actor(
        ECHO.read_bytes(), account=keyring.account(), module=KeyPair.generate(Role.MODULE), name="old", expires=1000
    )
    (tmp_path / "echo.wasm").write_bytes(expired)
    with pytest.raises(Problem, match="expired") as caught:
        prepared(tmp_path, keyring)
    assert caught.value.exit_code is ExitCode.NOT_AUTHORISED


def test_a_provider_archive_is_read_as_far_as_its_claims(tmp_path: Path, keyring: Keyring) -> None:
    archives.pack(tmp_path, b"program", contract_id="acme:thing", name="thing.par.gz", compress=True)
    application = prepared(tmp_path, keyring, str(ECHO), provider="./thing.par.gz", contract="acme:thing")
    (image,) = application.providers.values()
    assert (image.reference, image.public_key) == (f"file://{tmp_path}/thing.par.gz", archives.SERVICE.public)
    (archive,) = application.archives
    assert archive.claims.issuer == ACCOUNT.public


@pytest.mark.parametrize(
    ("claims_of_it", "words", "code"),
    [
        ({"contract_id": "acme:other"}, "offers acme:other, not acme:thing", ExitCode.USAGE),
        ({"contract_id": "acme:thing", "expires": 1000}, "expired", ExitCode.NOT_AUTHORISED),
    ],
)
def test_an_archive_that_will_not_do_is_told_before_anything_starts(
    tmp_path: Path, keyring: Keyring, claims_of_it: dict[str, Any], words: str, code: ExitCode
) -> None:
    archives.pack(tmp_path, b"program", name="thing.par", **claims_of_it)
    with pytest.raises(Problem, match=words) as caught:
        prepared(tmp_path, keyring, str(ECHO), provider="./thing.par", contract="acme:thing")
    assert caught.value.exit_code is code


@pytest.mark.parametrize(("content", "words"), [(None, "there is no file"), (b"hello", "ends too early")])
def test_a_file_that_is_no_archive_is_told_with_its_place(
    tmp_path: Path, keyring: Keyring, content: bytes | None, words: str
) -> None:
    if content is not None:
        (tmp_path / "thing.par").write_bytes(content)
    with pytest.raises(Problem, match=words) as caught:
        prepared(tmp_path, keyring, str(ECHO), provider="./thing.par", contract="acme:thing")
    assert caught.value.exit_code is ExitCode.USAGE
    assert "thing.par" in str(caught.value)
