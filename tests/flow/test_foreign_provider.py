"""A provider of another maker, from its program to a running application, as a user brings it up."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmtime

from tests.support.actors import caller
from tests.support.foreign import classic, compiled
from tests.support.processes import Running, run

Start = Callable[..., Running]

APPLICATION = """
apiVersion: core.oam.dev/v1beta1
kind: Application
metadata: {name: foreign, annotations: {version: v0.0.1}}
spec:
  components:
    - name: asker
      type: actor
      properties: {image: ./asker.wasm}
      traits:
        - {type: spreadscaler, properties: {replicas: 1}}
        - {type: linkdef, properties: {target: classic, values: {greeting: hello}}}
    - name: classic
      type: capability
      properties: {image: ./classic.par.gz, contract: "test:contract"}
"""


def test_from_a_program_to_an_application_and_back(tmp_path: Path, env: dict[str, str], start: Start) -> None:
    def wasmhost(*arguments: str, code: int = 0) -> Any:
        ended = run([*arguments, "-o", "json"], env=env, cwd=tmp_path)
        assert ended.returncode == code, ended
        return json.loads(ended.stderr if code else ended.stdout)

    wat = caller(namespace="test:contract", operation="Test.Values", binding="default")
    (tmp_path / "asker.wasm").write_bytes(bytes(wasmtime.wat2wasm(wat)))
    (tmp_path / "classic").write_bytes(classic())
    (tmp_path / "quiet").write_bytes(compiled("quiet"))
    (tmp_path / "app.yaml").write_text(APPLICATION)
    names = ["--capid", "test:contract", "--vendor", "tests", "--name"]
    packed = wasmhost("par", "create", *names, "Classic", "--binary", "classic", "--compress")
    wasmhost("par", "create", *names, "Quiet", "--binary", "quiet")

    up = start("up", "app.yaml", cwd=tmp_path)
    up.wait_for_output("Ready after")
    (provider,) = wasmhost("get", "providers")["providers"]
    assert (provider["provider_id"], provider["state"]) == (packed["provider_id"], "ready")
    assert provider["image_ref"] == f"file://{tmp_path}/classic.par.gz"
    assert wasmhost("call", "asker", "Test.Call")["result"] == {"greeting": "hello"}
    wasmhost("link", "put", "asker", "Classic", "test:contract", "greeting=goodbye")
    assert wasmhost("call", "asker", "Test.Call")["result"] == {"greeting": "goodbye"}

    assert "runs already" in wasmhost("start", "provider", "./classic.par.gz", code=5)["error"]
    second = wasmhost("start", "provider", "classic.par.gz", "--link-name", "second")
    assert (second["provider_id"], second["state"]) == (packed["provider_id"], "ready")
    assert "there is no file" in wasmhost("start", "provider", "none.par", code=3)["error"]
    (tmp_path / "changed.par").write_bytes((tmp_path / "quiet.par").read_bytes().replace(b"quiet", b"loud!"))
    assert "SHA-256 differs" in wasmhost("start", "provider", "changed.par", code=2)["error"]
    stranger = wasmhost("keys", "gen", "account")["seed"]
    wasmhost("par", "create", *names, "S", "-b", "quiet", "--issuer", stranger, "--destination", "stranger.par")
    assert "--trust" in wasmhost("start", "provider", "stranger.par", code=8)["error"]
    quiet = run(["start", "provider", "quiet.par"], env=env, cwd=tmp_path)
    assert quiet.returncode == 0 and quiet.stdout.startswith("started Quiet")
    assert "It is degraded: does not answer health checks." in quiet.stderr

    wasmhost("stop", "provider", "Classic")
    assert [each["name"] for each in wasmhost("get", "providers")["providers"]] == ["Quiet"]
    assert up.stop() == 0
    assert os.path.exists(tmp_path / "classic.par.gz")
