"""Providers of this distribution."""

from __future__ import annotations

import importlib.util

import pytest

from lattice import bundled
from lattice.errors import Code, LatticeError
from lattice.keys import Role, decode_public


def test_every_bundled_provider_has_a_service_key_of_its_own_and_a_module() -> None:
    keys = {provider.public_key for provider in bundled.BUNDLED.values()}
    assert len(keys) == len(bundled.BUNDLED)
    assert all(decode_public(key)[0] is Role.SERVICE for key in keys)
    assert decode_public(bundled.ISSUER)[0] is Role.ACCOUNT
    for provider in bundled.BUNDLED.values():
        assert importlib.util.find_spec(f"{provider.module}.__main__")


def test_providers_are_found_by_reference_alias_and_key() -> None:
    http = bundled.find("bundled:httpserver")
    assert http.reference == "bundled:httpserver"
    assert bundled.by_key(http.public_key) is http
    assert bundled.find("bundled:keyvalue-nats") is bundled.find("keyvalue")
    assert bundled.find("bundled:redis") is bundled.find("keyvalue-redis")
    assert bundled.is_bundled("bundled:what")
    assert bundled.by_key("V") is None


def test_an_unknown_name_gets_a_suggestion() -> None:
    with pytest.raises(LatticeError, match="did you mean bundled:httpserver") as caught:
        bundled.find("bundled:httpsrever")
    assert caught.value.code is Code.NOT_FOUND
    with pytest.raises(LatticeError, match="there are bundled:httpserver, bundled:keyvalue"):
        bundled.find("bundled:xyz")
