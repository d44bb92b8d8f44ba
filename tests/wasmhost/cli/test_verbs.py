"""Every verb, in text and in JSON: what it prints, and the exit code it is pinned to."""

from __future__ import annotations

import json
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
import structlog

from lattice import wasmfile
from lattice.keys import KeyPair, Role
from lattice.signing import sign_actor
from tests.support.nats import NatsServer, free_port
from tests.support.processes import ROOT, WASMHOST, Running, user_environment
from tests.wasmhost.cli.test_tree import LEAVES
from wasmhost.cli.entry import run

ECHO = ROOT / "actors" / "echo" / "echo_s.wasm"
LATTICE = "cli-verbs"

# (command line, exit code, members of the JSON document; "lines": one document per line; "": no document)
SESSION = [
    ("get hosts", 0, "hosts"),
    ("get inventory", 0, "hosts"),
    ("get inventory nowhere", 3, ""),
    ("get actors", 0, "actors"),
    ("get providers", 0, "providers"),
    ("get links", 0, "links"),
    ("get claims", 0, "claims"),
    ("start actor {first}", 0, "actor_id host_id image_ref instances"),
    ("start actor {folder}/missing.wasm", 3, ""),
    ("start actor {folder}/bare.wasm", 2, ""),
    ("start actor {folder}/foreign.wasm", 8, ""),
    ("start actor {first} --host nowhere", 3, ""),
    ("start actor {second}", 5, ""),
    ("start actor {first} --constraint zone=eu-1", 3, ""),
    ("start actor {first} --constraint zone", 2, ""),
    ("label {host} zone=eu-1 disk=fast", 0, "host_id labels"),
    ("label {host} zone", 2, ""),
    ("label {host} hostcore.os=plan9", 8, ""),
    ("label {host} key={seed}", 8, ""),
    ("label {host} disk --delete", 0, "host_id labels"),
    ("start actor {first} -c zone=eu-1 --auction-timeout-ms 500 --max-instances 2", 0, "actor_id host_id instances"),
    ("start actor {first} -c zone=eu-1 -c disk=fast", 3, ""),
    ("start actor {first} --skip-wait", 0, "accepted host_ids"),
    ("stop actor changing --count 1", 0, "actor_id stopped_on"),
    ("start provider bundled:keyvalue -c zone=eu-1", 0, "provider_id state"),
    ("start provider bundled:keyvalue --constraint zone=eu-1", 5, ""),
    ("start provider bundled:keyvalue --link-name other --skip-wait", 0, "accepted host_ids"),
    ("stop provider keyvalue -l default --skip-wait", 0, "accepted host_ids"),
    ("apply {host} {folder}/host.yaml", 3, ""),
    ("apply {host} {folder}/host.yaml --expand-env", 0, "host_id applied"),
    ("ctl apply {host} {folder}/host.yaml -e", 0, "host_id applied"),
    ("apply {host} {folder}/broken.yaml", 3, ""),
    ("apply {host} {folder}/missing.yaml", 2, ""),
    ("apply {host} {folder}/up.yaml", 2, ""),
    ("apply nowhere {folder}/broken.yaml", 3, ""),
    ("start provider bundled:keyvalue", 5, ""),
    ("start provider bundled:nothing", 3, ""),
    ("link put changing keyvalue", 0, "actor_id provider_id contract_id link_name state"),
    ("link put changing keyvalue novalue a:b", 2, ""),
    ("link query", 0, "links"),
    ("get links", 0, "links"),
    ("call changing HttpServer.HandleRequest '{{}}'", 0, "actor_id operation result"),
    ("call changing Nope.Nothing", 4, ""),
    ("call changing Nope.Nothing '{{'", 2, ""),
    ("call nobody Nope.Nothing", 3, ""),
    ("call changing HttpServer.HandleRequest --cluster-seed {seed}", 8, ""),
    ("scale actor changing 3", 0, "actor_id instances"),
    ("scale actor {host} changing --max-concurrent 2", 0, "actor_id instances"),
    ("scale actor changing 2 -a team=shop", 0, "actor_id instances"),
    ("scale actor changing -c 0 --annotations team=shop", 0, "actor_id instances"),
    ("scale actor changing many", 2, ""),
    ("scale actor changing", 2, ""),
    ("scale actor nobody 3", 3, ""),
    ("update actor changing {second}", 0, "actor_id name updated"),
    ("update actor changing {first}", 5, ""),
    ("update actor changing", 2, ""),
    ("ctl get actors", 0, "actors"),
    ("migrate actor changing --from verbs --to verbs", 2, ""),
    ("migrate actor changing --to nowhere", 3, ""),
    ("migrate actor changing --from nowhere", 3, ""),
    ("migrate actor changing", 1, ""),
    ("migrate actor nobody", 3, ""),
    ("migrate provider keyvalue --to verbs", 2, ""),
    ("migrate provider keyvalue --link-name nowhere", 3, ""),
    ("cordon verbs", 0, "host_id friendly_name cordoned"),
    ("start actor {first}", 3, ""),
    ("start actor {second} --host verbs", 0, "actor_id"),
    ("uncordon verbs", 0, "host_id friendly_name cordoned"),
    ("uncordon nowhere", 3, ""),
    ("cordon nowhere", 3, ""),
    ("drain nowhere", 3, ""),
    ("ctl update actor {host} changing {folder}/missing.wasm", 3, ""),
    ("logs changing", 0, "lines"),
    ("logs nobody", 3, ""),
    ("events --since 5m", 0, "lines"),
    ("events --since 5m --follow --count 1", 0, "lines"),
    ("events --since never", 2, ""),
    ("spy nobody", 3, ""),
    ("spy actor changing --count 2", 0, "lines"),
    ("spy", 2, ""),
    ("link del changing wasmcloud:keyvalue", 0, "deleted"),
    ("link del changing wasmcloud:keyvalue", 3, ""),
    ("stop actor {host} changing", 0, "actor_id stopped_on"),
    ("stop actor changing", 3, ""),
    ("stop provider {host} keyvalue default wasmcloud:keyvalue", 0, "stopped"),
    ("stop provider keyvalue --link-name more", 0, "stopped"),
    ("stop provider keyvalue -l other", 0, "stopped"),
    ("stop provider keyvalue", 3, ""),
    ("stop provider a b", 2, ""),
    ("stop host nowhere", 3, ""),
    ("claims inspect {first}", 0, "actor_id account_id name revision valid_now"),
    ("claims inspect {folder}/bare.wasm", 2, ""),
    ("claims sign {folder}/bare.wasm --name bare -d {folder}/signed.wasm", 0, "actor_id account_id"),
    ("claims sign {folder}/missing.wasm", 2, ""),
    ("claims revoke {account} --reason test", 0, "revoked hosts"),
    ("claims revoke changing --revision 9", 0, "revoked hosts"),
    ("claims revoke nonsense", 3, ""),
    ("claims revoke {seed}", 2, ""),
    ("claims revoke {account} --revision 1", 2, ""),
    ("claims revoked", 0, "revoked"),
    ("start actor {first}", 8, ""),
    ("claims unrevoke {account}", 0, "unrevoked hosts"),
    ("claims unrevoke {account}", 3, ""),
    ("claims unrevoke changing --revision 9", 0, "unrevoked hosts"),
    ("claims token actor --name bare --file {folder}/bare.wasm", 0, "token"),
    ("claims token provider --name bare", 2, ""),
    ("inspect {first}", 0, "file kind actor_id"),
    ("inspect {folder}/missing.wasm", 2, ""),
    ("inspect missing", 2, ""),
    ("par create -c a:b -v me -n tool -b {folder}/bare.wasm --destination {folder}/tool.par", 0, "provider_id"),
    ("par inspect {folder}/tool.par", 0, "provider_id"),
    ("par inspect {folder}/bare.wasm", 2, ""),
    ("par insert {folder}/tool.par -a arm-linux -b {folder}/bare.wasm", 0, "provider_id"),
    ("par insert {folder}/missing.par -b {folder}/bare.wasm", 2, ""),
    ("keys list", 0, "keys"),
    ("keys get account", 0, "public_key"),
    ("keys get nothing", 3, ""),
    ("cluster list", 0, "hosts todo"),
    ("cluster rotate verbs --add {cluster}", 0, "action host_id signing accepted held removed friendly_name"),
    ("cluster rotate verbs --use {cluster}", 3, ""),
    ("cluster rotate verbs --use {unknown}", 5, ""),
    ("cluster rotate verbs --remove {cluster}", 0, "action host_id"),
    ("cluster rotate verbs --remove {cluster}", 3, ""),
    ("cluster rotate verbs --add ../etc/passwd", 3, ""),
    ("cluster rotate verbs --add nothing", 3, ""),
    ("cluster rotate verbs --add {seed}", 2, ""),
    ("cluster rotate verbs", 2, ""),
    ("cluster rotate nowhere --add {cluster}", 3, ""),
    ("cluster revoke-provider {provider}", 0, "provider_id link_name generation"),
    ("cluster revoke-provider nothing", 3, ""),
    ("completions bash", 0, "shell script"),
    ("completions cmd", 2, ""),
    ("doctor", 0, "ok checks"),
    ("doctor security", 0, "ok checks"),
    ("keys gen account", 0, "kind public_key seed"),
    ("keys gen nothing", 2, ""),
    ("ctx new verbs --nats-url {url}", 0, ""),
    ("ctx list", 0, "contexts"),
    ("ctx default verbs", 0, ""),
    ("ctx default nothing", 3, ""),
    ("ctx del verbs", 0, ""),
    ("ctx del verbs", 3, ""),
    ("up {folder}/missing.yaml", 2, ""),
    ("host --lattice a.b", 2, ""),
    ("down", 0, "stopped"),
    ("get hosts --lattice-prefix empty", 0, "hosts"),
    ("get actors -x empty", 6, ""),
    ("get hosts --ctl-host 127.0.0.1 --ctl-port {closed} --timeout-ms 500", 6, ""),
    ("get hosts --timeout-ms soon", 2, ""),
    ("get hosst", 2, ""),
    ("stop host {host} --host-timeout 100", 0, "host_id stopped"),
    ("stop host {host}", 6, ""),
]


@pytest.fixture(params=["text", "json"])
def form(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def words(
    form: str, nats_server: NatsServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[dict[str, str]]:
    """What stands in braces above; a host that trusts the account of these files runs meanwhile."""
    account, module = KeyPair.generate(Role.ACCOUNT), KeyPair.generate(Role.MODULE)
    bare = wasmfile.strip(ECHO.read_bytes())
    (tmp_path / "bare.wasm").write_bytes(bare)
    for name, signer, revision in (
        ("v1", account, 1),
        ("v2", account, 2),
        ("foreign", KeyPair.generate(Role.ACCOUNT), 1),
    ):
        signed = sign_actor(
            bare,
            account=signer,
            module=module,
            name="Changing",
            revision=revision,
            capabilities=("wasmcloud:httpserver", "wasmcloud:keyvalue"),
        )
        (tmp_path / f"{name}.wasm").write_bytes(signed)
    (tmp_path / "host.yaml").write_text(
        f"""
        actors: ["{tmp_path}/${{FILE:v1}}.wasm"]
        capabilities:
          - image_ref: bundled:keyvalue
          - {{image_ref: "bundled:keyvalue", link_name: more}}
        links:
          - actor: {module.public}
            provider_id: bundled:keyvalue
            contract_id: wasmcloud:keyvalue
            link_name: more
            values: {{}}
        """
    )
    (tmp_path / "broken.yaml").write_text(
        "actors: [/nowhere/missing.wasm]\ncapabilities: [{image_ref: bundled:nothing}]"
    )
    (tmp_path / "up.yaml").write_text("apiVersion: core.oam.dev/v1beta1")
    lattice = f"{LATTICE}-{form}"
    env = user_environment(tmp_path / "home", WASMHOST_NATS_URL=nats_server.url, WASMCLOUD_LATTICE=lattice)
    for name in ("HOME", "WASMHOST_NATS_URL", "WASMCLOUD_LATTICE"):
        monkeypatch.setenv(name, env[name])
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)
    daemon = Running(["host", "--trust", account.public, "--allow-file-load", "--name", "verbs"], env=env)
    try:
        daemon.wait_for_output("host.started")
        yield {
            "folder": str(tmp_path),
            "first": str(tmp_path / "v1.wasm"),
            "second": str(tmp_path / "v2.wasm"),
            "host": "verbs",
            "account": account.public,
            "url": nats_server.url,
            "cluster": KeyPair.generate(Role.CLUSTER).public,
            "unknown": KeyPair.generate(Role.CLUSTER).public,
            "provider": KeyPair.generate(Role.SERVICE).public,
            "seed": KeyPair.generate(Role.CLUSTER).seed,
            "closed": str(free_port()),
        }
    finally:
        daemon.kill()
        structlog.reset_defaults()


@contextmanager
def calls() -> Iterator[None]:
    """Somebody calls the actor all the time."""
    over = threading.Event()

    def call() -> None:
        while not over.is_set():
            subprocess.run(
                [*WASMHOST, "call", "changing", "HttpServer.HandleRequest"], capture_output=True, check=False
            )

    caller = threading.Thread(target=call)
    caller.start()
    try:
        yield
    finally:
        over.set()
        caller.join()


def test_every_verb_is_in_the_table() -> None:
    lines = [line for line, _, _ in SESSION]
    missing = [path for path, _ in LEAVES if not any(line.split()[: len(path)] == list(path) for line in lines)]
    assert missing == []


def test_a_session_of_all_verbs(form: str, words: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    for line, code, members in SESSION:
        arguments = shlex.split(line.format(**words))
        with calls() if arguments[0] == "spy" else nullcontext():
            ended = run(["-o", form, *arguments])
        shown = capsys.readouterr()
        report = f"{line!r} ended with {ended}, not {code}\n{shown.out}\n{shown.err}"
        assert ended == code, report
        if code == 0 and form == "json":
            documents = [json.loads(text) for text in shown.out.splitlines()] if members == "lines" else []
            document = documents[-1] if documents else json.loads(shown.out)
            assert set(members.removeprefix("lines").split()) <= set(document), report
        elif code == 0:
            assert "Traceback" not in shown.out + shown.err, report
        elif form == "json":
            assert json.loads(shown.err.splitlines()[-1])["exit_code"] == code, report
            assert shown.out == "", report
        else:
            assert "Error: " in shown.err, report
