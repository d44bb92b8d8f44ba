"""Which generation the key of each provider has. Raising it revokes the key that was handed out before.

The lattice agrees on it (:class:`wasmhost.knowledge.lattice_state.LatticeState`). A host never goes back to a lower
number, also when the bucket was lost or is out of reach: what it has heard of is kept in its own folder.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from lattice import subjects
from lattice.document import Document
from lattice.errors import Code, LatticeError, MalformedMessage
from lattice.keys import Role, require_key
from wasmhost.knowledge.lattice_state import LatticeState
from wasmhost.private_files import StateError, read_private, replace_file

log = structlog.get_logger(__name__)

PREFIX: Final = "generation."
FILE: Final = "generations.json"
_PLAIN: Final = re.compile(r"[A-Za-z0-9_-]+")
_HIGHEST: Final = 2**53


class Generations:
    """The generations as this host knows them; a provider that was never revoked has 0."""

    def __init__(self, state: LatticeState, file: Path | None = None) -> None:
        self.on_raised: Callable[[str, str], None] = lambda _provider, _link_name: None
        """Called with provider and link name after their generation rose, whoever raised it."""
        self._state = state
        self._file = file
        self._known: dict[tuple[str, str], int] = {}

    async def open(self) -> None:
        """Read what was kept, and follow the lattice from now on. What only this host knows is told to the others."""
        self._restore()
        self._state.on_change(PREFIX, self._on_change)
        for (provider, link_name), number in list(self._known.items()):
            if (self._read(key_of(provider, link_name), None) or 0) < number:
                try:
                    await self._state.change(key_of(provider, link_name), _at_least(provider, link_name, number))
                except LatticeError as error:
                    log.warning("generation.not_told", provider=provider, reason=str(error))

    def of(self, provider: str, link_name: str) -> int:
        return self._known.get((provider, link_name), 0)

    @property
    def all(self) -> Mapping[tuple[str, str], int]:
        """Every one that was raised, by provider and link name."""
        return dict(self._known)

    async def raise_for(self, provider: str, link_name: str) -> int:
        """Revoke the present key of a provider on all hosts of the lattice; the new generation. Raises LatticeError."""
        require_key(provider, Role.SERVICE, "provider")
        subjects.validate_link_name(link_name)
        if self._state.degraded:
            raise LatticeError(
                f"nothing was revoked: hosts agree on revocations through JetStream. {self._state.degraded}",
                code=Code.UNSUPPORTED,
            )
        number = self.of(provider, link_name) + 1
        key = key_of(provider, link_name)
        value = await self._state.change(key, _one_more(provider, link_name, number))
        return self._read(key, value) or number

    def _on_change(self, key: str, value: bytes | None) -> None:
        try:
            entry = None if value is None else Document.parse("generation", value)
            if entry is None:
                return  # what was revoked stays revoked
            provider, link_name = entry.required_text("provider"), entry.required_text("link_name")
            number = entry.count("generation")
            if key != key_of(provider, link_name) or number > _HIGHEST:
                raise MalformedMessage("generation: the entry does not fit its key")
        except MalformedMessage as error:
            log.warning("generation.malformed", key=key[:200], reason=str(error))
            return
        if number <= self.of(provider, link_name):
            return
        self._known[provider, link_name] = number
        self._keep()
        log.warning("provider.key_revoked", provider_id=provider, link_name=link_name, generation=number)
        self.on_raised(provider, link_name)

    def _read(self, key: str, value: bytes | None) -> int | None:
        value = self._state.get(key) if value is None else value
        try:
            return None if value is None else Document.parse("generation", value).count("generation")
        except MalformedMessage:
            return None

    def _keep(self) -> None:
        if self._file is None:
            return
        entries = [_entry(provider, link_name, number) for (provider, link_name), number in self._known.items()]
        try:
            replace_file(self._file, json.dumps(entries, indent=1).encode() + b"\n")
        except OSError as error:
            log.error("generation.not_kept", reason=str(error))  # it counts while this host runs, and is in the bucket

    def _restore(self) -> None:
        if self._file is None:
            return
        try:
            entries = json.loads(read_private(self._file))
            for entry in entries:
                fields = Document("generation", entry)
                key = fields.required_text("provider"), fields.required_text("link_name")
                self._known[key] = max(self.of(*key), fields.count("generation"))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, MalformedMessage) as error:
            raise StateError(
                f"{self._file} cannot be used: {error}; restore it, or delete it if no provider's key was ever revoked"
            ) from error


def key_of(provider: str, link_name: str) -> str:
    """The entry of a provider's generation; a link name that no key may hold is encoded."""
    plain = _PLAIN.fullmatch(link_name) is not None
    return f"{PREFIX}{provider}.{link_name if plain else '=' + base64.urlsafe_b64encode(link_name.encode()).decode()}"


def _entry(provider: str, link_name: str, number: int) -> dict[str, object]:
    return {"provider": provider, "link_name": link_name, "generation": number}


def _encoded(provider: str, link_name: str, number: int) -> bytes:
    return json.dumps(_entry(provider, link_name, number)).encode()


def _stored(value: bytes | None) -> int:
    try:
        return 0 if value is None else min(Document.parse("generation", value).count("generation"), _HIGHEST - 1)
    except MalformedMessage:
        return 0


def _one_more(provider: str, link_name: str, least: int) -> Callable[[bytes | None], bytes]:
    return lambda value: _encoded(provider, link_name, max(_stored(value) + 1, least))


def _at_least(provider: str, link_name: str, number: int) -> Callable[[bytes | None], bytes]:
    return lambda value: _encoded(provider, link_name, max(_stored(value), number))
