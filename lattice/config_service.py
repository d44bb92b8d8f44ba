"""What a configuration service tells a host that starts: logins for registries, and what to start.

Source: lattice protocol §7.5 in wasmcloud-otp (``vhost/config_service``) and RH, which takes the logins only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from lattice.document import Document
from lattice.subjects import DEFAULT_LINK_NAME


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfiguration:
    """The answer; all members are optional."""

    registry_credentials: Mapping[str, Any] | None = None
    """As the body of ``registries.put``."""
    actors: tuple[str, ...] = ()
    """Image references."""
    providers: tuple[tuple[str, str], ...] = ()
    """Image references and link names."""

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """Raise MalformedMessage, and nothing else."""
        fields = Document.parse("configuration of the host", data)
        return cls(
            registry_credentials=fields.raw("registryCredentials") or None,
            actors=fields.texts("autoStartActors"),
            providers=tuple(
                (provider.required_text("imageReference"), provider.text("linkName") or DEFAULT_LINK_NAME)
                for provider in fields.documents("autoStartProviders")
            ),
        )
