"""The option that names a host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from wasmhost.cli import names as complete


def host_option(help_text: str) -> Callable[[Any], Any]:
    """``--host HOST``, also in the spelling of the classic client; the command gets it as ``host_text``."""
    return click.option(
        "--host", "--host-id", "host_text", metavar="HOST", shell_complete=complete.hosts, help=help_text
    )
