"""What image references are taken for."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice.errors import Code
from wasmhost.images.reference import BundledReference, FileReference, InvalidReference, parse


def test_a_file_url_must_be_absolute() -> None:
    assert parse("file:///tmp/echo.wasm") == FileReference("file:///tmp/echo.wasm", Path("/tmp/echo.wasm"))
    assert parse("file:///a%20b/e.wasm") == FileReference("file:///a%20b/e.wasm", Path("/a b/e.wasm"))
    with pytest.raises(InvalidReference, match="three slashes"):
        parse("file://echo.wasm")


def test_a_relative_path_counts_from_the_manifest_that_names_it() -> None:
    base = Path("/apps")
    for text in ("../actors/echo/echo_s.wasm", "./x", "actors/echo/echo_s.wasm"):
        assert parse(text, base=base) == FileReference(text, base / text)
        with pytest.raises(InvalidReference, match="needs an absolute one"):
            parse(text)
    assert parse("/abs/echo.wasm", base=base) == FileReference("/abs/echo.wasm", Path("/abs/echo.wasm"))


def test_a_bundled_provider_is_known_by_its_prefix() -> None:
    assert parse("bundled:httpserver") == BundledReference("bundled:httpserver", "httpserver")
    with pytest.raises(InvalidReference, match="example: bundled:httpserver"):
        parse("bundled:../etc")


@pytest.mark.parametrize(
    "text", ["ghcr.io/x/echo:0.3.4", "oci://localhost:5000/echo:1", "echo", "a@sha256:" + "0" * 64]
)
def test_an_image_of_a_registry_is_refused_as_not_supported_yet(text: str) -> None:
    with pytest.raises(InvalidReference, match="registry, which is not supported yet") as caught:
        parse(text)
    assert caught.value.code is Code.UNSUPPORTED


@pytest.mark.parametrize("text", ["", "  ", "bindle://x", "a\0b.wasm", "/" * 5000])
def test_what_cannot_be_a_reference_is_refused(text: str) -> None:
    with pytest.raises(InvalidReference):
        parse(text)


@given(st.text(max_size=300), st.none() | st.just(Path("/base")))
def test_any_text_is_a_reference_or_refused(text: str, base: Path | None) -> None:
    with suppress(InvalidReference):
        assert parse(text, base=base).text == text


def test_hostile_texts_take_no_time() -> None:
    started = time.perf_counter()
    for text in ("a" * 4000 + "!", "a:" * 2000, "file://" + "%41" * 1300, "." * 4000):
        with pytest.raises(InvalidReference):
            parse(text)
    assert time.perf_counter() - started < 0.5
