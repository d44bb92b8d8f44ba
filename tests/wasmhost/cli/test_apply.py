"""Host manifests: what is read from them, and what is wrong with those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from lattice import bundled
from lattice.keys import KeyPair, Role
from wasmhost.cli.apply import HostManifest
from wasmhost.cli.exit_codes import ExitCode
from wasmhost.cli.problems import Problem
from wasmhost.configuration.small_yaml import LARGEST

ACTOR = KeyPair.from_raw(Role.MODULE, bytes([3]) * 32).public
LINK = f"actor: {ACTOR}, provider_id: bundled:httpserver, contract_id: 'wasmcloud:httpserver'"

BOMB = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}, *a{n - 1}]\n" for n in range(1, 40))


def read(tmp_path: Path, text: str, variables: dict[str, str] | None = None) -> HostManifest:
    file = tmp_path / "host.yaml"
    file.write_text(text)
    return HostManifest.read(file, variables)


def test_everything_in_its_order_with_the_defaults_of_the_classic_client(tmp_path: Path) -> None:
    manifest = read(
        tmp_path,
        f"""
actors: [/srv/b.wasm, "file:///srv/a.wasm"]
capabilities: [{{image_ref: "bundled:keyvalue", link_name: cache}}, {{image_ref: "bundled:httpserver"}}]
links: [{{{LINK}, values: {{address: "127.0.0.1:80"}}}}]
""",
    )
    assert manifest.actors == ("file:///srv/b.wasm", "file:///srv/a.wasm")
    assert manifest.providers == (("bundled:keyvalue", "cache"), ("bundled:httpserver", "default"))
    (link,) = manifest.links
    assert (link.actor_id, link.link_name, dict(link.values)) == (ACTOR, "default", {"address": "127.0.0.1:80"})
    assert link.provider_id == bundled.find("bundled:httpserver").public_key


def test_variables_are_replaced_in_texts_only_and_only_when_asked(tmp_path: Path) -> None:
    text = "actors: ['/srv/${NAME:echo}.wasm', '/srv/${OTHER}.wasm']"
    plain = read(tmp_path, text)
    assert plain.actors == ("file:///srv/${NAME:echo}.wasm", "file:///srv/${OTHER}.wasm")
    hostile = {"OTHER": "x'], capabilities: [{image_ref: evil}]"}
    manifest = read(tmp_path, text, hostile)
    assert manifest.actors == ("file:///srv/echo.wasm", f"file:///srv/{hostile['OTHER']}.wasm")
    assert manifest.providers == ()
    with pytest.raises(Problem, match="the variable OTHER is not set"):
        read(tmp_path, text, {"NAME": "x"})


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not an object"),
        ("[]", "not an object"),
        ("actors: [", "is not YAML"),
        ("apiVersion: core.oam.dev/v1beta1", "'apiVersion' is no member"),
        ("actors: echo.wasm", "not a list of texts"),
        ("actors: [5]", "not a list of texts"),
        ("capabilities: [{link_name: x}]", "image_ref is missing"),
        (f"links: [{{{LINK.replace(ACTOR, 'echo')}}}]", "actor 'echo'"),
        (f"links: [{{{LINK}, values: [1]}}]", "values is an array, not an object"),
        ("1: 2", "a member's name"),
        ("#" * (LARGEST + 1), "larger than"),
        ("a: &a [*a, *a]", "within itself"),
        (BOMB, "too many values"),
    ],
)
def test_what_is_no_host_manifest_is_told(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Problem) as caught:
        read(tmp_path, text)
    assert words in str(caught.value)
    assert caught.value.exit_code is ExitCode.USAGE


def test_a_bundled_provider_that_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="nothing"):
        read(tmp_path, f"links: [{{{LINK.replace('bundled:httpserver', 'bundled:nothing')}}}]")
