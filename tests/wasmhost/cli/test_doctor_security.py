"""`wasmhost doctor security`: what is open is found, with how to close it; what is closed is not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from lattice.keys import KeyPair, Role
from lattice.links import LinkDefinition
from lattice.security_report import Ending, Route, SecurityReport
from tests.support import actors
from tests.support.nats import NatsServer, free_port
from tests.support.operator import Operator, write_credentials
from tests.support.processes import Running, run, user_environment
from wasmhost.cli.doctor.findings import Finding, Level
from wasmhost.cli.doctor.security_checks import check_actor_calls, check_links, check_reports, own_route

DAY = 86_400


def examine(env: dict[str, str], *arguments: str, code: int) -> dict[str, list[dict[str, Any]]]:
    """The checks by name."""
    ended = run(["doctor", "security", "-o", "json", "--timeout", "1", *arguments], env=env)
    assert ended.returncode == code, ended.stdout + ended.stderr
    document = json.loads(ended.stdout)
    assert document["ok"] == (code == 0)
    found: dict[str, list[dict[str, Any]]] = {}
    for check in document["checks"]:
        found.setdefault(check["check"], []).append(check)
        assert check["level"] == "ok" or check["fix"], f"no way to close {check}"
    return found


@dataclass
class Place:
    """A host on a server of its own, with the environment of its user."""

    env: dict[str, str]
    host: Running
    folder: Path


@pytest.fixture(scope="module")
def careless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """Everything wrong that one host can have wrong, on a server that asks who connects."""
    folder = tmp_path_factory.mktemp("careless")
    env = user_environment(folder / "home")
    operator = Operator()
    server = NatsServer(folder / "nats", config=operator.config).start()
    creds = write_credentials(folder / "all.creds", *operator.user(expires=time.time() + 2 * DAY))
    creds.chmod(0o644)
    env |= {"WASMHOST_NATS_URL": server.url, "WASMHOST_NATS_CREDS": str(creds), "WASMCLOUD_LATTICE": "careless"}
    seeds = {"WASMCLOUD_CLUSTER_SEED": KeyPair.generate(Role.CLUSTER).seed}
    other = KeyPair.generate(Role.ACCOUNT)
    host = Running(
        [
            *("host", "--trust", actors.ACCOUNT.public, "--trust", other.public, "--allow-file-load"),
            *("--provider-keys", "cluster", "--allow-anonymous-nats"),
        ],
        env={**env, **seeds},
    )
    try:
        host.wait_for_output("host.started")
        (folder / "home" / ".local/state/wasmhost/hosts/default/host.nk").chmod(0o640)
        for name, account in (("first", actors.ACCOUNT), ("second", other)):
            wasm = actors.signed(actors.ECHO, name=name, account=account, expires=int(time.time()) + 5 * DAY)
            started = run(["start", "actor", actors.write(folder, wasm, f"{name}.wasm")], env=env)
            assert started.returncode == 0, started.stderr
        values = f"address=0.0.0.0:{free_port()}"
        assert run(["start", "provider", "bundled:httpserver"], env=env).returncode == 0
        put = run(["link", "put", "first", "bundled:httpserver", "wasmcloud:httpserver", values], env=env)
        assert put.returncode == 0, put.stderr
        yield Place(env, host, folder)
        assert host.stop() == 0
    finally:
        host.kill()
        server.stop()


def test_what_is_open_is_found_with_how_to_close_it(careless: Place) -> None:
    checks = examine(careless.env, code=1)
    text = {name: " ".join(f"{each['message']} -> {each['fix']}" for each in found) for name, found in checks.items()}
    levels = {name: {each["level"] for each in found} for name, found in checks.items()}
    assert "fix" in levels["users"] and "prov_rpc_creds" in text["users"], "one user for everything"
    assert "control and calls are one user" in text["users"]
    assert levels["inboxes"] == {"fix", "warn"} and "ctl_inbox_prefix" in text["inboxes"]
    assert levels["keys"] == {"fix"} and "--provider-keys cluster" in text["keys"]
    assert {"fix"} <= levels["files"] and "chmod go-rwx" in text["files"]
    assert "host.nk" in text["files"] and "all.creds" in text["files"] and "--allow-file-load" in text["files"]
    assert levels["environment"] == {"warn"} and "given WASMCLOUD_CLUSTER_SEED" in text["environment"], "wiped"
    assert "expires on" in text["nats users"] and "expires on" in text["claims"]
    assert "policy" in checks and "without TLS" in text["http"]
    assert levels["actor calls"] == {"warn"} and "2 accounts" in text["actor calls"]
    assert "fix" in levels["providers"] and "command hosts" in text["providers"]
    assert levels["nats"] == {"ok", "warn"}, "nobody without credentials is let in, but the host would not mind"
    assert levels["clocks"] == {"ok"}
    shown = run(["doctor", "security"], env=careless.env)
    assert shown.returncode == 1
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_a_server_for_development_is_a_warning_and_no_more(
    tmp_path: Path, nats_server: NatsServer, lattice: str
) -> None:
    env = user_environment(tmp_path / "home") | {"WASMHOST_NATS_URL": nats_server.url, "WASMCLOUD_LATTICE": lattice}
    checks = examine(env, code=0)
    assert (checks["nats"][0]["level"], "any user of this machine" in checks["nats"][0]["message"]) == ("warn", True)
    assert checks["files"][0]["level"] == "ok"
    assert "none answers" in checks["hosts"][0]["message"]
    settings = tmp_path / "home/.config/wasmhost/host.yaml"
    settings.parent.mkdir(parents=True)
    settings.write_text(f"cluster_seed: {KeyPair.generate(Role.CLUSTER).seed}\n")
    settings.chmod(0o644)
    assert str(settings) in examine(env, code=1)["files"][0]["message"]
    settings.chmod(0o600)
    assert examine(env, code=0)["files"][0]["level"] == "ok"


def test_a_server_that_is_not_there_fails_where_it_was_named(tmp_path: Path) -> None:
    env = user_environment(tmp_path / "home")
    assert examine(env, "--nats-url", f"nats://127.0.0.1:{free_port()}", code=1)["nats"][0]["level"] == "fail"


LOCAL = Route(server="nats://127.0.0.1:4222", local=True, asks=True, inbox="_INBOX_x.one")
SOUND = SecurityReport(
    host_id="N",
    friendly_name="one",
    control=replace(LOCAL, user="UA"),
    rpc=replace(LOCAL, user="UB"),
    providers=replace(LOCAL, user="/etc/{provider}.creds"),
    provider_keys="derived",
    trusted=("A1",),
)


def found(report: SecurityReport, silent: tuple[str, ...] = ()) -> dict[str, Level]:
    """The worst level of each check."""
    order = [Level.OK, Level.WARN, Level.FIX]
    worst: dict[str, Level] = {}
    for finding in check_reports([report], silent):
        before = worst.get(finding.check, Level.OK)
        worst[finding.check] = max(before, finding.level, key=order.index)
    return worst


def test_a_sound_host_has_nothing_open() -> None:
    assert set(found(SOUND).values()) == {Level.OK}
    assert {"tls", "users", "inboxes", "keys", "trust"} <= set(found(SOUND))


@pytest.mark.parametrize(
    ("change", "check", "level"),
    [
        ({"rpc": replace(SOUND.rpc, local=False, server="nats://10.0.0.1:4222")}, "tls", Level.FIX),
        ({"rpc": replace(SOUND.rpc, local=False, encrypted=True)}, "tls", Level.OK),
        ({"providers": replace(SOUND.providers, local=False)}, "tls", Level.FIX),
        ({"rpc": SOUND.control}, "users", Level.FIX),
        ({"providers": SOUND.control}, "users", Level.FIX),
        ({"providers": SOUND.rpc}, "users", Level.FIX),
        ({"providers": replace(LOCAL, user="UC")}, "users", Level.WARN),
        ({"control": replace(SOUND.control, inbox="_INBOX")}, "inboxes", Level.WARN),
        ({"control": replace(SOUND.control, expires=int(time.time()) - 5)}, "nats users", Level.FIX),
        ({"control": replace(SOUND.control, expires=int(time.time()) + DAY)}, "nats users", Level.WARN),
        ({"endings": (Ending(id="M1", name="old", expires=int(time.time()) - 5),)}, "claims", Level.FIX),
        ({"endings": (Ending(id="M1", name="soon", expires=int(time.time()) + DAY),)}, "claims", Level.WARN),
        ({"provider_keys": "cluster"}, "keys", Level.FIX),
        ({"trusted": ()}, "trust", Level.OK),
        ({"trusted": tuple("ABCDEF"), "policy": "some.topic"}, "trust", Level.WARN),
        ({"development_account": "A1"}, "trust", Level.WARN),
        ({"trusted": ("A1", "A2")}, "policy", Level.WARN),
        ({"trusted": ("A1", "A2"), "policy": "some.topic"}, "policy", Level.OK),
        ({"allow_file_load": True}, "files", Level.WARN),
        ({"allow_anonymous_nats": True}, "nats", Level.WARN),
        ({"environment": ("WASMCLOUD_HOST_SEED",)}, "environment", Level.FIX),
        ({"environment": ("WASMCLOUD_RPC_SEED",)}, "environment", Level.WARN),
        ({"wiped_environment": ("WASMCLOUD_HOST_SEED",)}, "environment", Level.WARN),
        ({"exposed": ("/home/me/cluster.nk",)}, "files", Level.FIX),
    ],
)
def test_each_thing_that_a_host_tells_is_judged(change: dict[str, Any], check: str, level: Level) -> None:
    report = replace(SOUND, **change)
    assert SecurityReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
    assert found(report)[check] is level
    assert {name for name, worst in found(report).items() if worst is not Level.OK} <= {check}


def test_what_hosts_have_in_common_is_said_once() -> None:
    many = [replace(SOUND, friendly_name=name, provider_keys="cluster") for name in ("one", "two", "three", "four")]
    (told,) = [finding for finding in check_reports([*many, SOUND], ()) if finding.level is Level.FIX]
    assert told.message.startswith("one, two, three and 1 more: hands the cluster's seed")


def test_a_far_end_is_not_told_and_a_classic_host_excuses_the_cluster_key() -> None:
    later = replace(SOUND, endings=(Ending(id="M1", name="later", expires=int(time.time()) + 400 * DAY),))
    assert "claims" not in found(later)
    mixed = found(replace(SOUND, provider_keys="cluster"), silent=("old-host",))
    assert (mixed["keys"], mixed["other hosts"]) == (Level.WARN, Level.WARN)


def link(**values: str) -> LinkDefinition:
    return LinkDefinition(actor_id="M1", provider_id="V1", contract_id="wasmcloud:httpserver", values=values)


@pytest.mark.parametrize(
    ("values", "level"),
    [
        ({"address": "127.0.0.1:8080"}, Level.OK),
        ({"address": "localhost:8080"}, Level.OK),
        ({"address": "[::1]:8080"}, Level.OK),
        ({"port": "8080"}, Level.OK),
        ({"address": "0.0.0.0:8080"}, Level.WARN),
        ({"address": "[::]:8080"}, Level.WARN),
        ({"address": "10.1.2.3:8080"}, Level.WARN),
        ({"address": "0.0.0.0:8443", "cert_file": "/c.pem", "priv_key_file": "/k.pem"}, Level.OK),
    ],
)
def test_http_beyond_this_machine_wants_tls(values: dict[str, str], level: Level) -> None:
    (finding,) = check_links([link(**values)])
    assert finding.level is level


def test_who_may_call_whom() -> None:
    def judged(actors: dict[str, str], *reports: SecurityReport) -> Finding:
        return check_actor_calls(actors, reports)

    assert judged({"a": "A1"}).level is Level.OK
    assert judged({"a": "A1", "b": "A1"}, SOUND).level is Level.OK
    open_to_all = judged({"a": "A1", "b": "A2"}, SOUND)
    assert (open_to_all.level, "any of a, b may call any other" in open_to_all.message) == (Level.WARN, True)
    deciding = replace(SOUND, policy="some.topic", policy_calls=True)
    assert judged({"a": "A1", "b": "A2"}, deciding).level is Level.OK
    assert judged({"a": "A1", "b": "A2"}, deciding, SOUND).level is Level.WARN


def test_the_commands_own_way_to_the_server() -> None:
    assert own_route("nats://10.0.0.1:4222", encrypted=False, local=False).level is Level.FIX
    assert own_route("nats://10.0.0.1:4222", encrypted=True, local=False).level is Level.OK
    assert own_route("nats://127.0.0.1:4222", encrypted=False, local=True).level is Level.OK
