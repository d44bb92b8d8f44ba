"""The list of revocations as this host knows it: agreed on by the hosts, in its settings, and remembered on its disk.

The entries of the lattice live in the bucket of the hosts. What was heard of them is kept in the state folder, so that
a host that starts without JetStream refuses what it refused before. An entry ends by another one that lifts it, never
by being deleted: a bucket that was lost must not let anything run again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

import structlog

from lattice import document
from lattice.background import Background
from lattice.claims import ActorClaims, ClaimsRefused, Problem, ProviderClaims
from lattice.document import Document
from lattice.errors import LatticeError, MalformedMessage
from lattice.revocation import PREFIX, Revocation
from wasmhost.knowledge.lattice_state import LatticeState
from wasmhost.private_files import StateError, read_private, replace_file

log = structlog.get_logger(__name__)


class Revocations:
    """Looks up, adds and lifts revocations. Look-ups never wait."""

    def __init__(self, fixed: Collection[Revocation] = (), remembered: Path | None = None) -> None:
        """``fixed`` come from the settings and cannot be lifted; ``remembered`` is the file of what was heard."""
        self.on_revoked: Callable[[Revocation], None] = lambda _entry: None
        """Called for each revocation that is news to this host. Must not wait."""
        self._fixed = tuple(fixed)
        self._remembered = remembered
        self._entries: dict[str, Revocation] = {}
        self._state: LatticeState | None = None
        self._forget: Callable[[], None] = lambda: None
        self._restoring = Background()

    def open(self, state: LatticeState) -> None:
        """Read what was remembered, and follow the bucket of the hosts."""
        self._entries = self._read()
        self._state = state
        self._forget = state.on_change(PREFIX, self._on_change)
        for key, entry in self._entries.items():
            if state.get(key) is None:  # the bucket is new, or there is none yet
                self._restore(entry)

    async def close(self) -> None:
        self._forget()
        await self._restoring.end()

    def all(self) -> list[Revocation]:
        """Those in force, the ones of the settings first."""
        return [*self._fixed, *(entry for entry in self._entries.values() if not entry.lifted)]

    def is_fixed(self, key: str) -> bool:
        """Whether the settings of this host say so."""
        return any(entry.key == key for entry in self._fixed)

    def find(self, claims: ActorClaims | ProviderClaims) -> Revocation | None:
        """The first revocation that covers these claims."""
        return next((entry for entry in self.all() if entry.covers(claims)), None)

    def check(self, claims: ActorClaims | ProviderClaims) -> None:
        """Raise ClaimsRefused for what was revoked."""
        entry = self.find(claims)
        if entry is not None:
            raise refusal(entry, claims)

    async def put(self, entry: Revocation) -> None:
        """Add or lift one, for all hosts of the lattice.

        A revocation is in force on this host in any case. Raises LatticeError when it cannot be stored for the others.
        """
        state, known = self._state, self._is_known(entry)
        if state is None or not entry.lifted:
            self._set(entry.key, entry)
        if state is None or known:
            return
        try:
            await state.put(entry.key, entry.encode())
        except LatticeError as error:
            extent = "not lifted" if entry.lifted else "in force on this host only"
            raise LatticeError(f"{extent}, as it cannot be stored: {error}", code=error.code) from error

    def _is_known(self, entry: Revocation) -> bool:
        """Whether another host has spread it already: the time it was made at is no news."""
        known = self._entries.get(entry.key)
        shared = self._state is not None and self._state.get(entry.key) is not None
        return shared and known is not None and (known.lifted, known.reason) == (entry.lifted, entry.reason)

    def _on_change(self, key: str, value: bytes | None) -> None:
        if value is None:
            known = self._entries.get(key)
            if known is not None and not known.lifted:
                log.warning("revocations.entry_lost", key=key, hint="it stays in force; lift it to end it")
                self._restore(known)
            return
        try:
            entry = Revocation.decode(value)
            if entry.key != key:
                raise MalformedMessage("revocation: the key is not that of its content")
        except MalformedMessage as error:
            log.warning("revocations.entry_malformed", key=key[:200], reason=str(error))
            return
        self._set(key, entry)

    def _set(self, key: str, entry: Revocation) -> None:
        if self._entries.get(key) == entry:
            return
        known = self._entries.get(key)
        self._entries[key] = entry
        self._write()
        log.warning("revocations.changed", id=entry.id, revision=entry.revision, lifted=entry.lifted)
        if not entry.lifted and (known is None or known.lifted):
            self.on_revoked(entry)

    def _restore(self, entry: Revocation) -> None:
        """Put back what vanished without having been lifted."""
        state = self._state
        assert state is not None

        async def put() -> None:
            try:
                await state.put(entry.key, entry.encode())
            except LatticeError as error:
                log.warning("revocations.not_restored", key=entry.key, reason=str(error))

        self._restoring.begin(put(), "revocation back")

    def _read(self) -> dict[str, Revocation]:
        if self._remembered is None or not self._remembered.exists():
            return {}
        try:
            fields = Document.parse("remembered revocations", read_private(self._remembered))
            entries = [Revocation.from_dict(item) for item in fields.items("revocations")]
        except (OSError, StateError, MalformedMessage) as error:
            log.error("revocations.not_remembered", file=str(self._remembered), reason=str(error))
            return {}
        return {entry.key: entry for entry in entries}

    def _write(self) -> None:
        if self._remembered is None:
            return
        content = document.encode({"revocations": [entry.to_dict() for entry in self._entries.values()]})
        try:
            replace_file(self._remembered, content)
        except OSError as error:
            log.error("revocations.not_written", file=str(self._remembered), reason=error.strerror or str(error))


def refusal(entry: Revocation, claims: ActorClaims | ProviderClaims) -> ClaimsRefused:
    """Why something that is revoked may not run."""
    what = {"account": f"its account {entry.id}", "token": f"its token {entry.id}"}.get(entry.kind, "it")
    which = "" if entry.revision is None else f" in revision {entry.revision}"
    reason = f" ({entry.reason})" if entry.reason else ""
    return ClaimsRefused(
        Problem.REVOKED,
        f"{claims.subject} may not run{which}: {what} was revoked{reason}; see `wasmhost claims revoked`",
    )
