"""Logins for image registries, as ``registries.put`` hands them to every host of a lattice. Kept in memory only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from lattice.document import Document
from lattice.errors import Code, LatticeError, MalformedMessage

BAD_REGISTRIES: Final = "Failed to update registry credential map"
_MOST: Final = 1000
_LONGEST: Final = 16 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How to log in to one registry: user and password, or a token."""

    kind: str
    """``oci`` or ``bindle``."""
    username: str = ""
    password: str = field(default="", repr=False)
    token: str = field(default="", repr=False)


class Registries:
    """The logins that this host knows, by the exact name of the registry's host."""

    def __init__(self) -> None:
        self._known: dict[str, Credentials] = {}

    def find(self, registry: str) -> Credentials | None:
        """The login of exactly this host and port: a look-alike gets nothing."""
        return self._known.get(registry)

    def put(self, body: Any) -> int:
        """Merge the body of the command into what is known; how many logins it brought.

        Entries without any login are left out, as classic hosts do. Raises MalformedMessage.
        """
        fields = Document(BAD_REGISTRIES, body)
        brought: dict[str, Credentials] = {}
        for registry in fields.names():
            entry = fields.document(registry)
            login = Credentials(
                kind=entry.text("registryType") or "oci",
                username=entry.text("username"),
                password=entry.text("password"),
                token=entry.text("token"),
            )
            if login.kind not in ("oci", "bindle"):
                raise MalformedMessage(f"{entry.what}: registryType {login.kind[:20]!r} is neither oci nor bindle")
            if max(map(len, (registry, login.username, login.password, login.token))) > _LONGEST:
                raise MalformedMessage(f"{BAD_REGISTRIES}: a text is longer than {_LONGEST} characters")
            if login.username or login.password or login.token:
                brought[registry] = login
        if len(self._known | brought) > _MOST:
            raise LatticeError(f"{BAD_REGISTRIES}: a host knows at most {_MOST} registries", code=Code.TOO_LARGE)
        self._known.update(brought)
        return len(brought)

    def known(self) -> Mapping[str, str]:
        """Registry and user name of every login; no secret."""
        return {registry: login.username for registry, login in self._known.items()}
