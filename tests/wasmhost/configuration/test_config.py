"""Settings from flags, environment and files."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from lattice.keys import KeyPair, Role
from wasmhost.configuration.config import ConfigError, HostConfig, NatsEndpoint, load
from wasmhost.configuration.settings import SECRET_VARIABLES

HOST = KeyPair.from_raw(Role.HOST, bytes([2]) * 32)
CLUSTER = KeyPair.from_raw(Role.CLUSTER, bytes([1]) * 32)
ACCOUNT = KeyPair.from_raw(Role.ACCOUNT, bytes([5]) * 32)
USER = KeyPair.from_raw(Role.USER, bytes([6]) * 32)


@pytest.fixture(autouse=True)
def _empty_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def environ(tmp_path: Path, **variables: str) -> dict[str, str]:
    return {"HOME": str(tmp_path), **variables}


def problems(flags: dict[str, object], variables: dict[str, str], file: Path | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(flags, variables, file)
    return caught.value.problems


def test_without_any_source_the_classic_defaults_hold(tmp_path: Path) -> None:
    config = load({}, environ(tmp_path))
    assert (config.lattice, config.ctl_prefix) == ("default", "wasmbus.ctl")
    assert config.rpc == config.control == config.providers == NatsEndpoint(url="nats://127.0.0.1:4222")
    assert (config.rpc_timeout, config.provider_shutdown_delay) == (2.0, 0.3)
    assert config.local and not config.allow_file_load and config.provider_keys == "derived"
    assert config.trusted_issuers == frozenset()
    assert set(config.labels) == {"hostcore.arch", "hostcore.os", "hostcore.osfamily"}
    assert config.paths.host == tmp_path / ".local/state/wasmhost/hosts/default"


def test_a_flag_wins_over_the_environment_which_wins_over_the_files(tmp_path: Path) -> None:
    (tmp_path / "host_config.json").write_text(json.dumps({"lattice_prefix": "project", "js_domain": "project"}))
    user = tmp_path / ".config/wasmhost/host.yaml"
    user.parent.mkdir(parents=True)
    user.write_text("js_domain: user\nrpc_timeout_ms: 3500\n")
    variables = environ(tmp_path, WASMCLOUD_LATTICE_PREFIX="env")
    assert load({"lattice": "flag"}, variables).lattice == "flag"
    assert load({"lattice": None}, variables).lattice == "env"
    config = load({}, environ(tmp_path))
    assert (config.lattice, config.js_domain, config.rpc_timeout) == ("project", "project", 3.5)


def test_every_problem_of_every_source_is_reported_at_once_with_an_example(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("lattise: prod\nprovider_keys: derivd\n")
    found = problems(
        {"lattice": "not a token"},
        environ(tmp_path, WASMCLOUD_RPC_TIMEOUT_MS="soon", WASMCLOUD_ALLOW_FILE_LOAD="perhaps"),
        file,
    )
    text = "\n".join(found)
    assert len(found) == 5
    assert "WASMCLOUD_RPC_TIMEOUT_MS: 'soon' is not a number of milliseconds (example: 2000)" in found
    assert "--lattice: 'not a token' may only hold letters" in text
    assert "did you mean lattice?" in text
    assert "did you mean derived?" in text


def test_a_wrong_seed_is_reported_without_its_value(tmp_path: Path) -> None:
    (found,) = problems({}, environ(tmp_path, WASMCLOUD_HOST_SEED=CLUSTER.seed))
    assert found.startswith("WASMCLOUD_HOST_SEED: not a host seed; those start with SN")
    assert "value hidden" in found and CLUSTER.seed not in found
    (found,) = problems({}, environ(tmp_path, WASMHOST_TRUSTED_ISSUERS=ACCOUNT.seed))
    assert ACCOUNT.seed not in found


def test_seeds_appear_in_no_repr(tmp_path: Path) -> None:
    config = load(
        {},
        environ(
            tmp_path,
            WASMCLOUD_HOST_SEED=HOST.seed,
            WASMCLOUD_CLUSTER_SEED=CLUSTER.seed,
            WASMCLOUD_RPC_SEED=USER.seed,
        ),
    )
    assert (config.host_seed, config.cluster_seed, config.rpc.seed) == (HOST.seed, CLUSTER.seed, USER.seed)
    assert not [key for key in (HOST, CLUSTER, USER) if key.seed in repr(config)]


def test_each_connection_falls_back_to_the_general_address(tmp_path: Path) -> None:
    variables = environ(tmp_path, NATS_HOST="nats.example", WASMCLOUD_CTL_PORT="4333", WASMCLOUD_PROV_RPC_TLS="1")
    config = load({}, variables)
    assert config.rpc.url == "nats://nats.example:4222"
    assert config.control.url == "nats://nats.example:4333"
    assert config.providers.url == "tls://nats.example:4222"
    nearer = load({"nats_url": "nats://[::1]:9"}, variables)
    assert {nearer.rpc.url, nearer.control.url, nearer.providers.url} == {"nats://[::1]:9"}


def test_trusted_accounts_come_from_repeated_flags_or_one_comma_list(tmp_path: Path) -> None:
    other = KeyPair.from_raw(Role.ACCOUNT, bytes([7]) * 32)
    both = frozenset({ACCOUNT.public, other.public})
    assert load({"trust": (ACCOUNT.public, other.public)}, environ(tmp_path)).trusted_issuers == both
    listed = environ(tmp_path, WASMHOST_TRUSTED_ISSUERS=f"{ACCOUNT.public}, {other.public}")
    assert load({}, listed).trusted_issuers == both


def test_no_setting_and_no_seed_becomes_a_label(tmp_path: Path) -> None:
    variables = environ(
        tmp_path,
        HOST_CONFIG="",
        HOST_Zone="eu",
        WASMCLOUD_HOST_Rack="7",
        WASMCLOUD_LABEL_gpu="yes",
        WASMCLOUD_HOST_SEED=HOST.seed,
        HOST_KEY=CLUSTER.seed,
        HOST_NOTE=f"take {CLUSTER.seed}, it works",
        **{"HOST_HOSTCORE.OS": "plan9"},
    )
    labels = load({"label": ("zone=us",)}, variables).labels
    assert labels["zone"] == "us" and labels["Rack"] == "7" and labels["gpu"] == "yes"
    assert labels["hostcore.os"] != "plan9"
    assert not set(labels) & {"SEED", "seed", "config", "key", "note"}
    assert not [value for value in labels.values() if "SC" in value or "SN" in value]


def test_log_levels_of_classic_hosts_are_understood(tmp_path: Path) -> None:
    for text, level in {"WARN": "warning", "trace": "debug", "critical": "error", "info": "info"}.items():
        assert load({}, environ(tmp_path, WASMCLOUD_LOG_LEVEL=text)).log_level == level


def test_a_named_file_must_exist_and_be_readable(tmp_path: Path) -> None:
    assert "no such file" in problems({}, environ(tmp_path), tmp_path / "missing.json")[0]
    broken = tmp_path / "broken.yaml"
    broken.write_text("lattice: [")
    assert f"{broken}:1:" in problems({}, environ(tmp_path, HOST_CONFIG=str(broken)))[0]
    broken.write_text("- a\n- b\n")
    assert "not a list" in problems({}, environ(tmp_path), broken)[0]


def test_secret_variables_are_known_by_name() -> None:
    assert {
        "WASMCLOUD_HOST_SEED",
        "WASMCLOUD_CLUSTER_SEED",
        "WASMCLOUD_RPC_SEED",
        "WASMCLOUD_CTL_JWT",
    } <= SECRET_VARIABLES


def test_the_configuration_is_frozen(tmp_path: Path) -> None:
    config: HostConfig = load({}, environ(tmp_path))
    with pytest.raises(AttributeError):
        config.lattice = "other"  # type: ignore[misc]


def test_what_was_given_can_be_handed_on_as_a_file(tmp_path: Path) -> None:
    from wasmhost.configuration.settings import resolve

    variables = environ(
        tmp_path,
        WASMCLOUD_LATTICE="mine",
        WASMHOST_TRUSTED_ISSUERS=ACCOUNT.public,
        WASMCLOUD_RPC_HOST="nats.example",
        WASMCLOUD_RPC_PORT="4333",
        WASMCLOUD_CLUSTER_SEED=CLUSTER.seed,
        WASMHOST_NO_LOCAL="yes",
        WASMCLOUD_RPC_TIMEOUT_MS="2500",
        WASMHOST_ACTOR_MEMORY_MIB="32",
    )
    flags = {"label": ("zone=a",), "log_level": "debug", "state": str(tmp_path / "state")}
    file = tmp_path / "settings.json"
    file.write_text(json.dumps(resolve(flags, variables, None).document()))
    assert load({}, environ(tmp_path), file) == load(flags, variables)


def test_a_file_called_dash_is_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("lattice: piped\n"))
    assert load({}, environ(tmp_path), Path("-")).lattice == "piped"


@pytest.mark.parametrize(
    ("flag", "variable", "expected"),
    [(None, None, None), ("True", None, True), ("False", "true", False), (None, "false", False), (None, "true", True)],
)
def test_the_form_of_log_lines_is_settled_only_by_somebody(
    flag: str | None, variable: str | None, expected: bool | None
) -> None:
    environ = {"HOME": "/nowhere"} | ({"WASMCLOUD_STRUCTURED_LOGGING_ENABLED": variable} if variable else {})
    assert load({"structured_logging": flag}, environ).structured_logging is expected


def test_of_a_credentials_file_and_a_seed_the_nearer_one_counts(tmp_path: Path) -> None:
    """And a user of one connection before that of all, where they are equally near."""
    variables = environ(
        tmp_path, NATS_CREDS="/all.creds", WASMCLOUD_RPC_SEED=USER.seed, WASMCLOUD_CTL_CREDS="/ctl.creds"
    )
    config = load({}, variables)
    assert (config.rpc.credentials, config.rpc.seed) == ("", USER.seed)
    assert (config.control.credentials, config.control.seed) == ("/ctl.creds", "")
    assert (config.providers.credentials, config.providers.seed) == ("/all.creds", "")
    nearer = load({"nats_creds": "/flag.creds"}, variables)
    assert {nearer.rpc.credentials, nearer.control.credentials, nearer.providers.credentials} == {"/flag.creds"}
    assert nearer.rpc.seed == ""
    assert load({}, environ(tmp_path, NATS_CREDS="~/u.creds")).rpc.credentials.startswith(str(Path.home()))


def test_each_connection_has_tls_files_and_an_inbox_of_its_own(tmp_path: Path) -> None:
    variables = environ(
        tmp_path,
        WASMHOST_NATS_TLS_CA="/ca.pem",
        WASMHOST_RPC_TLS_CERT="/rpc.pem",
        WASMHOST_PROV_RPC_TLS_CERT="/{provider}.pem",
        WASMHOST_PROV_RPC_INBOX_PREFIX="_INBOX_providers.{provider}",
        WASMCLOUD_PROV_RPC_CREDS="/{provider}.creds",
    )
    config = load({}, variables)
    assert {each.tls.ca for each in (config.rpc, config.control, config.providers)} == {"/ca.pem"}
    assert (config.rpc.tls.certificate, config.control.tls.certificate) == ("/rpc.pem", "")
    assert (config.rpc.inbox_prefix, config.providers.names_provider, config.rpc.names_provider) == (
        "_INBOX",
        True,
        False,
    )
    of_one = config.providers.of_provider("VX")
    assert (of_one.credentials, of_one.tls.certificate, of_one.inbox_prefix) == (
        *("/VX.creds", "/VX.pem"),
        "_INBOX_providers.VX",
    )


def test_placeholders_and_inboxes_that_would_not_work_are_refused(tmp_path: Path) -> None:
    found = problems(
        {"nats_creds": "/{provider}.creds"},
        environ(
            tmp_path,
            WASMCLOUD_PROV_RPC_CREDS="/{host}.creds",
            WASMHOST_RPC_INBOX_PREFIX="replies",
            WASMHOST_CTL_INBOX_PREFIX="_INBOX.*",
        ),
    )
    assert len(found) == 4
    text = "\n".join(found)
    assert "'{provider}' in '/{provider}.creds' means nothing here" in text
    assert "'{host}' in '/{host}.creds' means nothing here; {provider} does" in text
    assert "'replies' does not begin with _INBOX" in text


def test_the_connections_of_a_host_are_those_of_its_further_hosts(tmp_path: Path) -> None:
    """As `up --hosts` hands them over, in one document without the general settings they came from."""
    variables = environ(tmp_path, NATS_CREDS="/all.creds", WASMHOST_NATS_TLS_CA="/ca.pem", NATS_HOST="nats.example")
    config = load({"nats_inbox_prefix": "_INBOX_x"}, variables)
    document: dict[str, str] = {}
    for kind, endpoint in (("rpc", config.rpc), ("ctl", config.control), ("prov_rpc", config.providers)):
        document |= endpoint.settings(kind)
    file = tmp_path / "given.json"
    file.write_text(json.dumps(document))
    again = load({}, environ(tmp_path), file)
    assert (again.rpc, again.control, again.providers) == (config.rpc, config.control, config.providers)
