"""Contexts: their files, their commands, and where commands then look for their lattice."""

from __future__ import annotations

import json
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lattice.errors import Code
from lattice.keys import KeyPair, Role
from wasmhost.cli.app import App
from wasmhost.cli.entry import run
from wasmhost.configuration.config import load
from wasmhost.contexts.context import Bundles, UpRecord, resolve
from wasmhost.contexts.context_files import Bundle, ContextError, ContextStore

USER = KeyPair.from_raw(Role.USER, bytes([2]) * 32).seed
NAMED = Bundle(source="named", nats_url="nats://named:1", lattice="named", cluster_seed="/named.nk")
PROJECT = Bundle(source="project", nats_url="nats://project:1", lattice="project")
DEFAULT = Bundle(source="default context", nats_url="nats://default:1", lattice="def", user_jwt="J", user_seed=USER)
RECORD = UpRecord(pid=1, nats_url="nats://up:1", lattice="up", ctl_prefix="up.ctl")
CLUSTER = KeyPair.from_raw(Role.CLUSTER, bytes([1]) * 32)
CREDENTIALS = (
    "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n"
    f"-----BEGIN USER NKEY SEED-----\n{USER}\n------END USER NKEY SEED------\n"
)


def where(environ: Mapping[str, str] | None = None, record: UpRecord | None = None, **given: Any) -> tuple[str, str]:
    bundles = Bundles(**{name: given.pop(name) for name in list(given) if name in Bundles.__slots__})
    context = resolve(environ=environ or {}, record=record, bundles=bundles, **given)
    return context.nats_url, context.lattice


def test_each_source_wins_over_those_behind_it() -> None:
    everything: dict[str, Any] = {
        "environ": {"WASMHOST_NATS_URL": "nats://env:1", "WASMCLOUD_LATTICE": "env"},
        "record": RECORD,
        "project": (PROJECT,),
        "default": DEFAULT,
    }
    assert where(**everything, nats_url="nats://flag:1", lattice="flag") == ("nats://flag:1", "flag")
    assert where(**everything, named=NAMED) == ("nats://named:1", "named")
    assert where(**everything) == ("nats://env:1", "env")
    del everything["environ"]
    assert where(**everything, from_environment=NAMED) == ("nats://named:1", "named")
    assert where(**everything) == ("nats://project:1", "project")
    del everything["project"]
    assert where(**everything) == ("nats://default:1", "def")
    del everything["default"]
    assert where(**everything) == ("nats://up:1", "up")


def test_an_address_from_nearer_by_silences_what_belongs_to_another_server() -> None:
    context = resolve(environ={"WASMHOST_NATS_URL": "nats://env:1"}, record=RECORD, bundles=Bundles(default=DEFAULT))
    assert (context.nats_url, context.lattice, context.user_jwt, context.user_seed) == (
        "nats://env:1",
        "default",
        "",
        "",
    )
    context = resolve(environ={}, nats_url="nats://flag:1", bundles=Bundles(named=NAMED, default=DEFAULT))
    assert (context.nats_url, context.lattice, context.cluster_seed) == ("nats://flag:1", "named", "/named.nk"), (
        "but not what the user named"
    )


def test_a_nearer_member_is_taken_without_the_address() -> None:
    context = resolve(environ={"WASMCLOUD_LATTICE": "env"}, bundles=Bundles(default=DEFAULT))
    assert (context.nats_url, context.lattice, context.user_jwt) == ("nats://default:1", "env", "J")
    only_lattice = Bundle(source="project", lattice="mine")
    context = resolve(environ={}, record=RECORD, bundles=Bundles(project=(only_lattice,)))
    assert (context.nats_url, context.lattice, context.control_prefix) == ("nats://up:1", "mine", "up.ctl")


def test_calls_go_where_the_variables_for_calls_say() -> None:
    environ = {"WASMCLOUD_RPC_HOST": "rpc", "WASMCLOUD_RPC_PORT": "4333", "WASMCLOUD_RPC_JWT": "J"}
    context = resolve(environ=environ)
    assert (context.nats_url, context.rpc_url, context.rpc_jwt) == ("nats://127.0.0.1:4222", "nats://rpc:4333", "J")
    assert resolve(environ=environ, nats_url="nats://flag:1").rpc_url == ""
    assert resolve(environ={}).rpc_url == ""


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ContextStore:
    for name in ("WASMHOST_CONTEXT", "WASMHOST_NATS_URL", "WASMCLOUD_LATTICE", "XDG_CONFIG_HOME", "WASMHOST_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return ContextStore(tmp_path / "home" / ".config" / "wasmhost")


def test_a_context_is_a_private_file_that_can_be_read_back(store: ContextStore) -> None:
    path = store.write("prod", {"lattice": "shop", "nats_url": "tls://n:1", "ctl_prefix": ""})
    assert path == store.folder / "prod.yaml"
    assert path.read_text() == "lattice: shop\nnats_url: tls://n:1\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert store.read("prod") == Bundle(source="context 'prod'", lattice="shop", nats_url="tls://n:1")
    with pytest.raises(ContextError, match="--force") as caught:
        store.write("prod", {"lattice": "x"})
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(ContextError, match="did you mean 'prod'") as caught:
        store.read("prdo")
    assert caught.value.code is Code.NOT_FOUND


@pytest.mark.parametrize("name", ["", "a/b", "../x", ".hidden", "a b", "x" * 65, "-x"])
def test_a_name_that_could_be_a_path_or_an_option_is_refused(store: ContextStore, name: str) -> None:
    with pytest.raises(ContextError):
        store.write(name, {"lattice": "x"})
    with pytest.raises(ContextError):
        store.read(name)


def test_a_file_of_the_classic_command_line_is_understood(store: ContextStore) -> None:
    store.folder.mkdir(parents=True)
    classic = {
        "name": "old",
        "cluster_seed": CLUSTER.seed,
        "ctl_host": "nats.example",
        "ctl_port": 4333,
        "ctl_jwt": "",
        "ctl_credsfile": "/home/me/x.creds",
        "ctl_timeout": 2000,
        "lattice_prefix": "shop",
        "rpc_host": "127.0.0.1",
        "rpc_port": 4222,
        "js_domain": None,
    }
    (store.folder / "old.json").write_text(json.dumps(classic))
    bundle = store.read("old")
    assert (bundle.nats_url, bundle.lattice, bundle.credentials) == (
        "nats://nats.example:4333",
        "shop",
        "/home/me/x.creds",
    )
    assert bundle.cluster_seed == CLUSTER.seed
    assert CLUSTER.seed not in repr(bundle)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("latice: x", "did you mean lattice"),
        ("lattice: [a]", "lattice is not a text"),
        ("- a", "name: value"),
        ("a: b: c", "prod.yaml:1:"),
        ("[" * 20_000, "nested too deeply"),
        ("lattice: 2001-99-99", "a value cannot be read"),
        ("lattice: " + "1" * 5000, "a value cannot be read"),
        ("lattice: !!python/object/apply:os.system [id]", "prod.yaml:1:"),
        ('lattice: "\\ud800"', "surrogate"),
        ("lattice: x\n" + "#" * 70_000, "larger than"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_with_the_reason(store: ContextStore, content: str, words: str) -> None:
    store.folder.mkdir(parents=True)
    (store.folder / "prod.yaml").write_text(content)
    with pytest.raises(ContextError, match=words):
        store.read("prod")


def test_the_project_file_names_files_from_its_own_folder(store: ContextStore, tmp_path: Path) -> None:
    store.write("prod", {"nats_url": "nats://prod:1", "lattice": "prod"})
    (tmp_path / ".wasmhost.yaml").write_text("context: prod\nlattice: mine\ncluster_seed_file: keys/c.nk\n")
    context = App().context()
    assert (context.nats_url, context.lattice) == ("nats://prod:1", "mine")
    assert context.cluster_seed == str(tmp_path / "keys/c.nk")


# -- the commands


def ended(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = run(arguments)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_contexts_are_made_listed_chosen_and_removed(
    store: ContextStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seed, creds = tmp_path / "c.nk", tmp_path / "u.creds"
    seed.write_text(CLUSTER.seed)
    creds.write_text(CREDENTIALS)
    assert "no contexts" in ended(capsys, "ctx", "list")[2]
    files = ["--cluster-seed", "c.nk", "--creds", str(creds)]
    code, out, _ = ended(capsys, "ctx", "new", "prod", "--nats-url", "nats://p:1", "-x", "shop", *files)
    assert (code, "made context prod" in out) == (0, True)
    assert ended(capsys, "ctx", "new", "lab", "--nats-url", "nats://l:1", "--default")[0] == 0
    listed = json.loads(ended(capsys, "ctx", "list", "-o", "json")[1])
    assert listed["default"] == "lab"
    assert [(c["name"], c["default"], c["lattice"]) for c in listed["contexts"]] == [
        ("lab", True, None),
        ("prod", False, "shop"),
    ]
    assert listed["contexts"][1]["cluster_seed_file"] == str(seed)
    code, out, err = ended(capsys, "ctx", "list")
    assert "lab*" in out and "at nats://l:1, after context 'lab'" in err
    assert max(map(len, out.splitlines())) <= 80
    assert ended(capsys, "ctx", "default", "prod")[0] == 0
    assert ended(capsys, "ctx", "default")[1] == "prod\n"
    assert "there is none now" in ended(capsys, "ctx", "del", "prod")[2]
    assert ended(capsys, "ctx", "del", "prod")[0] == 3
    assert ended(capsys, "ctx", "default", "prod")[0] == 3
    assert CLUSTER.seed not in (store.folder / "lab.yaml").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["new", "x"], 2, "says nothing"),
        (["new", "x", "--nats-url", "http://x"], 2, "no NATS address"),
        (["new", "x", "-x", "a.b"], 2, "lattice name"),
        (["new", "x", "--cluster-seed", CLUSTER.seed], 2, "names no file"),
        (["new", "x", "--creds", "/nowhere"], 2, "no NATS credentials file"),
        (["default", "nope"], 3, "no context is called 'nope'"),
    ],
)
def test_what_cannot_be_a_context_is_refused(
    store: ContextStore, capsys: pytest.CaptureFixture[str], arguments: list[str], code: int, words: str
) -> None:
    ended_with, _, err = ended(capsys, "ctx", *arguments)
    assert ended_with == code
    assert words in err
    assert CLUSTER.seed not in err
    assert store.names() == []


def test_a_default_context_that_is_gone_is_told_with_the_way_out(
    store: ContextStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.write("prod", {"lattice": "x"})
    store.set_default("prod")
    (store.folder / "prod.yaml").unlink()
    code, _, err = ended(capsys, "get", "hosts")
    assert code == 3
    assert "ctx default --none" in err
    assert ended(capsys, "ctx", "default", "--none")[0] == 0
    assert store.default() is None


def test_a_context_gives_a_host_its_settings_below_flags(
    store: ContextStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "c.nk").write_text(CLUSTER.seed)
    members = {"nats_url": "nats://p:1", "lattice": "shop", "ctl_prefix": "p.ctl"}
    store.write("prod", {**members, "cluster_seed_file": str(tmp_path / "c.nk")})
    for by_flag in (True, False):
        app = App(context_name="prod" if by_flag else "")
        monkeypatch.setenv("WASMHOST_CONTEXT", "" if by_flag else "prod")
        monkeypatch.setenv("WASMCLOUD_LATTICE", "env")
        config = load(*app.for_host({"nats_url": None, "name": "second"}))
        assert (config.control.url, config.ctl_prefix, config.name) == ("nats://p:1", "p.ctl", "second")
        assert config.lattice == ("shop" if by_flag else "env")
        assert config.cluster_seed == CLUSTER.seed
    store.set_default("prod")
    monkeypatch.delenv("WASMHOST_CONTEXT")
    assert load(*App().for_host({})).control.url == "nats://127.0.0.1:4222", "a default is for commands"
