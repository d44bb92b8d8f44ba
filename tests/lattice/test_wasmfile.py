"""Sections of WebAssembly files: found within bounds, claims removed and appended without touching anything else."""

from __future__ import annotations

from contextlib import suppress
from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lattice import wasmfile
from lattice.errors import MalformedMessage
from tests.support.modules import CODE, PADDED, SMALL, TYPES, component, custom, leb128, module, section
from tests.support.strategies import bent


def digest(data: bytes) -> str:
    return sha256(data).hexdigest().upper()


def test_the_kind_is_read_from_the_header() -> None:
    assert wasmfile.kind(module()) == "module"
    assert wasmfile.kind(component()) == "component"
    assert wasmfile.kind(b"\0asm\x0c\0\x01\0") == "component"  # the older component version
    for data in (b"", b"\0asm", b"\0asm\x01\0\x02\0", b"\x7fELF\0\0\0\0", b"a text file\n"):
        with pytest.raises(MalformedMessage):
            wasmfile.kind(data)


@pytest.mark.parametrize("name", ["wasmcloud_jwt", "jwt"])
@pytest.mark.parametrize("width", [0, 5])
def test_claims_are_found_under_both_names_wherever_they_stand(name: str, width: int) -> None:
    data = module(TYPES, custom(name, b"a.b.c", width), CODE)
    (found,) = wasmfile.claims_tokens(data)
    assert (found.name, found.token, found.depth) == (name, b"a.b.c", 0)
    assert data[found.start : found.end] == custom(name, b"a.b.c", width)
    assert wasmfile.strip(data) == module(TYPES, CODE)


def test_other_custom_sections_are_no_claims() -> None:
    data = module(custom("name", b"jwt"), custom("", b""), custom("wasmcloud_jwt2", b"a.b.c"), custom("JWT", b"x"))
    assert wasmfile.claims_tokens(data) == []
    assert wasmfile.strip(data) == data


def test_claims_of_nested_modules_are_found_and_not_stripped() -> None:
    inner = module(TYPES, custom("jwt", b"inner"))
    data = component(section(1, inner), section(4, component(section(1, inner))), custom("wasmcloud_jwt", b"outer"))
    assert [(found.token, found.depth) for found in wasmfile.claims_tokens(data)] == [
        (b"inner", 1),
        (b"inner", 2),
        (b"outer", 0),
    ]
    assert wasmfile.strip(data) == data[: data.rindex(custom("wasmcloud_jwt", b"outer"))]


def test_only_components_hold_nested_modules() -> None:
    """Section 1 of a core module holds types; bytes there that look like a module are none."""
    assert wasmfile.claims_tokens(module(section(1, module(custom("jwt", b"x"))))) == []


def test_the_hash_is_that_of_the_file_without_its_claims() -> None:
    signed = wasmfile.append_token(SMALL, "a.b.c")
    assert wasmfile.strip(signed) == SMALL
    assert wasmfile.module_hashes(signed) == wasmfile.module_hashes(SMALL) == (digest(SMALL),)


def test_a_padded_file_also_has_the_hash_of_its_reencoded_form() -> None:
    signed = wasmfile.append_token(PADDED, "a.b.c")
    assert wasmfile.reencode(signed) == SMALL
    assert wasmfile.module_hashes(signed) == (digest(PADDED), digest(SMALL))


def test_reencoding_leaves_out_claims_at_every_depth() -> None:
    inner = section(1, module(TYPES, custom("jwt", b"inner")), 5)
    data = component(section(4, component(inner)), custom("jwt", b"outer"))
    assert wasmfile.reencode(data) == component(section(4, component(section(1, module(TYPES)))))
    assert len(wasmfile.module_hashes(data)) == 2


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (module() + b"\x00", "cut short"),
        (module() + b"\x01\x05abc", "claims 5 bytes where 3 are left"),
        (module() + b"\x01\x80\x80\x80\x80\x80\x00", "more than 32 bits"),
        (module() + b"\x01\xff\xff\xff\xff\x7f", "more than 32 bits"),
        (module(section(0, b"\x05abc")), "overruns"),
        (module(section(0, b"")), "cut short"),
        (component(section(1, b"hello")), "nested module does not begin"),
        (component(section(4, component() + b"\x00")), "cut short"),
    ],
)
def test_a_section_that_leaves_its_parent_is_refused(data: bytes, reason: str) -> None:
    for read in (wasmfile.claims_tokens, wasmfile.module_hashes, wasmfile.reencode):
        with pytest.raises(MalformedMessage, match=reason):
            read(data)


def test_nesting_has_a_bound() -> None:
    data = component()
    for _ in range(40):
        data = component(section(4, data))
    for read in (wasmfile.claims_tokens, wasmfile.reencode, wasmfile.module_hashes):
        with pytest.raises(MalformedMessage, match="nested"):
            read(data)


@given(st.integers(0, 2**32 - 1), st.integers(0, 5))
def test_lengths_are_read_in_every_spelling_of_up_to_five_bytes(value: int, width: int) -> None:
    data = leb128(value, width)
    assert wasmfile._leb128(data, 0, len(data)) == (value, len(data))
    assert wasmfile._encoded(value) == leb128(value)


SECTIONS = st.builds(
    section, st.integers(0, 13).filter(bool), st.binary(max_size=30), st.sampled_from([0, 0, 2, 5])
) | st.builds(custom, st.sampled_from(["name", "producers", "jwt", "wasmcloud_jwt"]), st.binary(max_size=30))


@given(st.lists(SECTIONS, max_size=6))
def test_a_token_comes_back_from_any_module(sections: list[bytes]) -> None:
    unsigned = wasmfile.strip(module(*sections))
    assert wasmfile.claims_tokens(unsigned) == []
    signed = wasmfile.append_token(unsigned, "a.b.c")
    assert [found.token for found in wasmfile.claims_tokens(signed)] == [b"a.b.c"]
    assert wasmfile.strip(signed) == unsigned
    assert wasmfile.module_hashes(signed) == wasmfile.module_hashes(unsigned)
    assert wasmfile.reencode(wasmfile.reencode(signed)) == wasmfile.reencode(signed)


@given(
    st.binary(max_size=80)
    | st.binary(max_size=80).map(lambda tail: module() + tail)
    | st.binary(max_size=80).map(lambda tail: component(section(1, module() + tail)))
    | bent(st.just(component(section(1, PADDED), section(4, component(section(1, SMALL))), custom("jwt", b"x"))))
)
def test_garbage_is_malformed_and_nothing_worse(data: bytes) -> None:
    for read in (wasmfile.kind, wasmfile.claims_tokens, wasmfile.strip, wasmfile.reencode, wasmfile.module_hashes):
        with suppress(MalformedMessage):
            read(data)
