"""Where commands look for their lattice, and in which order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lattice.keys import KeyPair, Role
from lattice.login import TlsFiles
from wasmhost.cli.classic import completed
from wasmhost.contexts.context import ContextError, UpRecord, process_ticks, resolve

USER = KeyPair.generate(Role.USER).seed
RECORD = UpRecord(pid=os.getpid(), nats_url="nats://127.0.0.1:7777", lattice="mine")


def test_without_anything_the_usual_address_and_lattice() -> None:
    context = resolve(environ={})
    assert (context.nats_url, context.lattice, context.timeout) == ("nats://127.0.0.1:4222", "default", 2.0)


def test_a_running_up_gives_address_and_lattice() -> None:
    context = resolve(environ={}, record=RECORD)
    assert (context.nats_url, context.lattice) == ("nats://127.0.0.1:7777", "mine")
    assert str(os.getpid()) in context.source


def test_the_environment_wins_over_a_running_up_whose_lattice_then_means_nothing() -> None:
    context = resolve(environ={"WASMCLOUD_CTL_HOST": "nats.example", "WASMCLOUD_CTL_PORT": "4333"}, record=RECORD)
    assert (context.nats_url, context.lattice) == ("nats://nats.example:4333", "default")


def test_a_flag_wins_over_the_environment() -> None:
    environ = {"WASMHOST_NATS_URL": "nats://a:1", "WASMCLOUD_LATTICE_PREFIX": "from-env"}
    context = resolve(environ=environ, record=RECORD, nats_url="nats://b:2", lattice="from-flag")
    assert (context.nats_url, context.lattice) == ("nats://b:2", "from-flag")


def test_variables_of_classic_tools_are_honoured() -> None:
    context = resolve(
        environ={
            "WASMCLOUD_CTL_HOST": "h",
            "WASMCLOUD_CTL_TLS": "1",
            "WASMCLOUD_CTL_JWT": "jwt",
            "WASMCLOUD_CTL_SEED": USER,
            "WASMCLOUD_CTL_TIMEOUT_MS": "500",
            "WASMCLOUD_RPC_TIMEOUT_MS": "1500",
            "WASMCLOUD_CTL_TOPIC_PREFIX": "my.ctl",
        }
    )
    assert context.nats_url == "tls://h:4222"
    assert (context.user_jwt, context.user_seed) == ("jwt", USER)
    assert (context.timeout, context.rpc_timeout, context.control_prefix) == (0.5, 1.5, "my.ctl")
    assert USER not in repr(context)


def test_every_unusable_variable_is_named_at_once() -> None:
    with pytest.raises(ContextError) as caught:
        resolve(environ={"WASMCLOUD_CTL_PORT": "many", "WASMCLOUD_RPC_TIMEOUT_MS": "soon", "WASH_CTL_CREDS": "/none"})
    message = str(caught.value)
    assert all(word in message for word in ("WASMCLOUD_CTL_PORT", "WASMCLOUD_RPC_TIMEOUT_MS", "WASH_CTL_CREDS"))


@pytest.mark.parametrize("url", ["http://x", "nats://", "nats://h:port", "nats://h:99999", "nats://a:1,ftp://b"])
def test_what_is_no_nats_address_is_refused(url: str) -> None:
    with pytest.raises(ContextError, match="no NATS address"):
        resolve(environ={}, nats_url=url)


def test_a_credentials_file_gives_token_and_seed(tmp_path: Path) -> None:
    path = tmp_path / "user.creds"
    path.write_text(
        "-----BEGIN NATS USER JWT-----\neyJ0\n------END NATS USER JWT------\n\n"
        f"-----BEGIN USER NKEY SEED-----\n{USER}\n------END USER NKEY SEED------\n"
    )
    context = resolve(environ={"WASH_CTL_CREDS": str(path)})
    assert (context.user_jwt, context.user_seed) == ("eyJ0", USER)


@pytest.mark.parametrize("seed", ["SUNONE", KeyPair.generate(Role.ACCOUNT).seed], ids=["garbage", "an account's"])
def test_a_seed_of_no_user_is_refused_with_where_it_came_from_and_not_shown(tmp_path: Path, seed: str) -> None:
    path = tmp_path / "user.nk"
    path.write_text(f"-----BEGIN NATS USER JWT-----\neyJ0\n-----BEGIN USER NKEY SEED-----\n{seed}\n")
    for environ, where in ({"WASH_CTL_CREDS": str(path)}, "WASH_CTL_CREDS"), ({"WASMCLOUD_CTL_SEED": seed}, "environ"):
        with pytest.raises(ContextError, match=f"{where}.*must begin with SU") as error:
            resolve(environ=environ)
        assert seed not in str(error.value)


def test_a_record_is_read_back_while_its_process_runs(tmp_path: Path) -> None:
    RECORD.write(tmp_path)
    assert UpRecord.read(tmp_path) == RECORD
    UpRecord.remove(tmp_path)
    assert UpRecord.read(tmp_path) is None


def test_the_record_of_a_process_that_is_gone_counts_for_nothing(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    UpRecord(pid=gone.pid, nats_url="nats://127.0.0.1:1", lattice="x").write(tmp_path)
    assert UpRecord.read(tmp_path) is None


def test_the_record_of_an_earlier_process_of_the_same_number_counts_for_nothing(tmp_path: Path) -> None:
    ticks = process_ticks(os.getpid())
    UpRecord(pid=os.getpid(), nats_url="nats://127.0.0.1:1", lattice="x", started_ticks=ticks + 1).write(tmp_path)
    assert UpRecord.read(tmp_path) is None


@pytest.mark.parametrize("content", ["", "[]", "{", '{"pid": "x"}', "null", '{"pid": -1, "nats_url": "a"}'])
def test_a_damaged_record_counts_for_nothing(tmp_path: Path, content: str) -> None:
    (tmp_path / "up.json").write_text(content)
    assert UpRecord.read(tmp_path) is None


def test_classic_flags_come_before_variables_and_name_the_whole_connection() -> None:
    environ = {
        "WASMCLOUD_CTL_HOST": "far",
        "WASMCLOUD_CTL_PORT": "4000",
        "WASMCLOUD_RPC_HOST": "rpc",
        "WASMCLOUD_CTL_TIMEOUT_MS": "9000",
    }
    typed = completed({"WASMCLOUD_CTL_PORT": "5000", "WASMCLOUD_CTL_TIMEOUT_MS": "500"}, environ)
    context = resolve(environ=environ, typed=typed)
    assert (context.nats_url, context.rpc_url, context.timeout) == ("nats://far:5000", "", 0.5)
    assert context.patience == 0.5, "a start, too, is waited for as long as was typed"
    assert resolve(environ=environ).patience is None, "what the environment says is about answers only"
    typed = completed({"WASMCLOUD_RPC_HOST": "near", "WASMCLOUD_RPC_PORT": "6000"}, environ)
    assert resolve(environ=environ, typed=typed).rpc_url == "nats://near:6000"
    assert resolve(environ=environ, typed=typed, nats_url="nats://other").nats_url == "nats://other"


def test_commands_beside_an_up_use_its_credentials_and_its_tls(tmp_path: Path) -> None:
    creds = tmp_path / "user.creds"
    creds.write_text(f"-----BEGIN NATS USER JWT-----\neyJ0\n-----BEGIN USER NKEY SEED-----\n{USER}\n")
    tls = TlsFiles(ca="/ca.pem", certificate="/me.pem", key="/me.key")
    record = UpRecord(
        pid=os.getpid(),
        nats_url="tls://127.0.0.1:7777",
        lattice="mine",
        credentials=str(creds),
        tls=tls,
        inbox_prefix="_INBOX_me",
    )
    record.write(tmp_path)
    assert UpRecord.read(tmp_path) == record
    options = resolve(environ={}, record=UpRecord.read(tmp_path)).options("test")
    assert (options.credentials, options.tls, options.inbox_prefix) == (str(creds), tls, "_INBOX_me")
    elsewhere = resolve(environ={}, record=record, nats_url="nats://other:1").options("test")
    assert (elsewhere.credentials, elsewhere.tls, elsewhere.inbox_prefix) == ("", TlsFiles(), "_INBOX")


def test_each_tls_file_is_that_of_the_nearest_source_a_key_that_of_its_certificate() -> None:
    environ = {
        "WASMHOST_NATS_TLS_CA": "/env-ca.pem",
        "WASMHOST_NATS_TLS_CERT": "/env.pem",
        "WASMHOST_CTL_TLS_KEY": "/env.key",
        "WASMHOST_RPC_TLS_CERT": "/rpc.pem",
        "WASMCLOUD_RPC_HOST": "rpc",
    }
    context = resolve(environ=environ, tls=TlsFiles(ca="/flag-ca.pem"))
    assert context.tls == TlsFiles(ca="/flag-ca.pem", certificate="/env.pem", key="/env.key")
    assert context.rpc_tls == TlsFiles(ca="/flag-ca.pem", certificate="/rpc.pem")
    assert resolve(environ=environ, tls=TlsFiles(certificate="/flag.pem")).tls.key == ""
    del environ["WASMCLOUD_RPC_HOST"]
    same = resolve(environ=environ | {"WASMCLOUD_CTL_JWT": "J", "WASMCLOUD_CTL_SEED": USER})
    assert (same.rpc_url, same.rpc_jwt, same.rpc_seed) == (same.nats_url, "J", USER), "for the same user"
