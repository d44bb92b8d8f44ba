"""The manifest reader: what it understands, and that it reports everything wrong at once and where."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lattice.errors import Code
from wasmhost.apps.manifest import (
    ActorComponent,
    Application,
    CapabilityComponent,
    ManifestError,
    Problem,
    Scaler,
    Spread,
    load,
    load_all,
)

MANIFESTS = Path(__file__).resolve().parents[3] / "manifests"

GOOD = """\
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata:
  name: my-app
  annotations:
    version: v0.0.1
    description: "two parts"
spec:
  components:
    - name: echo
      type: actor
      properties:
        image: ./echo_s.wasm
      traits:
        - type: spreadscaler
          properties:
            replicas: 4
            spread:
              - name: east
                requirements:
                  zone: us-east-1
                weight: 80
              - name: west
                requirements: {zone: us-west-1}
        - type: linkdef
          properties:
            target: httpserver
            values:
              address: 127.0.0.1:8080
    - name: httpserver
      type: capability
      properties:
        image: bundled:httpserver
        contract: wasmcloud:httpserver
        link_name: front
        config: {"log": {"level": "info"}, "retries": 3}
      traits:
        - type: daemonscaler
          properties:
            instances: 1
"""

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a manifest, the good one by default with one piece of text replaced."""

    def write(text: str = GOOD, *, replace: str = "", by: str = "", name: str = "app.yaml") -> Path:
        assert replace in text
        path = tmp_path / name
        path.write_text(text.replace(replace, by, 1) if replace else text)
        return path

    return write


def problems(path: Path) -> list[Problem]:
    with pytest.raises(ManifestError) as caught:
        load(path)
    assert caught.value.code is Code.INVALID
    assert all(problem.file == str(path) for problem in caught.value.problems)
    return caught.value.problems


def only_problem(path: Path) -> Problem:
    found = problems(path)
    assert len(found) == 1, found
    return found[0]


def test_everything_of_a_manifest_is_read(write: Write, tmp_path: Path) -> None:
    application = load(write())
    assert (application.name, application.version, application.description) == ("my-app", "v0.0.1", "two parts")
    assert application.folder == tmp_path
    (echo,) = application.actors
    assert (echo.name, echo.image) == ("echo", "./echo_s.wasm")
    spread = (Spread("east", {"zone": "us-east-1"}, 80), Spread("west", {"zone": "us-west-1"}, 100))
    assert echo.scaler == Scaler("spreadscaler", 4, spread)
    (link,) = echo.links
    assert (link.target, link.values) == ("httpserver", {"address": "127.0.0.1:8080"})
    httpserver = application.capability(link.target)
    assert (httpserver.image, httpserver.contract) == ("bundled:httpserver", "wasmcloud:httpserver")
    assert (httpserver.link_name, httpserver.config) == ("front", '{"log":{"level":"info"},"retries":3}')
    assert httpserver.scaler == Scaler("daemonscaler", 1)


OURS = """        - type: wasmhost
          properties:
            limits:
              memory_mib: 128
              deadline_ms: 30000
        - type: linkdef
"""


def test_limits_of_an_actor_stand_in_a_trait_of_ours(write: Write) -> None:
    assert load(write()).actors[0].limits == {}
    application = load(write(replace="        - type: linkdef\n", by=OURS))
    assert application.actors[0].limits == {"memory_mib": 128, "deadline_ms": 30000}


@pytest.mark.parametrize(
    ("replace", "by", "says"),
    [
        ("memory_mib: 128", "memory_mb: 128", "did you mean 'memory_mib'?"),
        ("memory_mib: 128", "memory_mib: 5000", "not a whole number from 0 to 4096"),
        ("memory_mib: 128", "memory_mib: 0", "limits.memory_mib: 0 is no number of MiB from 1 to 4096"),
        ("memory_mib: 128", "memory_mib: lots", "not a whole number"),
        ("limits:", "limit:", "did you mean 'limits'?"),
        ("        - type: linkdef\n", "        - type: wasmhost\n          properties: {}\n        - type: linkdef\n",
         "a second trait wasmhost"),
    ],
)  # fmt: skip
def test_wrong_limits_are_named(replace: str, by: str, says: str, write: Write) -> None:
    assert replace in OURS
    problem = only_problem(write(replace="        - type: linkdef\n", by=OURS.replace(replace, by)))
    assert says in str(problem)


def test_a_capability_has_no_limits(write: Write) -> None:
    problem = only_problem(write(replace="        - type: daemonscaler", by="        - type: wasmhost"))
    assert "a capability has no limits" in str(problem)


@pytest.mark.parametrize("name", ["echo", "kvcounter", "kvcounter-redis", "kvcounter-zones"])
def test_the_manifests_of_this_repository_are_good(name: str) -> None:
    application = load(MANIFESTS / f"{name}.yaml")
    assert application.name == name
    for actor in application.actors:
        assert (application.folder / actor.image).is_file()
        for link in actor.links:
            assert application.capability(link.target).image.startswith("bundled:")
            assert "0.0.0.0" not in str(link.values)
    header = (MANIFESTS / f"{name}.yaml").read_text().splitlines()
    assert any(f"wasmhost up manifests/{name}.yaml" in line for line in header[:5])


def test_json_is_read_as_well(tmp_path: Path, write: Write) -> None:
    scaler = '{"type": "spreadscaler", "properties": {"replicas": 0}}'
    part = f'{{"name": "a", "type": "actor", "properties": {{"image": "a.wasm"}}, "traits": [{scaler}]}}'
    text = (
        '{"apiVersion": "core.oam.dev/v1beta1", "kind": "Application", "metadata": {"name": "j"},'
        f' "spec": {{"components": [{part}]}}}}'
    )
    assert load(write(text)) == Application(
        "j",
        "",
        "",
        tmp_path / "app.yaml",
        (ActorComponent("a", "a.wasm", Scaler("spreadscaler", 0), (), None),),  # type: ignore[arg-type]
    )


def test_a_capability_without_traits_runs_once_under_the_default_link(write: Write) -> None:
    text = GOOD[: GOOD.index("      traits:\n        - type: daemonscaler")].replace("        link_name: front\n", "")
    (httpserver,) = load(write(text)).capabilities
    assert isinstance(httpserver, CapabilityComponent)
    assert httpserver.scaler == Scaler("spreadscaler", 1)
    assert httpserver.link_name == "default"


def test_an_unknown_key_is_named_with_its_place_and_the_likely_one(write: Write) -> None:
    problem = only_problem(write(replace="replicas: 4", by="replicas: 4\n            repliccas: 5"))
    assert (problem.line, problem.column) == (18, 13)
    assert "'repliccas'" in problem.message
    assert problem.hint == "did you mean 'replicas'?"
    assert str(problem).startswith(f"{problem.file}:18:13: ")


def test_every_problem_is_reported_at_once_in_the_order_of_the_file(write: Write) -> None:
    text = (
        GOOD.replace("kind: Application", "kind: Aplication")
        .replace("name: my-app", "name: my app")
        .replace("replicas: 4", "replicas: many")
        .replace("target: httpserver", "target: httpserve")
        .replace("        contract: wasmcloud:httpserver\n", "")
        .replace("type: daemonscaler", "type: deamonscaler")
    )
    found = problems(write(text))
    assert [problem.line for problem in found] == sorted(problem.line for problem in found)
    said = "\n".join(map(str, found))
    for part in (
        "Aplication",
        "invalid characters",
        "replicas",
        "'httpserver'?",
        "contract is missing",
        "daemonscaler",
    ):
        assert part in said
    assert len(found) == 6, said


@pytest.mark.parametrize(
    ("replace", "by", "says"),
    [
        ("core.oam.dev/v1beta1", "v1", "core.oam.dev/v1beta1"),
        ("version: v0.0.1", "version: latest", "latest is not allowed"),
        ("version: v0.0.1", "version: 1.0", 'write "1.0"'),
        ("address: 127.0.0.1:8080", "port: 8080", 'write "8080"'),
        ("image: ./echo_s.wasm", "image:", "image is missing"),
        ("image: ./echo_s.wasm", "image: ''", "image is empty"),
        ("image: ./echo_s.wasm", f"image: {'a' * 513}", "longer than 512"),
        ("type: actor", "type: actr", "did you mean 'actor'?"),
        ("type: spreadscaler", "type: spredscaler", "did you mean 'spreadscaler'?"),
        ("replicas: 4", "replicas: -1", "not a whole number"),
        ("replicas: 4", "replicas: 65536", "not a whole number"),
        ("replicas: 4", "replicas: '4'", "not a whole number"),
        ("            replicas: 4\n", "", "replicas is missing"),
        ("requirements: {zone: us-west-1}", "requirements: {}", "requirements is empty"),
        ("                requirements: {zone: us-west-1}\n", "", "requirements is missing"),
        ("- name: west", "- name: east", "a second spread is called east"),
        ("link_name: front", "link_name: a.b", "a.b"),
        ("config:", "config: [1]\n        confg:", "confg"),
        ("type: daemonscaler", "type: linkdef", "move it to the actor"),
        ("    - name: httpserver", "    - name: echo", "Duplicate component name in manifest: echo"),
        ("  name: my-app\n", "", "metadata.name is missing"),
        ("  name: my-app", "  name: my-app\n  name: other", "there twice"),
    ],
)
def test_a_mistake_is_explained(write: Write, replace: str, by: str, says: str) -> None:
    found = problems(write(replace=replace, by=by))
    assert any(says in str(problem) for problem in found), found
    assert all(problem.line > 0 for problem in found)


def test_a_member_of_the_wrong_kind_is_explained_once(write: Write) -> None:
    found = problems(write(replace="requirements: {zone: us-west-1}", by="requirements: [zone]"))
    assert [problem.message.partition(" is ")[2] for problem in found] == [
        "a list where a mapping of names to values is expected"
    ]


def test_an_actor_without_a_scaler_is_refused(write: Write) -> None:
    text = GOOD.replace("type: spreadscaler", "type: linkdef", 1)
    assert any("would never start" in problem.message for problem in problems(write(text)))


def test_two_links_of_one_actor_to_one_target_are_refused(write: Write) -> None:
    link = GOOD[GOOD.index("        - type: linkdef") : GOOD.index("    - name: httpserver")]
    assert only_problem(write(replace=link, by=link + link)).message.startswith("Duplicate target httpserver")


def test_the_same_provider_twice_under_one_link_name_is_refused_whatever_its_tag(write: Write) -> None:
    text = GOOD.replace("bundled:httpserver", "reg.example/http:0.1", 1)
    second = text[text.index("    - name: httpserver") :].replace("name: httpserver", "name: other", 1)
    problem = only_problem(write(text + second.replace("http:0.1", "http:0.2")))
    assert problem.message.startswith("Duplicate image reference reg.example/http:0.2 to link name front")
    load(write(text + second.replace("front", "back")))


def test_the_same_actor_image_twice_is_refused(write: Write) -> None:
    actor = GOOD[GOOD.index("    - name: echo") : GOOD.index("    - name: httpserver")]
    text = GOOD.replace(actor, actor + actor.replace("name: echo", "name: again"))
    assert only_problem(write(text)).message == "Duplicate image reference in manifest: ./echo_s.wasm"


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("kind: [Application\n", 2, "not valid YAML"),
        ("kind: Application\n\tname: x\n", 2, "indent with spaces"),
        ("kind: a: b\n", 1, "not valid YAML"),
        ("", 0, "empty"),
        ("# nothing\n", 0, "empty"),
        ("just text\n", 1, "text where a mapping"),
        ("- a\n- b\n", 1, "a list where a mapping"),
        ("kind: Application\n---\nkind: Application\n", 3, "one application per file"),
        ("a: \x01\n", 1, "U+0001"),
        ("a: &a [*a]\nconfig: *a\n", 1, "unknown key"),
        ("[" * 5000, 0, "nested too deeply"),
    ],
)
def test_what_is_no_manifest_is_refused_with_its_place(write: Write, text: str, line: int, says: str) -> None:
    found = problems(write(text))
    assert any(problem.line == line and says in str(problem) for problem in found), found


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert "no such file" in only_problem(tmp_path / "missing.yaml").message
    assert "directory" in only_problem(tmp_path).message
    binary = tmp_path / "actor.wasm"
    binary.write_bytes(b"\0asm\x01\0\0\0\n\xff\xfe")
    problem = only_problem(binary)
    assert ((problem.line, problem.column), problem.message) == ((2, 1), "not UTF-8 text")


def test_aliases_that_multiply_are_refused(write: Write) -> None:
    levels = "\n".join(f"    l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 10)}]" for n in range(1, 9))
    config = f'config:\n          l0: &l0 "x"\n{levels}'.replace("\n    l", "\n          l")
    found = problems(write(replace='config: {"log": {"level": "info"}, "retries": 3}', by=config))
    assert any("cannot be written as JSON" in problem.message for problem in found), found


def test_several_manifests_report_all_their_problems(write: Write) -> None:
    good = write(name="good.yaml")
    same = write(name="same.yaml")
    bad = write(replace="kind: Application", by="kind: Job", name="bad.yaml")
    assert [application.name for application in load_all([good])] == ["my-app"]
    with pytest.raises(ManifestError) as caught:
        load_all([good, bad, same])
    said = str(caught.value)
    assert "bad.yaml:2:7: " in said
    assert f"same.yaml: the name 'my-app' is already taken by {good}" in said


PIECES = st.sampled_from(
    [*GOOD.splitlines(keepends=True), "[", "]", "{", "}", "- ", "? ", "&a ", "*a", "!!int ", "|\n"]
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.one_of(st.lists(PIECES, max_size=40).map("".join), st.text(max_size=60)))
def test_garbage_is_a_manifest_error_and_nothing_worse(tmp_path: Path, text: str) -> None:
    path = tmp_path / "garbage.yaml"
    path.write_text(text, encoding="utf-8", errors="replace")
    try:
        load(path)
    except ManifestError as error:
        assert error.problems
