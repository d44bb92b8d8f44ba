"""The flags and argument orders of the classic command line, accepted beside ours.

Each flag stands for the environment variable that the classic client knows it by, and for more than that variable: what
is typed comes first. They are not in the help; `docs/commands.md` lists them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_FLAGS: tuple[tuple[tuple[str, ...], str], ...] = (
    (("-r", "--ctl-host"), "WASMCLOUD_CTL_HOST"),
    (("-p", "--ctl-port"), "WASMCLOUD_CTL_PORT"),
    (("--ctl-jwt",), "WASMCLOUD_CTL_JWT"),
    (("--ctl-seed",), "WASMCLOUD_CTL_SEED"),
    (("--ctl-credsfile",), "WASH_CTL_CREDS"),
    (("--rpc-host",), "WASMCLOUD_RPC_HOST"),
    (("--rpc-port",), "WASMCLOUD_RPC_PORT"),
    (("--rpc-jwt",), "WASMCLOUD_RPC_JWT"),
    (("--rpc-seed",), "WASMCLOUD_RPC_SEED"),
    (("--rpc-credsfile",), "WASH_RPC_CREDS"),
    (("--js-domain",), "WASMCLOUD_JS_DOMAIN"),
    (("-t", "--timeout-ms"), "WASMCLOUD_CTL_TIMEOUT_MS"),
    (("--rpc-timeout-ms",), "WASMCLOUD_RPC_TIMEOUT_MS"),
)
_NUMBERS = ("_PORT", "_MS")
_TOGETHER = (("WASMCLOUD_CTL_HOST", "WASMCLOUD_CTL_PORT"), ("WASMCLOUD_RPC_HOST", "WASMCLOUD_RPC_PORT"))


def connection_options(remember: Callable[[click.Context, str, str], None]) -> Callable[[F], F]:
    """Add the classic connection flags; ``remember(context, variable, value)`` is called for each that is typed."""

    def keep(variable: str) -> Callable[[click.Context, click.Parameter, Any], None]:
        def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
            if value is not None:
                remember(ctx, variable, str(value))

        return callback

    def add(command: F) -> F:
        for names, variable in _FLAGS:
            number = variable.endswith(_NUMBERS)
            command = click.option(
                *names,
                f"classic_{variable.lower()}",
                type=click.IntRange(1, 65535 if variable.endswith("_PORT") else None) if number else str,
                hidden=True,
                expose_value=False,
                callback=keep(variable),
            )(command)
        return command

    return add


def completed(typed: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """``typed`` where a host or a port was typed alone: the other half of the address is that of the environment."""
    found = dict(typed)
    for host, port in _TOGETHER:
        if host in found or port in found:
            for name in (host, port):
                if name not in found and environ.get(name, "").strip():
                    found[name] = environ[name]
    return found
