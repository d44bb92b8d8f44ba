"""The flags that the classic Rust host is started with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lattice.keys import KeyPair, Role
from wasmhost.cli.classic_host import SWITCHES, TEXTS
from wasmhost.cli.daemon import host
from wasmhost.configuration.config import HostConfig, load


def configured(folder: Path, *arguments: str) -> HostConfig:
    """What a host started with these arguments would be, without an environment."""
    flags = host.make_context("host", list(arguments)).params
    flags.pop("file", None)
    known = {name: value for name, value in flags.items() if name not in ("context", "output")}
    return load(known, {"HOME": str(folder), "WASMHOST_STATE": str(folder)})


def test_a_host_takes_the_flags_of_a_classic_one(tmp_path: Path) -> None:
    seed = KeyPair.generate(Role.USER).seed
    config = configured(
        tmp_path,
        *("--lattice-prefix", "shop", "--nats-host", "n1", "--nats-port", "4333"),
        *("--ctl-host", "n2", "--ctl-jwt", "j", "--ctl-seed", seed, "--ctl-topic-prefix", "a.ctl", "--ctl-tls"),
        *("--rpc-port", "4555", "--prov-rpc-host", "n3", "--provider-shutdown-delay", "500"),
        *("--enable-structured-logging", "--config-service-enabled", "-l", "zone=a", "-l", "rack=b"),
        *("--rpc-timeout-ms", "1500", "--js-domain", "edge", "--log-level", "debug"),
    )
    assert (config.lattice, config.ctl_prefix, config.js_domain) == ("shop", "a.ctl", "edge")
    assert config.rpc.url.endswith("n1:4555") and config.providers.url.endswith("n3:4333")
    assert config.control.url == "tls://n2:4333"
    assert (config.control.jwt, config.control.seed) == ("j", seed)
    assert (config.provider_shutdown_delay, config.rpc_timeout) == (0.5, 1.5)
    assert config.structured_logging is True and config.config_service
    assert (config.labels["zone"], config.labels["rack"]) == ("a", "b")


@pytest.mark.parametrize("name", [*TEXTS, *SWITCHES])
def test_every_one_of_them_is_a_setting_and_none_is_in_the_help(tmp_path: Path, name: str) -> None:
    value = {"port": "4", "jwt": "j", "host": "h", "prefix": "p", "delay": "1"}
    last = name.rpartition("-")[2]
    given = [] if name in SWITCHES else [KeyPair.generate(Role.USER).seed if last == "seed" else value[last]]
    assert configured(tmp_path, f"--{name}", *given) != configured(tmp_path)
    assert f"--{name} " not in host.get_help(host.make_context("host", []))
