"""The flags of the classic Rust host, accepted by ``wasmhost host`` beside ours.

They stand for settings that have a variable, so they are not in the help; `docs/configuration.md` tells of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

_CONNECTIONS = ("ctl", "rpc", "prov-rpc")
TEXTS = (
    "lattice-prefix",
    "provider-shutdown-delay",
    *(f"nats-{part}" for part in ("host", "port", "jwt", "seed")),
    *(f"{connection}-{part}" for connection in _CONNECTIONS for part in ("host", "port", "jwt", "seed")),
)
"""Those that take a value."""
SWITCHES = ("config-service-enabled", "enable-structured-logging", *(f"{name}-tls" for name in _CONNECTIONS))


def classic_host_flags(command: F) -> F:
    """Add them; their names, with ``_``, are those of settings or other names of such."""
    for name in TEXTS:
        command = click.option(f"--{name}", metavar="VALUE", hidden=True)(command)
    for name in SWITCHES:
        command = click.option(f"--{name}", is_flag=True, hidden=True)(command)
    return command
